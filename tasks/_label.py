"""What the four tasks with a one-word answer share: NLI, ClosedDomainQA, dialogue, SentimentAnalysis."""

import string
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.metrics import headline, mean, part
from core.types import Completion, Ratio, Sample, Score, Scored


def read_label(text: str, choices: tuple[str, ...], match_case: bool = False) -> str | None:
    """The choice that the first word of the text is, punctuation around it ignored; None for another word."""
    word = next(iter(text.split()), "").strip(string.punctuation)
    same = {choice if match_case else choice.lower(): choice for choice in choices}
    return same.get(word if match_case else word.lower())


class LabelTask(ABC):
    """One new token, a sample's reference is the right one of `choices`.

    Metrics: accuracy (an unreadable answer is wrong), answered, accuracy of the answered ones, choice_accuracy (the
    likeliest label word by next-token probability), trivial (always the commonest label of these samples), then
    whatever `released` gives.
    """

    name: str
    file: str
    choices: tuple[str, ...]
    headline: str = "accuracy"
    max_new_tokens: int = 1
    match_case: bool = False

    @abstractmethod
    def samples(self, data: Path) -> Iterator[Sample]: ...

    def released(self, sample: Sample, seen: str) -> Mapping[str, float]:
        """Correctness by the released scorers, for tasks that have any: name of the metric -> 0.0 or 1.0.

        `seen`: the completion as they decode it, `Completion.seen`.
        """
        return {}

    def read(self, text: str) -> str | None:
        """The answer in a completion; None if it has none."""
        return read_label(text, self.choices, self.match_case)

    def score(self, sample: Sample, completion: Completion) -> Score:
        gold = sample.reference
        answer = self.read(completion.text)
        parts = {"choice_accuracy": float(completion.choice == gold), **self.released(sample, completion.seen)}
        return Score(None if answer is None else float(answer == gold), answer or "", parts)

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        golds = [sample.reference for sample, _, _ in scored]
        commonest = Counter(golds).most_common(1)[0][0]
        parts = {name: part(scored, name) for name in scored[0][2].parts}
        return {
            **headline(self.headline, scored),
            "choice_accuracy": parts.pop("choice_accuracy"),
            "trivial": mean(scored, (gold == commonest for gold in golds)),
            **parts,
        }
