"""The nouns of the project. Imports nothing of ours and no torch, so that everything else may import it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, get_args

if TYPE_CHECKING:  # torch takes seconds to import, and tasks do without it
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from core.lm.model import LM

Mode = Literal["Instance-Sequential", "Batch-Single", "Batch-Sequential"]
MODES: tuple[Mode, ...] = get_args(Mode)
DTYPES = ("float32", "bfloat16", "float16")
"""Of a model's weights."""

Layer = Annotated[int, "layer"]
"""The type of a setting that is a block's number, from 0. Such settings, tuples too, are checked for every editor."""
Weight = Annotated[str, "weight"]
"""The type of a setting that is a parameter's name: checked likewise."""
Deltas: TypeAlias = "dict[str, Tensor]"
"""Parameter name -> what to add to it, in the layout that parameter is stored in."""
Notes: TypeAlias = dict[str, Any]
"""An editor's numbers about one update, for the result file."""


def per_update(mode: Mode, edits: int, batch_size: int | None = None) -> int:
    """How many of `edits` go into one update: one, all, or `batch_size`. The three modes differ in nothing else."""
    if mode == "Batch-Sequential":
        assert batch_size, "Batch-Sequential needs a batch size"
        return batch_size
    return 1 if mode == "Instance-Sequential" else edits


@dataclass(frozen=True, slots=True)
class Question:
    """A question that an edit should change the answer of; any of `answers` is right. `kind` is the file's word."""

    kind: str
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact to rewrite: after the edit `prompt` should be continued by `target`.

    `index` is the record's place in the edit file. `old` is the answer before, the true one or a model's; empty where
    the file does not say it. `rephrase` is the prompt in other words, `locality` an unrelated question; of several, the
    others are in `more_...`. `neighbours` says that the unrelated questions are about other subjects with the same true
    answer `old`, as CounterFact's are. `portability` asks for what follows from the fact. `case` and `relation` are the
    file's own words for the record: no part of the fact, and not compared.
    """

    prompt: str
    subject: str
    target: str
    old: str = ""
    rephrase: str | None = None
    locality: str | None = None
    locality_answer: str | None = None
    index: int = 0
    more_rephrases: tuple[str, ...] = ()
    more_localities: tuple[tuple[str, str | None], ...] = ()
    neighbours: bool = False
    portability: tuple[Question, ...] = ()
    case: str | None = field(default=None, compare=False)
    relation: str | None = field(default=None, compare=False)

    @property
    def rephrases(self) -> tuple[str, ...]:
        return tuple(text for text in (self.rephrase, *self.more_rephrases) if text)

    @property
    def localities(self) -> tuple[tuple[str, str | None], ...]:
        """Every unrelated question and its answer."""
        first = (self.locality, self.locality_answer)
        return tuple((text, answer) for text, answer in (first, *self.more_localities) if text)


@dataclass(frozen=True, slots=True)
class Sample:
    """One question to the model. `reference` is whatever the task's own `score` needs, JSON-serialisable.

    `answers` are texts that would be right behind the prompt, as they follow a blank: the first is the one whose
    likelihood is measured. None is known of samples that are read back from a result.
    """

    id: str
    prompt: str
    reference: Any
    answers: tuple[str, ...] = ()

    @property
    def reference_text(self) -> str | None:
        """The first of the answers, None if there is none."""
        return next(iter(self.answers), None)

    @property
    def record(self) -> str:
        """What the data set counts: several samples of one record are called "<record>/<part>"."""
        return self.id.rsplit("/", 1)[0]


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said: the new text alone, special tokens dropped.

    `choice` is the likeliest of the task's label words (None if it has none); `truncated` says that the prompt lost
    tokens on its left to fit the model's context; `finite` is False where the model's logits were NaN or infinite.
    `ended` says whether an end token came, and `full` is the text with special tokens kept, that of the end included,
    where it is another one. Samples of older results know neither: there `ended` is None. `measures` says how likely
    the model finds the texts of the sample, as far as that was measured: see core.lm.likelihood.
    """

    text: str
    choice: str | None = None
    truncated: bool = False
    finite: bool = True
    ended: bool | None = False
    full: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def seen(self) -> str:
        """The new text as the released code decodes it: with special tokens."""
        return self.text if self.full is None else self.full


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


@dataclass(frozen=True, eq=False, slots=True)
class Ratio:
    """A metric as sum(top) / sum(bottom) over records, x / 0 being 0; see `core.metrics`.

    top and bottom: (records,), or (records, m) for the mean of m such ratios. `mean` makes something else of them: it
    takes sums (r, 2m) as `core.metrics.mean_ratio` does. `by_reference` is the value where another scorer computes it:
    the same up to rounding, which the result then keeps.
    """

    records: tuple[str, ...]
    """`Sample.record` of each, in data-set order."""
    top: NDArray[np.float64]
    bottom: NDArray[np.float64]
    by_reference: float | None = None
    mean: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None


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

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        """Every metric over the same records, headline first. There is at least one sample; they are in data-set order.

        `core.metrics` has what most tasks need: `headline`, `mean`, `part`.
        """
        ...


