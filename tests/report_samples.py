"""Result files for tests of the report: made-up completions, scored by the real tasks, written by core.results.

How good the completions are is given as `skill`, the share of right ones. What a sample's answer is depends on the
sample alone, so that a lower skill loses some of the right answers and wins none.
"""

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from conftest import ROOT

from core import provenance, results
from core.registry import discover
from core.types import Completion, Edit, Sample, Scored
from experiment import quality
from experiment.editing import Update
from experiment.quality import Probe
from experiment.scoring import result_of
from tasks import EIGHT

TASKS = discover("tasks", "TASK")
MODEL = {"name": "gpt2-xl", "sha256": "5a" * 32, "dtype": "float32"}
WEIGHT = "transformer.h.17.mlp.c_proj.weight"


@dataclass(frozen=True)
class Edited:
    """The edits of a made-up run."""

    count: int
    method: str = "ROME"
    mode: str = "Instance-Sequential"
    rule: tuple[str, float] | None = None
    batch_size: int | None = None
    draw: int | None = None
    begin: int = 200
    lr: float = 0.5
    hold: float = 0.9
    """Share of the edits that are still there after the last one."""

    def settings(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "method": self.method,
            "range": [self.begin, self.begin + self.count, 1],
            "draw": self.draw,
            "batch_size": self.batch_size,
            "hparams": {"layers": [17], "v_lr": self.lr},
            "files": {},
            "regularizer": None if self.rule is None else {"name": self.rule[0], "keep": self.rule[1]},
            "data": {"path": "data/sample/edited-data/zsre.json", "kind": "sample", "sha256": "ed" * 32},
        }

    def plan(self) -> results.EditPlan:
        label = "" if self.rule is None else f"-{self.rule[0].upper()}{100 * self.rule[1]:g}"
        return results.EditPlan(self.mode, self.method + label, self.count, self.batch_size)  # type: ignore[arg-type]


def make(root: Path, task: str, skill: float, edited: Edited | None = None, **changed: Any) -> Path:
    """Write one result below `root`; returns its .json. `changed` replaces parts of its settings, or `n`.

    With `harm`, in nats per token, it has measures of likelihood: 0 for the unedited model. `collapsed` is its own.
    """
    n, harm, collapsed = changed.pop("n", 24), changed.pop("harm", None), changed.pop("collapsed", None)
    scored = completed(task, skill, n) if harm is None else measured(task, completed(task, skill, n), harm)
    settings = {
        "task": task,
        "model": MODEL,
        "data": {"path": f"data/sample/task-data/{TASKS[task].file}", "kind": "sample", "sha256": f"{task:f<64}"},
        "limit": n,
        "seed": 0,
        "edit": edited and edited.settings(),
        **changed,
    }
    result = result_of(TASKS[task], scored, results.plain(settings), ENVIRONMENT, {"score": 1.5})
    result = replace(result, edited=edit_parts(edited) if edited else None, collapsed=collapsed)
    folder = root / f"draw-{edited.draw}" if edited and edited.draw is not None else root
    path = results.stem(folder, task, edited and edited.plan())
    results.write(path, result, scored)
    return path.with_name(path.name + ".json")


ENVIRONMENT = {
    **{k: v for k, v in provenance.environment("cpu").items() if k in ("python", *provenance.PACKAGES)},
    "platform": "Linux",
    "device": "cpu",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
}


def edit_parts(edited: Edited) -> results.EditRecord:
    """What the post-edit script adds to a result: edit quality, updates, edits, the change of the weights."""
    edits = [Edit(f"Fact {i} is", f"Fact {i}", "so", "thus", f"{i} is", "who", "me", i) for i in range(edited.count)]
    before = [Probe("thus", False, 0.1, "thus", False, 0.1, (1, 2)) for _ in edits]
    own = [Probe("so", True, 0.9, "so", i % 3 > 0, 0.8, (1, 2)) for i, _ in enumerate(edits)]
    luck = [random.Random(f"edit {i}").random() for i in range(edited.count)]
    after = [Probe("so", u < edited.hold, 0.9, "so", u < edited.hold - 0.2, 0.8, (1, 2 + (u > 0.8))) for u in luck]
    size = edited.batch_size or (edited.count if edited.mode == "Batch-Single" else 1)
    share = 1.0 if edited.rule is None else edited.rule[1]
    updates = [
        Update([e.index for e in edits[i : i + size]], {WEIGHT: share * (9 + i + 40 * (i == 6))}, {}, {}, 0.5)
        for i in range(0, edited.count, size)
    ]
    return results.EditRecord(
        quality=quality.summarize(before, own, after),
        updates=[asdict(update) for update in updates],
        edits=quality.records(edits, {"before": before, "own": own, "after": after}),
        change={WEIGHT: {"norm": 10.0 * share * edited.count**0.6, "weight": 250.0}},
    )


