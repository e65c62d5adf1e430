"""What the six tasks share that AlphaEdit's authors score edited models on (their `glue_eval`, 2024), zero-shot.

Five new tokens often hold more than a word (" The answer is True."), so the answer is the one label word that stands in
the completion's first line that is not blank: as a whole word, alone (not "True or False") and without a "not". The
measures are those of the other label tasks; then

    f1, mcc        weighted F1 and Matthews's correlation of these answers
    as_released    the weighted F1 that the released code calls `f1`: another way to read the same completions

Differs from the released code: there a word may stand anywhere in the text behind the prompt's last cue, in any case,
the words are tried in a fixed order, and "no" is found in "know". What holds none of them is a label of its own there,
-1, and so it is here, where it also counts as unanswered. Its `mcc` is of that reading. Its `f1_new` asks which word is
likelier by its mean token, choice_accuracy which is by its first token; both are the same for words of one token. The
prompts are the released ones without examples, and the number of new tokens is theirs.

The data hold the 100 records that number_of_tests = 100 takes there: those behind the first ten, which it keeps for
examples. Their order is the file's.
"""

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core import readers as files
from core.metrics import first_line
from core.types import Ratio, Sample, Scored
from tasks._label import LabelTask, read_label
from tasks.glue._agreement import agreement

INVALID = "-1"


class GlueTask(LabelTask):
    """One JSON object a line. A task says `keys` and `labels` of a record, its prompt, and the released reading."""

    max_new_tokens = 5
    label_key = "label"
    keys: tuple[str, ...] = ("sentence1", "sentence2")
    """Texts of a record."""
    labels: tuple[str, ...]
    """The label word of each number in a record."""
    template: str
    """The prompt, with the texts by their key."""
    cue: str
    """Behind its last occurrence the released code looks for a word."""
    heard: tuple[tuple[str, str], ...]
    """(What it looks for, the label word that it takes it for), in its order."""

    def samples(self, data: Path) -> Iterator[Sample]:
        for index, (where, record) in enumerate(files.jsonl(data)):
            prompt, label = self.template.format(**self.texts(record, where)), self.label(record, where)
            yield Sample(str(index), prompt, label, (label,))

    def texts(self, record: files.Record, where: str) -> dict[str, str]:
        """What stands in the prompt."""
        return {key: files.field(record, key, str, where) for key in self.keys}

    def label(self, record: files.Record, where: str) -> str:
        """The right label word."""
        number = files.field(record, self.label_key, int, where)
        return files.label(str(number), {str(i): word for i, word in enumerate(self.labels)}, where)

    def read(self, text: str) -> str | None:
        words = first_line(text.lstrip()).split()
        said = {read_label(word, self.choices, self.match_case) for word in words} - {None}
        denied = any(word.strip(string.punctuation).lower() == "not" for word in words)
        return said.pop() if len(said) == 1 and not denied else None

    def as_released(self, prompt: str, text: str) -> str:
        """The label word that the released code reads; INVALID if there is none."""
        said = (prompt + text).rpartition(self.cue)[2].lower()
        return next((label for word, label in self.heard if word in said), INVALID)

    def taught(self, label: str) -> str:
        """What it takes for the right answer."""
        return label

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        golds: list[Any] = [sample.reference for sample, _, _ in scored]
        taught = [self.taught(gold) for gold in golds]
        heard = [self.as_released(sample.prompt, completion.text) for sample, completion, _ in scored]
        return {
            **super().ratios(scored),
            **agreement(scored, self.choices, golds, [score.answer for _, _, score in scored]),
            "as_released": agreement(scored, self.choices, taught, heard)["f1"],
        }
