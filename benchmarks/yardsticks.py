"""Two tasks of lm-evaluation-harness on the embedded model: our engine, and the harness's own HFLM at its best batch."""

import logging
from collections.abc import Iterator
from typing import Any

from benchmarks._common import embedded, versus
from core import folders
from experiment.harness.found import Yardsticks

TASKS = folders.ROOT / "tests/data/lm_eval"
BATCHES = (1, 4, 16)
"""Of HFLM; the fastest counts."""


def run() -> Iterator[str]:
    from lm_eval.models.huggingface import HFLM

    from experiment.harness.engine import Engine

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = embedded()
    engine = Engine(lm)
    for yardstick in Yardsticks().of(("my_choice", "my_generation"), TASKS):
        (member,) = yardstick.members
        asked = [request for some in member.requests(None).values() for request in some]

        def work(model: Any, asked: list[Any] = asked) -> Any:
            return getattr(model, asked[0].request_type)(asked, disable_tqdm=True)

        ours, theirs = work(engine), work(HFLM(pretrained=lm.model, tokenizer=lm.tokenizer))
        equal = (
            ours == theirs
            if isinstance(ours[0], str)
            else all(abs(a - b) < 1e-3 and one == other for (a, one), (b, other) in zip(ours, theirs, strict=True))
        )
        best: dict[int, tuple[float, float]] = {}
        for size in BATCHES:
            other = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=size)
            best[size] = versus(lambda work=work: work(engine), lambda work=work, other=other: work(other), rounds=3)
        size = min(BATCHES, key=lambda size: best[size][1] / best[size][0])
        fast, slow = best[size]
        yield (
            f"{yardstick.name:14} ours {fast:6.2f} s, HFLM {slow:6.2f} s (batches of {size}): {slow / fast:.2f}x; "
            f"{len(asked)} requests, {'the same' if equal else 'OTHER'} replies (median of 3 rounds)"
        )