@cache
def samples(task: str, n: int) -> list[Sample]:
    """The first n records of the sample data."""
    return list(
        islice(TASKS[task].samples(ROOT / "data/sample/task-data" / TASKS[task].file), 4 * n if task == "NER" else n)
    )


def completed(task: str, skill: float, n: int) -> Scored:
    found = []
    for sample in samples(task, n):
        luck = random.Random(f"{task} {sample.id}").random()
        said = answer(task, sample, luck < skill) if luck < skill + 0.4 else ""
        choice = said.strip() or None if TASKS[task].choices else None
        completion = Completion(said, choice)
        found.append((sample, completion, TASKS[task].score(sample, completion)))
    return found


def measured(task: str, scored: Scored, harm: float) -> Scored:
    """The same with measures: records differ, and how much each of them suffers."""
    found = []
    for sample, completion, score in scored:
        luck = random.Random(f"{task} {sample.id} log p")
        level, suffers = luck.random(), harm * (0.2 + 1.6 * luck.random())
        said = {"reference_logprob": -1 - 2 * level - suffers, "text_logprob": -3 - level - suffers / 3}
        said |= {"reference_logprob_best": said["reference_logprob"] + 0.2} if task == "OpenDomainQA" else {}
        said |= {"choice_probability": 0.5 / (1 + suffers)} if TASKS[task].choices else {}
        found.append((sample, replace(completion, measures={**said, "drift": suffers / 2}), score))
    return found


def answer(task: str, sample: Sample, right: bool) -> str:
    """A completion that is right or wrong."""
    reference = sample.reference
    if TASKS[task].choices:
        return " " + (reference if right else next(c for c in TASKS[task].choices if c != reference))
    if not right:
        return " nothing"
    return (
        " "
        + {
            "reasoning": lambda: reference["answer"],
            "OpenDomainQA": lambda: reference[0],
            "summarization": lambda: " ".join(reference.split()[: len(reference) // 10]),
            "NER": lambda: ", ".join(named(reference)),
        }[task]()
    )


def named(reference: dict[str, Any]) -> Iterable[str]:
    """The entities of the type that is asked for."""
    words: list[str] = []
    for token, tag in zip(reference["tokens"], reference["tags"], strict=True):
        if words and tag != f"I-{reference['type']}":
            yield " ".join(words)
            words = []
        if tag.endswith(f"-{reference['type']}"):
            words.append(token)
    if words:
        yield " ".join(words)


def whole_study(root: Path, likely: bool = True) -> None:
    """Everything a report can show: eight tasks, two methods, regularisers, repeats, collapsed runs.

    With measures of likelihood, or as older results are. RECT does less harm than editing less, a random share more.
    """
    for i, task in enumerate(sorted(EIGHT, key=str.lower)):
        skill = 0.55 + 0.04 * i

        def made(skill: float, edited: Edited | None = None, harm: float = 0.0, task: str = task, **more: Any) -> None:
            make(root, task, max(0.0, skill), edited, **({"harm": harm, **more} if likely else {}))

        made(skill)
        for rule, loss, hold, harm in RULES:
            for count in (5, 20):
                edited = Edited(count, rule=rule, hold=hold - loss * count / 2)
                gone = "more than half of its completions are empty" if loss > 0.04 else None
                made(skill - loss * count, edited, harm * count * (1 + i / 8), collapsed=gone if count == 20 else None)
        for draw in (0, 1):
            edited = Edited(20, "MEMIT", "Batch-Sequential", None, 10, draw, begin=0)
            made(skill - 0.3 - 0.1 * draw, edited, 0.1 + 0.1 * draw)


RULES: tuple[tuple[tuple[str, float] | None, float, float, float], ...] = (
    (None, 0.045, 0.95, 0.04),
    (("rect", 0.4), 0.02, 0.9, 0.005),
    (("random", 0.4), 0.004, 0.4, 0.08),
    (("scale", 0.6), 0.03, 0.7, 0.03),
)
"""Regulariser, what it loses of the skill with every edit, the share of edits that hold, nats per token and edit."""
