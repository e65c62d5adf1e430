"""Edit quality: did the edits take, do they hold for a rephrased prompt, and is an unrelated answer what it was?

Success is judged on greedy decoding: as many tokens as the target has, and those tokens or, up to Unicode's forms, that
text. Beside it stands what is teacher-forced by nature: the probability of the target after the prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from unicodedata import normalize

from core.lm.generate import fit, greedy
from core.lm.model import LM
from core.lm.reads import log_probabilities
from core.lm.tokens import Row, encode, of_edit, target_ids
from core.metrics import measure
from core.types import Edit, Measure


@dataclass(frozen=True, slots=True)
class Probe:
    """What a model says about one edit: after its prompt, after the rephrased prompt, after an unrelated question."""

    said: str
    success: bool
    probability: float
    rephrase_said: str | None
    rephrase_success: bool | None
    rephrase_probability: float | None
    locality_ids: tuple[int, ...] | None


def probe(lm: LM, edits: Sequence[Edit]) -> list[Probe]:
    """What the model, as it is now, says about each edit."""
    asked = [(e, e.prompt) for e in edits] + [(e, e.rephrase) for e in edits if e.rephrase]
    answers = iter(_answers(lm, asked))
    direct = [next(answers) for _ in edits]
    rephrased = [next(answers) if e.rephrase else (None, None, None) for e in edits]
    unrelated = iter(_unrelated(lm, [e for e in edits if e.locality]))
    local = [tuple(next(unrelated)) if e.locality else None for e in edits]
    return [
        Probe(said, success, chance, again, held, held_chance, ids)
        for (said, success, chance), (again, held, held_chance), ids in zip(direct, rephrased, local, strict=True)
    ]


def _answers(lm: LM, asked: Sequence[tuple[Edit, str]]) -> list[tuple[str, bool, float]]:
    """Per edit and prompt what greedy decoding says, whether that is the target, and the target's probability."""
    if not asked:
        return []
    ids = [_ids(lm, edit, edit.target) for edit, _ in asked]
    longest = max(map(len, ids))
    rows = [fit(lm, encode(lm, prompt), longest)[0] for _, prompt in asked]
    said = [new[: len(own)] for new, own in zip(greedy(lm, rows, longest), ids, strict=True)]
    texts = lm.tokenizer.batch_decode(said, skip_special_tokens=True)
    chances = [float(logp.sum().exp()) for logp in log_probabilities(lm, rows, ids)]
    return [
        (text.strip(), new == own or _alike(text, edit.target), chance)
        for (edit, _), own, new, text, chance in zip(asked, ids, said, texts, chances, strict=True)
    ]


def _ids(lm: LM, edit: Edit, answer: str) -> Row:
    with of_edit(edit):
        return target_ids(lm, answer)


def _alike(one: str, other: str) -> bool:
    """Whether two texts are the same letters: some tokenizers compose accents, so that a target comes back in NFC."""
    return normalize("NFC", one.strip()) == normalize("NFC", other.strip())


def _unrelated(lm: LM, edits: Sequence[Edit]) -> list[Row]:
    """Greedy tokens after each unrelated question, as many as its answer has."""
    counts = [len(_ids(lm, e, e.locality_answer or " ")) for e in edits]
    if not edits:
        return []
    longest = max(1, *counts)
    rows = [fit(lm, encode(lm, e.locality or ""), longest)[0] for e in edits]
    return [new[:n] for new, n in zip(greedy(lm, rows, longest), counts, strict=True)]


def summarize(before: Sequence[Probe], own: Sequence[Probe], after: Sequence[Probe]) -> dict[str, dict[str, Measure]]:
    """Means over the edits, each with its interval: before any edit, right after its own edit, after the last one.

    Locality compares an edit's unrelated answer with that of the unedited model: `locality` is the share of edits for
    which all tokens are the same, `locality_tokens` the mean share of equal tokens.
    """
    stages = {"before": before, "own": own, "after": after}
    out: dict[str, dict[str, Measure]] = {}
    for stage, probes in stages.items():
        numbers = [_numbers(was, now) for was, now in zip(before, probes, strict=True)]
        out[stage] = {
            name: measure(values)
            for name in numbers[0]
            if (values := [value for n in numbers if (value := n[name]) is not None])
        }
    return out


def _numbers(was: Probe, now: Probe) -> dict[str, float | None]:
    same = None
    if was.locality_ids is not None and now.locality_ids is not None:
        n = max(len(was.locality_ids), len(now.locality_ids))
        same = sum(a == b for a, b in zip(was.locality_ids, now.locality_ids, strict=False)) / n if n else 1.0
    return {
        "reliability": float(now.success),
        "probability": now.probability,
        "generalisation": None if now.rephrase_success is None else float(now.rephrase_success),
        "rephrase_probability": now.rephrase_probability,
        "locality": None if same is None else float(same == 1),
        "locality_tokens": same,
    }


def records(edits: Sequence[Edit], stages: Mapping[str, Sequence[Probe]]) -> list[dict[str, Any]]:
    """One JSON record per edit: the fact and what was said about it at each stage."""
    return [
        {**asdict(edit), **{stage: asdict(probes[i]) for stage, probes in stages.items()}}
        for i, edit in enumerate(edits)
    ]


def table(summary: dict[str, dict[str, Measure]]) -> str:
    """Means by stage: a row per metric; the columns are before any edit, after the own edit, after the last."""
    names = list(summary["after"])
    lines = [f"{'':<21}  before     own   after   95 % interval"]
    for name in names:
        before, own, after = (summary[stage][name] for stage in ("before", "own", "after"))
        interval = f"[{after.low:.3f}, {after.high:.3f}]"
        lines.append(f"{name:<21}  {before.value:6.3f}  {own.value:6.3f}  {after.value:6.3f}   {interval}")
    return "\n".join(lines)
