"""Two tasks of lm-evaluation-harness on the embedded model: our engine, and the harness's HFLM at its best batch size.

Processor time of one thread: what else the machine does has little part in it.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any

from benchmarks._common import embedded, printed
from core import folders
from experiment.harness.found import Yardsticks

TASKS = folders.ROOT / "tests/data/lm_eval"
BATCHES = (1, 8)
"""Of HFLM; the fastest counts."""


def run() -> Iterator[str]:
    from lm_eval.models.huggingface import HFLM

    from experiment.harness.engine import Engine

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = embedded()
    models = [Engine(lm), *(HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=size) for size in BATCHES)]
    for yardstick in Yardsticks().of(("my_choice", "my_generation"), TASKS):
        (member,) = yardstick.members
        requests = [request for some in member.requests(None).values() for request in some]
        for model in models:
            answered(model, requests[:4])  # warm
        (ours, fast), *others = (answered(model, requests) for model in models)
        slow, size = min((slow, size) for (_, slow), size in zip(others, BATCHES, strict=True))
        same = all(alike(own, other) for own, other in zip(ours, others[0][0], strict=True))
        yield (
            f"{yardstick.name:13}  ours {fast:6.2f} s, HFLM in batches of {size} {slow:6.2f} s: {slow / fast:.2f}x "
            f"({len(requests)} requests, {'the same' if same else 'OTHER'} replies)"
        )


def answered(model: Any, requests: list[Any]) -> tuple[list[Any], float]:
    """The replies, and how long they took."""
    start = time.process_time()
    replies = getattr(model, requests[0].request_type)(requests, disable_tqdm=True)
    return replies, time.process_time() - start


def alike(own: Any, other: Any) -> bool:
    return bool(own == other if isinstance(own, str) else abs(own[0] - other[0]) < 1e-3 and own[1] == other[1])


if __name__ == "__main__":
    printed(run, flagless="yardsticks")
