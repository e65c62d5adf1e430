"""Edit quality: did the edits take, do they hold for a rephrased prompt, and is an unrelated answer what it was?

Success is judged on greedy decoding: as many tokens as the target has, and those tokens or, up to Unicode's forms, that
text. Beside it stands what is teacher-forced by nature: the probability of the target after the prompt, and for facts
with neighbours what CounterFact's authors compare (experiment.quality.compared).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any
from unicodedata import normalize

from core.lm.generate import answered, fit, greedy
from core.lm.model import LM
from core.lm.tokens import Row, encode, of_edit, target_ids
from core.metrics import measure
from core.types import Edit, Measure
from experiment.quality import compared
from experiment.quality.compared import Compared


@dataclass(frozen=True, slots=True)
class Answer:
    """What greedy decoding says after a prompt, whether that is right, and the right answer's probability."""

    said: str
    success: bool
    probability: float


@dataclass(frozen=True, slots=True)
class Ported:
    """What greedy decoding says to a question of portability, and whether that is one of its answers."""

    kind: str
    said: str
    success: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """What a model says about one edit: after its prompt, after the rephrased prompt, after an unrelated question.

    Of several rephrased prompts and unrelated questions the first is meant; the others are in `more_...`.
    """

    said: str
    success: bool
    probability: float
    rephrase_said: str | None
    rephrase_success: bool | None
    rephrase_probability: float | None
    locality_ids: tuple[int, ...] | None
    more_rephrases: tuple[Answer, ...] = ()
    more_locality_ids: tuple[tuple[int, ...], ...] = ()
    portability: tuple[Ported, ...] = ()
    compared: Compared | None = None

    @classmethod
    def restored(cls, told: Mapping[str, Any]) -> "Probe":
        """From what JSON has made of its fields."""
        ids, pairs = told["locality_ids"], told.get("compared")
        return cls(
            **{
                **told,
                "locality_ids": None if ids is None else tuple(ids),
                "more_rephrases": tuple(Answer(**answer) for answer in told.get("more_rephrases", ())),
                "more_locality_ids": tuple(map(tuple, told.get("more_locality_ids", ()))),
                "portability": tuple(Ported(**ported) for ported in told.get("portability", ())),
                "compared": pairs and Compared(**{kind: tuple(map(tuple, part)) for kind, part in pairs.items()}),
            }
        )


LATER = {"more_rephrases", "more_localities", "neighbours", "case", "relation"} | {
    *("more_locality_ids", "portability", "compared")
}
"""Fields of Edit and Probe that a record has only where they say something: where none does it is written as ever."""

OURS = ("reliability", "probability", "generalisation", "rephrase_probability", "locality", "locality_tokens")
"""What is measured of every edit that has the prompts for it; `portability` and that of each kind follow."""


def probe(lm: LM, edits: Sequence[Edit]) -> list[Probe]:
    """What the model, as it is now, says about each edit."""
    prompts = [(edit, edit.prompt) for edit in edits]
    answers = iter(_answers(lm, prompts + [(edit, text) for edit in edits for text in edit.rephrases]))
    direct = [next(answers) for _ in edits]
    rephrased = [[next(answers) for _ in edit.rephrases] for edit in edits]
    unrelated = iter(_unrelated(lm, [(e, question, answer) for e in edits for question, answer in e.localities]))
    local = [[tuple(next(unrelated)) for _ in edit.localities] for edit in edits]
    rest = zip(_ported(lm, edits), compared.compare(lm, edits), strict=True)
    return [
        Probe(
            **asdict(own),
            rephrase_said=again[0].said if again else None,
            rephrase_success=again[0].success if again else None,
            rephrase_probability=again[0].probability if again else None,
            locality_ids=ids[0] if ids else None,
            more_rephrases=tuple(again[1:]),
            more_locality_ids=tuple(ids[1:]),
            portability=ported,
            compared=pairs,
        )
        for own, again, ids, (ported, pairs) in zip(direct, rephrased, local, rest, strict=True)
    ]


def _answers(lm: LM, asked: Sequence[tuple[Edit, str]]) -> list[Answer]:
    """Per edit and prompt what greedy decoding says, whether that is the target, and the target's probability."""
    if not asked:
        return []
    ids = [_ids(lm, edit, edit.target) for edit, _ in asked]
    longest = max(map(len, ids))
    rows = [fit(lm, encode(lm, prompt), longest)[0] for _, prompt in asked]
    said = answered(lm, rows, ids)
    texts = lm.tokenizer.batch_decode([new for new, _ in said], skip_special_tokens=True)
    return [
        Answer(text.strip(), new == own or _alike(text, edit.target), float(logp.sum().exp()))
        for (edit, _), own, (new, logp), text in zip(asked, ids, said, texts, strict=True)
    ]


def _ids(lm: LM, edit: Edit, answer: str) -> Row:
    with of_edit(edit):
        return target_ids(lm, answer)


def _alike(one: str, other: str) -> bool:
    """Whether two texts are the same letters: some tokenizers compose accents, so that a target comes back in NFC."""
    return normalize("NFC", one.strip()) == normalize("NFC", other.strip())


