"""A completion of a yardstick: the model's replies to the harness's requests about one record.

Its text is the text asked for, else the likeliest of several continuations, else nothing. Its measures are "logprob i"
in nats and "greedy i" (0 or 1) of request i, but for values that are NaN or infinite, as a broken model's are.
"""

from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

from core.types import Completion

TEXT, CHOICE, ROLLING = "generate_until", "loglikelihood", "loglikelihood_rolling"
"""The harness's words for what it requests: a text, log p of a continuation, log p of a whole text."""


def ask(engine: Any, requests: Sequence[Any]) -> list[Any]:
    """The replies of an experiment.harness.engine.Engine in order: (text, finite), (log p, greedy) or log p."""
    replies: dict[int, Any] = {}
    for kind in dict.fromkeys(request.request_type for request in requests):
        some = [i for i, request in enumerate(requests) if request.request_type == kind]
        asked = [requests[i] for i in some]
        said = engine.texts(asked) if kind == TEXT else getattr(engine, kind)(asked, disable_tqdm=True)
        replies |= zip(some, said, strict=True)
    return [replies[i] for i in range(len(requests))]


def completion(requests: Sequence[Any], replies: Sequence[Any], cut: bool) -> Completion:
    """The replies to one record's requests as a completion; `cut` says that a context lost tokens."""
    text, finite = "", True
    measures: dict[str, float] = {}
    likely: dict[str, float] = {}
    for i, (request, reply) in enumerate(zip(requests, replies, strict=True)):
        if request.request_type == TEXT:
            text, finite = reply
        elif request.request_type == CHOICE:
            measures |= {f"logprob {i}": reply[0], f"greedy {i}": float(reply[1])}
            likely.setdefault(request.args[1], reply[0])
        else:
            measures[f"logprob {i}"] = reply
    known = {name: value for name, value in measures.items() if isfinite(value)}
    if len(likely) > 1:
        text = text or max(likely, key=lambda each: likely[each])
    whole = finite and len(known) == len(measures)
    return Completion(text, truncated=cut, finite=whole, ended=None, measures=known)


def reply_to(request: Any, i: int, completion: Completion) -> Any:
    """The reply to request i, as the harness expects it from a model."""
    if request.request_type == TEXT:
        return completion.text
    logp = completion.measures.get(f"logprob {i}", nan)
    return (logp, completion.measures[f"greedy {i}"] == 1) if request.request_type == CHOICE else logp
