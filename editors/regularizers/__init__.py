"""Regularisers of a weight update: of a parameter W and its delta D, what is to be added.

RECT (the paper, section 5) keeps the k entries whose relative change |D / W| is largest and drops the rest; `random`
and `pca` are the paper's baselines, `magnitude` (largest |D|) and `scale` (all of D, made smaller) are ours. None of
them is an editor, and all of them work for every editor. Entries are counted as round(k n), half up, at least one; ties
are kept in order of their position, so that exactly that many stay. W is the weight before the update. An update of
several layers is regularised when all of them are solved, as in the AlphaEdit authors' MEMIT_rect (which keeps 40 % and
one entry); the paper's authors edit one layer.

PRUNE (Ma et al., *Perturbation-Restrained Sequential Model Editing*, ICLR 2025) lets every update pass, and restrains
all change so far, W_n - W_0, where the model is scored or saved. SPHERE (*Energy-Regularized Sequential Model Editing
on Hyperspheres*, arXiv 2510.01172) damps what an update writes along the main directions of W.

With `feedback` a regulariser keeps what it drops and adds it to the parameter's next delta before it decides again; the
editor is told. MEMIT and AlphaEdit solve with that in mind: with past keys MEMIT's is the error feedback of *The
Labyrinth and the Thread* (arXiv 2605.26670; there with I added to the normal equations). All else is ours: that of
AlphaEdit, that of MEMIT without past keys, and for other editors error feedback in weight space. PRUNE then restrains
each update, not all change so far.

A new one is a class here, and its row in REGULARIZERS.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Generator, Tensor

from core import hparams
from core.errors import UserError
from core.registry import pick
from core.types import HELD, Change, Regularizer
from editors.regularizers import spectra
from editors.regularizers.entries import count, keep_random, keep_top, rect


@dataclass(frozen=True)
class Rule(Regularizer):
    """What the table's rows share: `kept` says what of a delta stays, `feedback` whether the rest is carried on."""

    feedback: bool = hparams.added(False)

    @property
    def label(self) -> str:
        """The name and what tells its parameters apart: "RECT40", "RECT20FEEDBACK"."""
        return f"{self.name.upper()}{self.amount}{'FEEDBACK' if self.feedback else ''}"

    @property
    def amount(self) -> str:
        """The parameters, in letters, digits and full stops."""
        return ""

    def settings(self) -> dict[str, Any]:
        """The name and the parameters."""
        return {"name": self.name, **hparams.recorded(self)}

    def kept(self, change: Change, generator: Generator) -> Tensor:
        """What of the change's delta stays."""
        raise NotImplementedError

    def __call__(self, change: Change, memory: dict[str, Tensor], generator: Generator) -> Tensor:
        """What stays of the delta, and of what was dropped before."""
        if not self.feedback:
            return self.kept(change, generator)
        held = memory.get(HELD + change.name)
        delta = change.delta if held is None else change.delta + held.to(change.delta)
        kept = self.kept(replace(change, delta=delta), generator)
        memory[HELD + change.name] = delta - kept
        return kept


@dataclass(frozen=True)
class Share(Rule):
    """What a share of the update stays of: `keep` in (0, 1]."""

    keep: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            percent = f": did you mean {self.keep / 100:g}?" if 2 <= self.keep <= 100 else ""
            raise ValueError(f"keep: expected a share in (0, 1], found {self.keep:g}{percent}")

    @property
    def amount(self) -> str:
        return f"{100 * self.keep:g}"


class Rect(Share):
    """The entries with the largest relative change."""

    name = "rect"

    def kept(self, change: Change, generator: Generator) -> Tensor:
        return rect(change.weight, change.delta, self.keep)


class Random(Share):
    """A random share of the entries."""

    name = "random"

    def kept(self, change: Change, generator: Generator) -> Tensor:
        return keep_random(change.delta, self.keep, generator)


