"""How CounterFact's authors score an edit: is the new answer likelier than the true one, and beside the subject not?

Meng et al. 2022 (ROME), section 3.4, and 2023 (MEMIT), section 5. Nothing is generated here: L is the mean of -log p
over the tokens of " " + answer, teacher-forced, L_new for the edit's target and L_true for its old answer, after each
of three kinds of prompt:

    the edit's own            ES: L_new < L_true      EM: exp(-L_new) - exp(-L_true)
    the rephrased ones        PS: L_new < L_true      PM: exp(-L_new) - exp(-L_true)
    about the neighbours      NS: L_true < L_new      NM: exp(-L_true) - exp(-L_new)

A tie is a failure either way. The mean is taken over the prompts of an edit, then over edits; the score is the harmonic
mean of the means ES, PS and NS. Success may be had by an answer that no greedy decoding would give: do not compare
these numbers with reliability, generalisation and locality.

Differs from the authors' code: shares and differences are in [0, 1] and [-1, 1], there in per cent; the answer is
tokenised as it continues a prompt (for byte-level BPE the same).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.lm.generate import fit
from core.lm.model import LM
from core.lm.reads import log_probabilities
from core.lm.tokens import encode, of_edit, target_ids
from core.metrics import harmonic_mean, measure
from core.types import Edit, Measure

SUCCESSES, MAGNITUDES = ("ES", "PS", "NS"), ("EM", "PM", "NM")
SCORE = "ES_PS_NS_score"

Pair = tuple[float, float]
"""(L_new, L_true) after one prompt."""


@dataclass(frozen=True, slots=True)
class Compared:
    """-log p of a token of the new and of the true answer, after each prompt of an edit."""

    rewrite: tuple[Pair, ...]
    paraphrase: tuple[Pair, ...]
    neighbourhood: tuple[Pair, ...]


def compare(lm: LM, edits: Sequence[Edit]) -> list[Compared | None]:
    """Of each edit; None for one without neighbours, whose true answer is not known to be theirs too."""
    asked = [edit for edit in edits if edit.neighbours]
    prompts = [(edit, prompt) for edit in asked for prompt in _prompts(edit)]
    rows, answers = [], []
    for edit, prompt in prompts:
        with of_edit(edit):
            pair = [target_ids(lm, answer) for answer in (edit.target, edit.old)]
        answers.append(pair)
        rows.append(fit(lm, encode(lm, prompt), max(map(len, pair)))[0])
    found = log_probabilities(lm, rows, answers)
    pairs = iter([(-float(new.mean()), -float(true.mean())) for new, true in found])
    return [_of(edit, [next(pairs) for _ in _prompts(edit)]) if edit.neighbours else None for edit in edits]


def _prompts(edit: Edit) -> list[str]:
    return [edit.prompt, *edit.rephrases, *(prompt for prompt, _ in edit.localities)]


def _of(edit: Edit, pairs: Sequence[Pair]) -> Compared:
    split = 1 + len(edit.rephrases)
    return Compared(tuple(pairs[:1]), tuple(pairs[1:split]), tuple(pairs[split:]))


def numbers(compared: Compared) -> dict[str, float]:
    """The six means over the prompts of one edit, without those that it has no prompts for."""
    parts = (
        ("ES", "EM", compared.rewrite),
        ("PS", "PM", compared.paraphrase),
        ("NS", "NM", [(true, new) for new, true in compared.neighbourhood]),
    )
    found = {}
    for success, magnitude, pairs in parts:
        if pairs:  # (of the answer that should be the likelier one, of the other)
            found[success] = float(np.mean([wanted < other for wanted, other in pairs]))
            found[magnitude] = float(np.mean([math.exp(-wanted) - math.exp(-other) for wanted, other in pairs]))
    return found


def means(edits: Sequence[Mapping[str, float]]) -> dict[str, Measure]:
    """Means over edits with their intervals, and the score, which is there where all three of its parts are."""
    found = {}
    for name in (*SUCCESSES, *MAGNITUDES):
        if values := [edit[name] for edit in edits if name in edit]:
            found[name] = measure(values)
    if found.keys() >= {*SUCCESSES}:
        top = np.array([[edit.get(name, 0.0) for name in SUCCESSES] for edit in edits])
        there = np.array([[float(name in edit) for name in SUCCESSES] for edit in edits])
        found[SCORE] = measure(top, there, harmonic_mean)  # edits are resampled whole
    return found
