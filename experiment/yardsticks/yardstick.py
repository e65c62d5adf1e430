"""A task of lm-evaluation-harness, or a group of them with one score, as a task of ours.

The harness makes the requests and judges what comes back, record by record; the model is asked by our engine. A group,
such as mmlu, is one yardstick: its score is over all records, or where its file says `weight_by_size: false` over its
tasks, each counting the same.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import UserError
from core.lm.batches import in_batches
from core.lm.begun import NOTHING, shared_prefix
from core.lm.model import LM
from core.metrics import BELOW, by_parts
from core.types import Completion, Ratio, Sample, Score, Scored
from experiment.yardsticks.installed import KIND
from experiment.yardsticks.metrics import Metrics, Part
from inputs.sources import Source

NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Words for it in a task's file; the first holds."""
GEN_TOKENS = 256
"""New tokens where a task does not say how many: the harness's default for models of transformers."""
SEEDS = {"python": 0, "numpy": 1234, "torch": 1234, "few-shot": 1234}
"""The harness's own defaults."""


@contextmanager
def seeded() -> Iterator[None]:
    """Inside, the generators of Python, NumPy and torch as the harness seeds them; afterwards as they were before."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(SEEDS["python"])
        np.random.seed(SEEDS["numpy"])
        torch.manual_seed(SEEDS["torch"])
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


@dataclass(frozen=True, slots=True)
class Origin(Source):
    """Where a yardstick's records come from: `sha256` is of what is asked, and `version` of the harness that asks."""

    sha256: str
    version: str

    def describe(self) -> dict[str, str]:
        return {"path": self.path.as_posix(), "kind": self.kind, "sha256": self.sha256, "version": self.version}


@dataclass(frozen=True, slots=True)
class Asked:
    """One record: the harness's task, its requests, and how much the record counts in each metric (1 if not there)."""

    task: Any
    requests: list[Any]
    weights: Mapping[str, float] = field(default_factory=dict)


class Yardstick:
    """A `core.types.Task` whose completions are its own to make. `tasks` are the harness's, made ready to be asked.

    `weighed` says for a group which metrics it has, and whether a task counts by its size; None for a task alone.
    """

    file = ""
    choices: tuple[str, ...] = ()

    def __init__(self, name: str, tasks: Sequence[Any], version: str, weighed: Mapping[str, bool] | None) -> None:
        self.name, self.tasks, self.version, self.weighed = name, tasks, version, weighed
        self.max_new_tokens = max(map(_new_tokens, tasks))
        self._metrics = {task.task_name: Metrics(task) for task in tasks}
        self._asked: dict[str, Asked] = {}
        self._samples: dict[int | None, list[Sample]] = {}

    def samples(self, data: Path | None = None) -> Iterator[Sample]:
        """Every record. There is no file of ours."""
        return iter(self.first(None))

    def first(self, limit: int | None) -> list[Sample]:
        """The first `limit` records of each of its tasks, in their order."""
        if limit not in self._samples:
            asked = [each for task in self.tasks for each in self._ask(task, limit)]
            self._asked |= asked
            self._samples[limit] = [_sample(id, each) for id, each in asked]
        return self._samples[limit]

    def source(self, limit: int | None) -> Origin:
        digest = hashlib.sha256()
        for sample in self.first(limit):
            digest.update(json.dumps([sample.id, sample.prompt, sample.reference]).encode())
        for task in self.tasks:
            config, metrics = task.config, self._metrics[task.task_name]
            rest = [task.VERSION, config.generation_kwargs, config.filter_list, metrics.kept, self.weighed]
            digest.update(json.dumps(rest, default=lambda part: type(part).__name__).encode())
        return Origin(Path(KIND, self.name), KIND, digest.hexdigest(), self.version)

    def complete(
        self,
        lm: LM,
        samples: Sequence[Sample],
        batch_tokens: int | None = None,
        done: MutableMapping[int, Completion] | None = None,
    ) -> list[Completion]:
        """What the model says to each sample's requests; `batch_tokens` and `done` as for `core.lm.generate.complete`.

        A completion's text is the first text asked for, else the likeliest continuation of several; its measures are
        "logprob i" and "greedy i" of request i.
        """
        from experiment.yardsticks.engine import Engine

        engine = Engine(lm, batch_tokens)
        asked = [self._asked[sample.id].requests for sample in samples]
        rows = [[engine.row(request) for request in requests] for requests in asked]
        prompts = [row for each in rows for row, _ in each if row]
        engine.prefix = shared_prefix(lm, prompts, self.max_new_tokens) if prompts else NOTHING

        def work(batch: list[int]) -> list[Completion]:
            replies = _replies(engine, [request for i in batch for request in asked[i]])
            return [
                _completion([(request, next(replies)) for request in asked[i]], _most(rows[i]) > lm.context)
                for i in batch
            ]

        def size(i: int) -> int:
            return sum(needed for _, needed in rows[i]) + _most(rows[i])  # as much as the engine holds, or more

        return in_batches(range(len(samples)), work, lm, size, batch_tokens, done, self.name)

    def score(self, sample: Sample, completion: Completion) -> Score:
        """The harness's judgement. `value` is the first metric of the record: in nats if that is a log-probability."""
        asked = self._asked[sample.id]
        with seeded():
            parts = self._judged(asked, completion)
        found: dict[str, float] = {}
        for name, (top, bottom) in parts.items():
            weight = asked.weights.get(name, 1.0)
            found |= {name: top * weight} | ({} if bottom * weight == 1 else {name + BELOW: bottom * weight})
        top, bottom = next(iter(parts.values()), (0.0, 0.0))
        first = next(iter(asked.requests[0].filtered_resps.values()), "")
        answer = first if isinstance(first, str) else completion.text
        return Score(top / bottom if bottom else None, answer, found)

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        return by_parts(scored)

    def _judged(self, asked: Asked, completion: Completion) -> dict[str, Part]:
        task, requests = asked.task, asked.requests
        for i, request in enumerate(requests):
            request.resps, request.filtered_resps = [_response(request, i, completion)] * request.repeats, {}
        for each in task._filters:
            each.apply(requests)
        parts: dict[str, Part] = {}
        for kind in requests[0].filtered_resps:
            values = task.process_results(requests[0].doc, [request.filtered_resps[kind] for request in requests])
            parts |= self._metrics[task.task_name].parts(values, kind)
        return parts if self.weighed is None else {name: part for name, part in parts.items() if name in self.weighed}

    def _ask(self, task: Any, limit: int | None) -> list[tuple[str, Asked]]:
        with seeded():
            task.set_fewshot_seed(seed=SEEDS["few-shot"])
            task.build_all_requests(limit=limit, rank=0, world_size=1)
        requests: dict[int, list[Any]] = {}
        for request in task.instances:
            requests.setdefault(request.doc_id, []).append(request)
        if any(sum(request.request_type == "generate_until" for request in of) > 1 for of in requests.values()):
            raise UserError(f"--lm-eval: {task.task_name} asks for several texts a record, which is not done here")
        alone = self.weighed is None
        weights = {name: 1 / len(requests) for name, by_size in (self.weighed or {}).items() if not by_size}
        return [
            (str(index) if alone else f"{task.task_name}:{index}", Asked(task, sorted(of, key=_index), weights))
            for index, of in requests.items()
        ]