class EditSet(Protocol):
    """A format of files with facts to edit. Edit sets inherit from edit_sets._select.Selecting, which has the rest.

    Whatever is malformed is a UserError with file and record.
    """

    name: str
    file: str
    """Its file below a data folder, e.g. "edited-data/zsre.json"."""
    training_files: tuple[str, ...]
    """Files of the same format for methods that are trained: to train on, to validate on; else ()."""
    keys: Mapping[str, str]
    """Field of an Edit -> where it stands in a record, e.g. "target" or "requested_rewrite.target_new.str"."""

    def knows(self, record: Mapping[str, Any]) -> int:
        """How many keys of a record are of this format; 0 if one is missing without which there is no edit."""
        ...

    def reading(self, target: str | None) -> EditSet:
        """The edit set with another new answer, by the word of --target. UserError if its records have no other."""
        ...

    def records(self, path: Path) -> list[Edit]:
        """Every record of a file, types checked; `index` is its place."""
        ...

    def edits(self, path: Path, begin: int, end: int, step: int, draw: int | None = None) -> list[Edit]:
        """The records range(begin, end, step), all of them usable as edits; with a seed `draw` as many drawn ones."""
        ...

    def chosen(self, path: Path, begin: int, end: int, step: int, draw: int | None = None) -> list[Edit]:
        """The same as they stand in the file; `edits` leaves out white space, and logs what is odd."""
        ...

    def training(self, path: Path) -> list[Edit]:
        """The records that a method can be trained on."""
        ...


class Editor(Protocol):
    """An editing method. It measures the unedited model when it is made, and returns what to add to the weights.

    Editors inherit from this class; what has a body here need not be written.
    """

    name: ClassVar[str]
    modes: ClassVar[frozenset[Mode]]
    hparams: ClassVar[type[Any]]
    """Frozen dataclass of its settings, read from hparams/<name>/<model>.yaml."""
    edit_batch: ClassVar[bool] = False
    """Whether its settings hold `edit_batch`, how many edits of an update are worked on at a time (--edit-batch)."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of an Edit, beside prompt, subject and target, that it cannot do without, e.g. "old"."""

    def __init__(self, lm: LM, hp: Any, seed: int = 0) -> None:
        """Measure the UNEDITED model, once. `seed` is of whatever is drawn here."""
        ...

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The update for one batch of edits. The model is bit-identical before and after.

        Raises EditRefused for an update that must not touch the weights.
        """
        ...

    def about(self) -> Notes:
        """What was drawn when it was made, for the notes of a run's first update."""
        return {}

    def applied(self, edits: Sequence[Edit]) -> None:
        """The update of these edits is in the weights now. Where keys of past edits are kept."""

    def carry(self, held: Deltas) -> None:
        """What the regulariser holds back of earlier updates and adds to the next, which `deltas` is asked for now.

        For an editor that can solve for its update as if that were in the weights already.
        """

    def state(self) -> dict[str, Tensor]:
        """What later updates depend on beside the weights. Saved with the weights of a stopped run."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned; from nothing ({}), start anew."""

    @classmethod
    def files(cls, hp: Any, model: str) -> dict[str, Path]:
        """Files that an edit depends on beside the settings, by a word for each. UserError for one that is absent."""
        return {}

    @classmethod
    def redrawn(cls, hp: Any) -> Any:
        """The settings without what they state and the method could draw: then it draws that, from its seed."""
        return hp

    trained_by: ClassVar[str] = ""
    """The script that trains what it needs for a model, which it takes as --model; empty if it needs no training."""

    @classmethod
    def archives(cls) -> Iterator[Path]:
        """The trained files on the disk, each in a folder with its model's name."""
        return iter(())

    @classmethod
    def trained_for(cls, path: Path) -> tuple[str, str]:
        """Name and fingerprint of the model that a trained file is for. UserError if the file is damaged."""
        raise NotImplementedError

    @classmethod
    def suggested(cls, values: Mapping[str, Any], lm: LM, layer: int | None) -> dict[str, Any]:
        """A template's settings made to fit another model.

        `layer` is where tracing finds that model's facts; None for settings without `layers`, which need no tracing.
        `lm` may be a model without weights (its modules and shapes are there).
        """
        return dict(values)


@dataclass(frozen=True, slots=True)
class Change:
    """What a regulariser sees of an update: one parameter as it is now and as it was before any edit, and its delta.

    All of one shape and only to be read; they may be on different devices (the unedited weight is kept on the CPU).
    `transposed` says that the parameter is stored as (inputs, outputs), as Conv1D does, not as (outputs, inputs).
    """

    name: str
    weight: Tensor
    delta: Tensor
    unedited: Tensor
    transposed: bool = False


HELD = "held/"
"""Before a parameter's name, in a regulariser's memory: what it adds to that parameter's next delta."""


class Regularizer(Protocol):
    """Decides what of an update is applied. A frozen dataclass; its fields are its parameters.

    Regularisers inherit from this class; what has a body here need not be written.
    """

    name: ClassVar[str]

    @property
    def label(self) -> str:
        """Behind the method's name in a result's file name: "RECT40"."""
        ...

    def settings(self) -> dict[str, Any]:
        """For the result file: {"name": "rect", "keep": 0.4}."""
        ...

    def __call__(self, change: Change, memory: dict[str, Tensor], generator: Generator) -> Tensor:
        """The delta to add. What it draws comes from `generator`, one of the CPU that is seeded for each update.

        `memory` is its own, kept from update to update and with the weights of a stopped run: tensors that are put in
        place of the old ones, not changed, as those of an update that is refused are forgotten. Those under HELD the
        editor is told (Editor.carry).
        """
        ...

    def restrained(self, change: Change) -> Tensor | None:
        """What of all change so far, `change.delta`, counts where the model is scored or saved.

        Editing goes on from all of it. The delta itself if that is within bounds; None from a regulariser that leaves
        it at what was applied.
        """
        return None