class PCA(Share):
    """The largest singular values."""

    name = "pca"

    def kept(self, change: Change, generator: Generator) -> Tensor:
        return spectra.low_rank(change.delta, count(self.keep, min(change.delta.shape)))


class Magnitude(Share):
    """The entries that are largest."""

    name = "magnitude"

    def kept(self, change: Change, generator: Generator) -> Tensor:
        return keep_top(change.delta, change.delta.abs(), self.keep)


class Scale(Share):
    """Less of everything: the control that a regulariser has to do better than at as many edits that hold."""

    name = "scale"

    def kept(self, change: Change, generator: Generator) -> Tensor:
        return change.delta * self.keep


@dataclass(frozen=True)
class Prune(Rule):
    """All change so far, with its largest singular values drawn towards those of the unedited weight."""

    name = "prune"
    variant: Literal["log", "log2", "log1_5", "log1_2", "linear"] = "log"

    @property
    def amount(self) -> str:
        return self.variant.upper().replace("_", ".")

    def kept(self, change: Change, generator: Generator) -> Tensor:
        return self._less(change) if self.feedback else change.delta

    def restrained(self, change: Change) -> Tensor | None:
        return None if self.feedback else self._less(change)

    def _less(self, change: Change) -> Tensor:
        return change.delta if change.delta.dim() < 2 else spectra.prune(change.delta, change.unedited, self.variant)


@dataclass(frozen=True)
class Sphere(Rule):
    """The update, with less of what it writes along the main directions of the weight's rows, whatever their layout.

    The released code takes the columns of a Conv1D's weight, its inputs, for rows.
    """

    name = "sphere"
    cumulative_ratio: float = 0.5
    suppression_strength: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.cumulative_ratio <= 1 and 0 <= self.suppression_strength <= 1):
            raise ValueError("cumulative_ratio: expected a share in (0, 1], and suppression_strength: one in [0, 1]")

    @property
    def amount(self) -> str:
        return f"{100 * self.cumulative_ratio:g}BY{100 * self.suppression_strength:g}"

    def kept(self, change: Change, generator: Generator) -> Tensor:
        weight, delta = change.weight, change.delta
        if delta.dim() < 2:
            return delta
        if change.transposed:
            weight, delta = weight.T, delta.T
        kept = spectra.sphere(weight, delta, self.cumulative_ratio, self.suppression_strength)
        return kept.T.contiguous() if change.transposed else kept


REGULARIZERS: dict[str, type[Any]] = {rule.name: rule for rule in (Rect, Random, PCA, Magnitude, Scale, Prune, Sphere)}
"""Name -> frozen dataclass (core.types.Regularizer) whose fields are its own parameters."""


def make(name: str, given: Mapping[str, object]) -> Regularizer | None:
    """The regulariser of that name with the parameters `given`; None for "none", whatever is given.

    `name` may hold parameters of its own: "rect:keep=0.4" (name:key=value,key=value). UserError for an unknown name or
    parameter, one that is given twice, or a bad value.
    """
    name, colon, text = name.partition(":")
    own = _parameters(name, text, given) if colon else {}
    kind = pick("regularizer", name, {"none": None, **REGULARIZERS})
    if kind is None:
        if own:
            raise UserError(f"regularizer none: takes no parameters, found {text}")
        return None
    rule: Regularizer = hparams.build(kind, {**given, **own}, f"regularizer {name}")
    return rule


def _parameters(name: str, text: str, given: Mapping[str, object]) -> dict[str, object]:
    own: dict[str, object] = {}
    for part in text.split(","):
        key, _, value = (word.strip() for word in part.partition("="))
        if not key or not value:
            raise UserError(
                f"regularizer {name}: expected key=value after the colon, as in rect:keep=0.4; found '{part}'"
            )
        if key in own or key in given:
            raise UserError(f"regularizer {name}: {key} is given twice; say it once")
        own[key] = _plain(value)
    return own


def _plain(text: str) -> object:
    """A value of the command line as an integer or a truth value, if it looks like one."""
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else {"true": True, "false": False}.get(text.lower(), text)
