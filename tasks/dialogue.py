"""dialogue: which of four replies continues a dialogue (MuTual dev).

Source: Cui et al. 2020 (MuTual). "Chioces" is the released prompt's spelling.

Differs from the released code: the files are parsed as literals, never `eval`ed; the answer is the completion's first
word, a capital letter with or without brackets. The released scripts use two rules, both kept here: before an edit the
right letter has to occur anywhere in the completion (as_released_before_edit); after one the same, but a completion
with "Chi" counts as unanswered (as_released_after_edit): " Chi" is how GPT-2 begins the prompt's "Chioces".
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
            letter = files.label(files.field(record, "answers", str, where), letters, where)
            yield Sample(path.stem, prompt, letter, (letter,))

    def released(self, sample: Sample, seen: str) -> Mapping[str, float]:
        text = (sample.prompt + seen).split("the answer is")[-1]
        return {
            "as_released_before_edit": float(sample.reference in text),
            "as_released_after_edit": float(sample.reference in text and "Chi" not in text),
        }


TASK = Dialogue()
