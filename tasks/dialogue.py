"""dialogue: which of four replies continues a dialogue (MuTual dev).

Source: Cui et al. 2020 (MuTual). "Chioces" is the released prompt's spelling.

Differs from the released code: the files are parsed as literals, never `eval`ed; the answer is the completion's first
word, a capital letter with or without brackets. as_released: the right letter occurs anywhere in the completion.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from core import readers as files
from core.types import Sample
from tasks._label import LabelTask


class Dialogue(LabelTask):
    name = "dialogue"
    file = "test-dialogue"
    choices = ("A", "B", "C", "D")
    match_case = True

    def samples(self, data: Path) -> Iterator[Sample]:
        letters = {letter: letter for letter in self.choices}
        for path, record in files.dialogues(data):
            where = str(path)
            a, b, c, d = files.strings(record, "options", where, count=4)
            prompt = (
                f"Q: {files.field(record, 'article', str, where)} Which choice is correct? "
                f"Answer Chioces: (A){a}(B){b}(C){c}(D){d} A: Among A through D, the answer is"
            )
            yield Sample(path.stem, prompt, files.label(files.field(record, "answers", str, where), letters, where))

    def released(self, text: str, gold: str) -> Mapping[str, float]:
        return {"as_released": float(gold in text)}


TASK = Dialogue()
