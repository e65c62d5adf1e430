"""The nouns of the project. Imports nothing of ours, so that everything else may import it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

Mode = Literal["Instance-Sequential", "Batch-Single", "Batch-Sequential"]

Deltas = dict[str, Tensor]
"""Parameter name -> what to add to it, in the layout that parameter is stored in."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact to rewrite: after the edit `prompt` should be continued by `target`.

    zsRE keys: src, subject, alt, pred, rephrase, loc, loc_ans. `index` is the record's place in the edit file.
    """

    prompt: str
    subject: str
    target: str
    old: str
    rephrase: str | None = None
    locality: str | None = None
    locality_answer: str | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One question to the model. `reference` is whatever the task's own `score` needs, JSON-serialisable."""

    id: str
    prompt: str
    reference: Any


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said: the new text alone, special tokens dropped.

    `choice` is the likeliest of the task's label words (None if it has none); `truncated` says that the prompt lost
    tokens on its left to fit the model's context; `finite` is False where the model's logits were NaN or infinite.
    """

    text: str
    choice: str | None = None
    truncated: bool = False
    finite: bool = True


@dataclass(frozen=True, slots=True)
class Score:
    """How one completion did: `value` in [0, 1], or None if no answer could be read (counted, never silently 0).

    `answer` is what was read. `parts` holds further per-sample numbers of the task (ROUGE-1, strict match, ...).
    """

    value: float | None
    answer: str
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric over a data set with its 95 % bootstrap interval [low, high]."""

    value: float
    low: float
    high: float


Scored = Sequence[tuple[Sample, Completion, Score]]


class Task(Protocol):
    """A task is data: it makes prompts and judges completions. It never sees a model."""

    name: str
    """The word on the command line, e.g. "ClosedDomainQA"."""
    file: str
    """Its file or folder under task-data/, e.g. "test-ClosedDomainQA.jsonl"."""
    max_new_tokens: int
    choices: tuple[str, ...]
    """Label words of a classification task, without the leading blank; else ()."""

    def samples(self, data: Path) -> Iterator[Sample]:
        """Read the samples from `data`, the task's own file or folder. Raises UserError for a malformed record."""
        ...

    def score(self, sample: Sample, completion: Completion) -> Score:
        """Judge one completion."""
        ...

    def summarize(self, scored: Scored) -> dict[str, Measure]:
        """Metrics over all samples, headline first, in data-set order. Raises ValueError if there are none."""
        ...


class Editor(Protocol):
    """An editing method. It measures the unedited model when it is made, and returns what to add to the weights."""

    name: str
    modes: frozenset[Mode]
    hparams: type[Any]
    """Frozen dataclass of its settings, read from hparams/<name>/<model>.yaml."""
    notes: dict[str, Any]
    """Numbers about the latest `deltas()`, for the result file."""

    def __init__(self, lm: Any, hp: Any) -> None: ...

    def deltas(self, edits: Sequence[Edit]) -> Deltas:
        """The update for one batch of edits. The model is bit-identical before and after."""
        ...
