"""One task of lm-evaluation-harness: its requests record by record, and what it says of the replies."""

import json
from collections.abc import Sequence
from typing import Any

from core.errors import UserError
from core.types import Completion
from experiment.harness.metrics import Metrics, Part
from experiment.harness.replies import reply_to
from experiment.harness.seeded import FEW_SHOT

NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Words for it in a task's file; the first holds."""
GEN_TOKENS = 256
"""New tokens where a task does not say how many: the harness's default for models of transformers."""


class Member:
    """`task` made ready to be asked. UserError for what is not done here, or has no score that is a ratio over records.

    All of it is to be done `seeded`: a task may draw, even to say its name.
    """

    def __init__(self, task: Any) -> None:
        self.name, self.task, self.metrics = str(task.task_name), task, Metrics(task)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        options = task.get_config("generation_kwargs") or {}
        if options.get("do_sample", float(options.get("temperature") or 0) > 0) or options.get("num_beams", 1) > 1:
            raise UserError(f"--lm-eval: {self.name} asks for texts that are drawn or searched for; ours are greedy")
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise UserError(f"--lm-eval: {self.name} runs code that models write, or shows them more than text")
        if not self.metrics.rising:
            left = ", ".join(self.metrics.left_out) or "none that is higher for a better model"
            raise UserError(f"--lm-eval: {self.name} has no metric that is a mean or a ratio over records ({left})")

    @property
    def new_tokens(self) -> int:
        """How long its texts are at most; 0 where it asks for none."""
        if self.task.OUTPUT_TYPE != "generate_until":
            return 0
        options = self.task.get_config("generation_kwargs") or {}
        return int(next((options[name] for name in NEW_TOKENS if options.get(name) is not None), GEN_TOKENS))

    @property
    def settings(self) -> str:
        """What its numbers depend on beside its requests, as JSON."""
        config = [self.task.get_config(name) for name in ("generation_kwargs", "filter_list", "repeats")]
        return json.dumps([self.task.VERSION, *config, self.metrics.kept], default=lambda part: type(part).__name__)

    def requests(self, limit: int | None) -> dict[int, list[Any]]:
        """By record, of the first `limit` records. The same ones whenever they are asked for."""
        self.task.set_fewshot_seed(seed=FEW_SHOT)
        self.task.build_all_requests(limit=limit, rank=0, world_size=1)
        found: dict[int, list[Any]] = {}
        for request in sorted(self.task.instances, key=lambda request: int(request.idx)):
            found.setdefault(int(request.doc_id), []).append(request)
        if any(sum(request.request_type == "generate_until" for request in some) > 1 for some in found.values()):
            raise UserError(f"--lm-eval: {self.name} asks for several texts a record, which is not done here")
        return dict(sorted(found.items()))

    def judged(self, requests: Sequence[Any], completion: Completion) -> tuple[dict[str, Part], str]:
        """What the harness says of a record: its part in each metric, and the answer that it read."""
        for i, request in enumerate(requests):
            request.resps, request.filtered_resps = [reply_to(request, i, completion)] * request.repeats, {}
        for each in self.task._filters:
            each.apply(requests)
        parts: dict[str, Part] = {}
        for kind in requests[0].filtered_resps:
            replies = [request.filtered_resps[kind] for request in requests]
            parts |= self.metrics.parts(self.task.process_results(requests[0].doc, replies), kind)
        first = next(iter(requests[0].filtered_resps.values()), None)
        return parts, first if isinstance(first, str) else completion.text