def _new_tokens(task: Any) -> int:
    """How long its texts are at most; 0 where it asks for none."""
    if task.OUTPUT_TYPE != "generate_until":
        return 0
    options = task.config.generation_kwargs or {}
    known = [options[name] for name in NEW_TOKENS if options.get(name) is not None]
    return int(next(iter(known), GEN_TOKENS))


def _index(request: Any) -> int:
    return int(request.idx)


def _most(rows: Sequence[tuple[Any, int]]) -> int:
    return max(needed for _, needed in rows)


def _sample(id: str, asked: Asked) -> Sample:
    """The prompt is the first request's; the reference is the target, and each request as far as it differs."""
    prompt = asked.requests[0].args[0]
    texts = [[part for part in request.args if isinstance(part, str)] for request in asked.requests]
    requests = [text[1:] if text[0] == prompt else text for text in texts]
    target = asked.task.doc_to_target(asked.requests[0].doc)
    reference = {"target": target, "requests": requests}
    return Sample(id, prompt, json.loads(json.dumps(reference, default=str)))


def _replies(engine: Any, requests: Sequence[Any]) -> Iterator[Any]:
    """The engine's replies, in the order of the requests: (text, finite), (log p, greedy) or log p."""
    replies: dict[int, Any] = {}
    for kind in dict.fromkeys(request.request_type for request in requests):
        some = [i for i, request in enumerate(requests) if request.request_type == kind]
        ask = engine.texts if kind == "generate_until" else lambda of, kind=kind: getattr(engine, kind)(of, True)
        replies |= zip(some, ask([requests[i] for i in some]), strict=True)
    return (replies[i] for i in range(len(requests)))


def _completion(replied: Sequence[tuple[Any, Any]], cut: bool) -> Completion:
    texts = [reply for request, reply in replied if request.request_type == "generate_until"]
    measures: dict[str, float] = {}
    likely: dict[str, float] = {}
    for i, (request, reply) in enumerate(replied):
        if request.request_type == "loglikelihood":
            measures |= {f"logprob {i}": reply[0], f"greedy {i}": float(reply[1])}
            likely.setdefault(request.args[1], reply[0])
        elif request.request_type == "loglikelihood_rolling":
            measures[f"logprob {i}"] = reply
    finite = all(map(isfinite, measures.values())) and all(finite for _, finite in texts)
    best = max(likely, key=lambda text: likely[text]) if len(likely) > 1 else ""
    known = {name: value for name, value in measures.items() if isfinite(value)}
    text = texts[0][0] if texts else best
    return Completion(text, truncated=cut, finite=finite, ended=None, measures=known)


def _response(request: Any, i: int, completion: Completion) -> Any:
    """What the harness expects of the model: the reply, out of a completion."""
    if request.request_type == "generate_until":
        return completion.text
    logp = completion.measures.get(f"logprob {i}", nan)
    return (logp, bool(completion.measures[f"greedy {i}"])) if request.request_type == "loglikelihood" else logp


def checked(name: str, task: Any) -> None:
    """UserError for what cannot be asked here, or has no score that is a ratio over records."""
    options = task.config.generation_kwargs or {}
    if task.OUTPUT_TYPE == "generate_until":
        drawn = options.get("do_sample", float(options.get("temperature") or 0) > 0)
        if drawn or options.get("num_beams", 1) > 1:
            raise UserError(
                f"--lm-eval: {name} asks for {'drawn texts' if drawn else 'several beams'}, ours are greedy"
            )
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        raise UserError(f"--lm-eval: {name} runs code that the model writes, or shows it more than text: not done here")
    if not Metrics(task).rising:
        left = ", ".join(Metrics(task).left_out) or "none that rises with ability"
        raise UserError(f"--lm-eval: {name} has no metric that is a mean or a ratio over records ({left})")