def _unrelated(lm: LM, asked: Sequence[tuple[Edit, str, str | None]]) -> list[Row]:
    """Greedy tokens after each unrelated question, as many as its answer has."""
    counts = [len(_ids(lm, edit, answer or " ")) for edit, _, answer in asked]
    if not asked:
        return []
    longest = max(1, *counts)
    rows = [fit(lm, encode(lm, question), longest)[0] for _, question, _ in asked]
    return [new[:n] for new, n in zip(greedy(lm, rows, longest), counts, strict=True)]


def _ported(lm: LM, edits: Sequence[Edit]) -> list[tuple[Ported, ...]]:
    """Per edit what is said to its questions of portability: right if it begins with an answer to the question."""
    asked = [(edit, question) for edit in edits for question in edit.portability]
    if not asked:
        return [() for _ in edits]
    ids = [[_ids(lm, edit, answer) for answer in question.answers] for edit, question in asked]
    longest = max(len(answer) for answers in ids for answer in answers)
    rows = [fit(lm, encode(lm, question.prompt), longest)[0] for _, question in asked]
    told = []
    for (_, question), answers, new in zip(asked, ids, greedy(lm, rows, longest), strict=True):
        starts = [new[: len(answer)] for answer in answers]
        texts = lm.tokenizer.batch_decode(starts, skip_special_tokens=True)
        right = [
            start == own or _alike(text, answer)
            for start, own, text, answer in zip(starts, answers, texts, question.answers, strict=True)
        ]
        said = texts[right.index(True)] if any(right) else max(texts, key=len)
        told.append(Ported(question.kind, said.strip(), any(right)))
    each = iter(told)
    return [tuple(next(each) for _ in edit.portability) for edit in edits]


def summarize(before: Sequence[Probe], own: Sequence[Probe], after: Sequence[Probe]) -> dict[str, dict[str, Measure]]:
    """Means over the edits, each with its interval: before any edit, right after its own edit, after the last one.

    Of several prompts of an edit the mean is taken first. Locality compares an edit's unrelated answers with those of
    the unedited model: `locality` is the share of them whose tokens are all the same, `locality_tokens` the mean share
    of equal tokens.
    """
    stages = {"before": before, "own": own, "after": after}
    out: dict[str, dict[str, Measure]] = {}
    for stage, probes in stages.items():
        numbers = [_numbers(was, now) for was, now in zip(before, probes, strict=True)]
        names = dict.fromkeys((*OURS, *(name for edit in numbers for name in edit)))
        values = {name: [edit[name] for edit in numbers if name in edit] for name in names}
        out[stage] = {name: measure(found) for name, found in values.items() if found}
        out[stage] |= compared.means([compared.numbers(now.compared) for now in probes if now.compared])
    return out


def _numbers(was: Probe, now: Probe) -> dict[str, float]:
    """Means over the prompts of one edit, without those that it has no prompts for."""
    found = {"reliability": float(now.success), "probability": now.probability}
    more = now.more_rephrases
    if now.rephrase_success is not None:
        found["generalisation"] = fmean([now.rephrase_success, *(answer.success for answer in more)])
    if now.rephrase_probability is not None:
        found["rephrase_probability"] = fmean([now.rephrase_probability, *(answer.probability for answer in more)])
    if was.locality_ids is not None and now.locality_ids is not None:
        pairs = zip((was.locality_ids, *was.more_locality_ids), (now.locality_ids, *now.more_locality_ids), strict=True)
        same = [_same(*pair) for pair in pairs]
        found["locality"] = fmean([share == 1 for share in same])
        found["locality_tokens"] = fmean(same)
    if now.portability:
        found["portability"] = fmean([ported.success for ported in now.portability])
        for kind in dict.fromkeys(ported.kind for ported in now.portability):
            successes = [ported.success for ported in now.portability if ported.kind == kind]
            found[f"portability_{kind}"] = fmean(successes)
    return found


def _same(was: Sequence[int], now: Sequence[int]) -> float:
    """The share of equal tokens."""
    longest = max(len(was), len(now))
    return sum(a == b for a, b in zip(was, now, strict=False)) / longest if longest else 1.0


def records(edits: Sequence[Edit], stages: Mapping[str, Sequence[Probe]]) -> list[dict[str, Any]]:
    """One JSON record per edit: the fact and what was said about it at each stage."""
    return [
        {**_plain(edit), **{stage: _plain(probes[i]) for stage, probes in stages.items()}}
        for i, edit in enumerate(edits)
    ]


def _plain(value: Edit | Probe) -> dict[str, Any]:
    return {name: part for name, part in asdict(value).items() if part or name not in LATER}


def table(summary: dict[str, dict[str, Measure]]) -> str:
    """Means by stage: a row per metric; the columns are before any edit, after the own edit, after the last.

    What is not read from what the model says stands below a line of its own.
    """
    width = max(21, *map(len, summary["after"]))
    lines = [f"{'':<{width}}  before     own   after   95 % interval"]
    for name, after in summary["after"].items():
        if name == compared.SUCCESSES[0]:
            lines.append("which answer is likelier, the new or the true one, whatever is said (CounterFact's scores):")
        shown = "  ".join(f"{_digits(summary[stage][name].value):>6}" for stage in ("before", "own", "after"))
        lines.append(f"{name:<{width}}  {shown}   [{_digits(after.low)}, {_digits(after.high)}]")
    return "\n".join(lines)


def _digits(value: float) -> str:
    """Three of them, and no -0.000."""
    return f"{round(value, 3) + 0.0:.3f}"
