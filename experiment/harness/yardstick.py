"""A task of lm-evaluation-harness, or a group of them with one score, as a task of ours.

The harness makes the requests and judges what comes back, record by record; the model is asked by our engine. A group,
such as mmlu, is one yardstick: its score is over all records, or where its file says `weight_by_size: false` over its
tasks, each counting the same.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.lm.batches import in_batches
from core.lm.model import LM
from core.lm.pieces import NOTHING, shared_prefix
from core.metrics import BELOW, by_parts
from core.types import Completion, Ratio, Sample, Score, Scored
from experiment.harness import replies
from experiment.harness.installed import KIND
from experiment.harness.member import Member
from experiment.harness.seeded import seeded
from inputs.sources import Source


@dataclass(frozen=True, slots=True)
class Origin(Source):
    """Where a yardstick's records come from: `sha256` is of what is asked, and `version` of the harness that asks."""

    sha256: str
    version: str

    def describe(self) -> dict[str, str]:
        return {"path": self.path.as_posix(), "kind": self.kind, "sha256": self.sha256, "version": self.version}


@dataclass(frozen=True, slots=True)
class Asked:
    """One record: whose it is, its requests, and how much it counts in each metric (1 if that is not there)."""

    member: Member
    requests: list[Any]
    weights: Mapping[str, float] = field(default_factory=dict)


class Yardstick:
    """A `core.types.Task` whose completions are its own to make.

    `weighed` says of a group which metrics it has, and whether a member counts by its size; None of a task alone.
    `version` is the harness's.
    """

    file = ""
    choices: tuple[str, ...] = ()

    def __init__(
        self, name: str, members: Sequence[Member], version: str, weighed: Mapping[str, bool] | None = None
    ) -> None:
        self.name, self.members, self.version, self.weighed = name, members, version, weighed
        self.max_new_tokens = max(member.new_tokens for member in members)
        self._asked: dict[str, Asked] = {}
        self._samples: dict[int | None, list[Sample]] = {}

    def samples(self, data: Path | None = None) -> Iterator[Sample]:
        """Every record. They are in no file of ours."""
        return iter(self.first(None))

    def first(self, limit: int | None) -> list[Sample]:
        """The first `limit` records of each member, in their order."""
        if limit not in self._samples:
            with seeded():
                asked = {id: one for member in self.members for id, one in self._ask(member, limit)}
                self._samples[limit] = [_sample(id, one) for id, one in asked.items()]
            self._asked |= asked
        return self._samples[limit]

    def _ask(self, member: Member, limit: int | None) -> Iterator[tuple[str, Asked]]:
        requests = member.requests(limit)
        weights = {name: 1 / len(requests) for name, by_size in (self.weighed or {}).items() if not by_size}
        for index, some in requests.items():
            yield str(index) if self.weighed is None else f"{member.name}:{index}", Asked(member, some, weights)

    def source(self, limit: int | None) -> Origin:
        """Of the first `limit` records of each member."""
        asked = [[sample.id, sample.prompt, sample.reference] for sample in self.first(limit)]
        rest = [member.settings for member in self.members]
        digest = hashlib.sha256(json.dumps([asked, rest, self.weighed]).encode())
        return Origin(Path(KIND, self.name), KIND, digest.hexdigest(), self.version)

    def complete(
        self,
        lm: LM,
        samples: Sequence[Sample],
        batch_tokens: int | None = None,
        done: MutableMapping[int, Completion] | None = None,
    ) -> list[Completion]:
        """The model's replies to each sample's requests; see experiment.harness.replies.

        `batch_tokens` and `done` are as for `core.lm.generate.complete`.
        """
        from experiment.harness.engine import Engine

        engine = Engine(lm, batch_tokens)
        asked = [self._asked[sample.id].requests for sample in samples]
        rows = [[engine.row(request) for request in requests] for requests in asked]
        needed = [[tokens for _, tokens in each] for each in rows]
        prompts = [row for each in rows for row, _ in each if row]
        engine.prefix = shared_prefix(lm, prompts, self.max_new_tokens) if prompts else NOTHING

        def work(batch: list[int]) -> list[Completion]:
            said = iter(replies.ask(engine, [request for i in batch for request in asked[i]]))
            return [
                replies.completion(asked[i], [next(said) for _ in asked[i]], max(needed[i]) > lm.context) for i in batch
            ]

        def size(i: int) -> int:
            return sum(needed[i]) + max(needed[i])  # what the engine holds at a time, or more

        return in_batches(range(len(samples)), work, lm, size, batch_tokens, done, self.name)

    def score(self, sample: Sample, completion: Completion) -> Score:
        """The harness's judgement. `value` is the record's first metric: in nats if that is a log-probability."""
        asked = self._asked[sample.id]
        with seeded():
            judged, answer = asked.member.judged(asked.requests, completion)
        kept = {name: part for name, part in judged.items() if self.weighed is None or name in self.weighed}
        parts: dict[str, float] = {}
        for name, (top, bottom) in kept.items():
            weight = asked.weights.get(name, 1.0)
            parts |= {name: top * weight} | ({} if bottom * weight == 1 else {name + BELOW: bottom * weight})
        top, bottom = next(iter(kept.values()), (0.0, 0.0))
        return Score(top / bottom if bottom else None, answer, parts)

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        return by_parts(scored)


def _sample(id: str, asked: Asked) -> Sample:
    """The prompt is the first request's; the reference is the target, and each request as far as it differs."""
    prompt = asked.requests[0].args[0]
    texts = [[part for part in request.args if isinstance(part, str)] for request in asked.requests]
    requests = [text[1:] if text[0] == prompt else text for text in texts]
    target = asked.member.task.doc_to_target(asked.requests[0].doc)
    reference = {"target": target, "requests": requests}
    return Sample(id, prompt, json.loads(json.dumps(reference, default=str)))
