"""Our completions beside those of lm-evaluation-harness' HFLM: python -m benchmarks.peers [--data DIR] [--limit N] ...

The same weights in the same process, the same prompts and numbers of new tokens; HFLM has the model as transformers
makes it. It completes them by `generate_until` in batches of several sizes; of a task with labels it also weighs the
labels by `loglikelihood`, as the harness does where it is given choices. The first call of each is cold, the next are
warm. Each row says too what could be had at most: with ours as fast as its matrix products are by themselves.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama import modeling_llama

from benchmarks import _random
from benchmarks._common import device, parser, printed, prompts
from benchmarks._flops import bare, counted
from core import folders
from core.lm.generate import complete
from core.lm.load import load
from core.lm.model import LM
from core.registry import discover
from core.script import positive
from core.types import DTYPES, Task
from inputs.embedded import EMBEDDED_MODEL

LABELLED, OTHERS = 64, 16
"""Records of a task with labels and of one without."""
TURN = modeling_llama.apply_rotary_pos_emb
"""Transformers' own, which a model of ours on a GPU replaces for the whole family."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    tasks = [name for name in discover("tasks", "TASK") if not name.startswith("glue_")]
    gpu = torch.cuda.is_available()
    p = parser("peers", "Ours beside HFLM.")
    p.add_argument("--data", type=Path, default=folders.SAMPLE, metavar="DIR", help="holds task-data/ (the sample)")
    p.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    p.add_argument(
        "--limit", type=positive, help=f"records of a task (default: {LABELLED} of a labelled one, {OTHERS})"
    )
    p.add_argument(
        "--batches", nargs="+", type=batch, default=["1", "16", "64", *(["auto"] if gpu else [])], help="of HFLM"
    )
    p.add_argument("--rounds", type=positive, default=1, help="warm calls of each; their median counts (default: 1)")
    p.add_argument("--model", choices=_random.CONFIGS, help="with random weights (default: the embedded model)")
    p.add_argument("--device", type=device, default="cuda" if gpu else "cpu")
    p.add_argument("--dtype", choices=DTYPES, default="bfloat16" if gpu else "float32")
    return p.parse_args(argv)


def batch(text: str) -> str:
    """A batch size as HFLM takes it."""
    if text != "auto" and not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a number of records or auto, got {text}")
    return text


@dataclass(slots=True)
class Peer:
    """Somebody who completes the prompts of a task."""

    name: str
    work: Callable[[], Sequence[Any]]
    like: str = ""
    """Which field of our completions its replies should equal."""
    said: Sequence[Any] = ()
    """Of its last call."""
    times: list[float] = field(default_factory=list)
    """Seconds of each call. The first is cold."""
    failed: str = ""

    def call(self) -> None:
        if self.failed:
            return
        start = time.perf_counter()
        try:
            self.said = self.work()  # texts on the host: a GPU has done its work
        except torch.cuda.OutOfMemoryError:
            self.failed = "out of memory"
            torch.cuda.empty_cache()
        self.times.append(time.perf_counter() - start)

    @property
    def rate(self) -> float:
        """Records a second of the warm calls."""
        return len(self.said) / statistics.median(self.times[1:])

    @property
    def most(self) -> float:
        """Records a second if a call took no longer than its matrix products by themselves, attention's not counted."""
        with patch.object(LM, "recorder", None):  # what is recorded cannot be counted
            count = counted(self.work)
        return len(self.said) / bare(count, 0.02)[1]


def run(args: argparse.Namespace | None = None) -> Iterator[str]:
    args = args or arguments([])
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks: list[Task] = [discover("tasks", "TASK")[name] for name in args.tasks]
    asked = [
        prompts(task, args.data, args.limit or usual(task)) for task in tasks
    ]  # where data are missing, that is said before models are loaded
    if args.model:
        lm = _random.random_lm(args.model, _random.config(args.model), args.device, args.dtype)
        theirs = _random.drawn(lm.model.config, args.device, args.dtype).eval()
    else:
        lm = load(folders.MODELS / EMBEDDED_MODEL, EMBEDDED_MODEL, device=args.device, dtype=args.dtype)
        theirs = AutoModelForCausalLM.from_pretrained(lm.folder, dtype=lm.model.dtype).to(lm.device)
    for task, some in zip(tasks, asked, strict=True):
        yield from rows(lm, theirs, task, some, args)


def usual(task: Task) -> int:
    """How many records of it."""
    return LABELLED if task.max_new_tokens == 1 else OTHERS


def rows(lm: LM, theirs: PreTrainedModel, task: Task, asked: list[str], args: argparse.Namespace) -> Iterator[str]:
    ours, *others = everybody = peers(lm, theirs, task, asked, args.batches)
    for _ in range(1 + args.rounds):  # in turn, so that a machine that slows down slows all
        for peer in everybody:
            peer.call()
    best = max(peer.rate for peer in others if not peer.failed)
    ratios = f"{ours.rate / best:.2f}x, {ours.most / best:.2f}x at most"
    yield f"{task.name}: {ratios} ({len(asked)} records of {task.max_new_tokens} new tokens)"
    for peer in everybody:
        yield f"  {peer.name:20} {peer.failed or result(peer, ours)}"


def result(peer: Peer, ours: Peer) -> str:
    line = f"{peer.rate:8.2f} records/s, cold {len(peer.said) / peer.times[0]:8.2f}"
    if peer is ours:
        return line
    said = [getattr(own, peer.like).strip() for own in ours.said]  # some tokenizers lose a first blank in HFLM's way
    same = sum(own == other.strip() for own, other in zip(said, peer.said, strict=True))
    return f"{line}, {same} of {len(peer.said)} as ours"


def peers(lm: LM, theirs: PreTrainedModel, task: Task, asked: list[str], batches: list[str]) -> list[Peer]:
    """Ours first; HFLM's have the model `theirs`, and turn queries and keys as transformers does."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    options = {"until": [], "max_gen_toks": task.max_new_tokens, "do_sample": False}
    texts = [Instance("generate_until", {}, (prompt, options), i) for i, prompt in enumerate(asked)]
    words = [(prompt, f" {word}") for prompt in asked for word in task.choices]
    choices = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(words)]

    @patch.object(modeling_llama, "apply_rotary_pos_emb", TURN)
    def said(model: Any) -> Sequence[Any]:
        replies: Sequence[Any] = model.generate_until(texts, disable_tqdm=True)
        return replies

    @patch.object(modeling_llama, "apply_rotary_pos_emb", TURN)
    def chosen(model: Any) -> Sequence[Any]:
        logps = [logp for logp, _ in model.loglikelihood(choices, disable_tqdm=True)]
        each = [logps[i : i + len(task.choices)] for i in range(0, len(logps), len(task.choices))]
        return [task.choices[logp.index(max(logp))] for logp in each]

    everybody = [Peer("ours", partial(complete, lm, asked, task.max_new_tokens, task.choices))]
    for size in batches:
        model = HFLM(pretrained=theirs, tokenizer=lm.tokenizer, batch_size=size)
        everybody.append(Peer(f"generate_until, {size}", partial(said, model), "text"))
        if task.choices:
            everybody.append(Peer(f"loglikelihood, {size}", partial(chosen, model), "choice"))
    return everybody


if __name__ == "__main__":
    printed(lambda: run(arguments()))
