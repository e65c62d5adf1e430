"""The released models at full size, with random weights: python -m benchmarks.gpu [--models gpt2-xl ...] [flags]

Per task samples/s; seconds per edit of ROME and KN and per MEMIT update; MEND's training steps/s; peak memory. Random
weights cost what trained ones cost, but for how soon an optimisation stops: `forwards` in the notes of the JSON.
Second moments are those of a short text (2 f tokens), which says nothing about quality and everything about cost.

FLOP utilisation = 2 x (parameters of the blocks) x (tokens run through them a second) / (peak of the device). Attention
scores and logits are not counted, pads are, a prefix that prompts share once.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import _random
from benchmarks._common import device, new_file, parser, printed, prompts, sample_edits, width
from benchmarks._peak import peak_bytes, peak_flops, reset_peak
from core import folders, hparams
from core.lm.generate import complete
from core.lm.model import orient
from core.registry import discover
from core.script import positive
from core.types import DTYPES, Edit, Notes
from edit_sets.zsre import EDIT_SET
from editors.mend.factors import layer_of, shapes_of
from editors.mend.network import seeded
from editors.mend.outcome import outcome
from tests.reference import rome as naive

METHODS = ("ROME", "KN", "MEMIT", "MEND")
Row = dict[str, Any]
"""model, dtype, device, what, value, unit, peak_gb, utilisation (None where it is not known)."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    tasks = list(discover("tasks", "TASK"))
    p = parser("gpu", "Speed and memory at full size.")
    p.add_argument("--models", nargs="+", choices=_random.CONFIGS, default=["gpt2-xl", "gpt-j-6B", "llama-7b"])
    p.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", choices=DTYPES, default="bfloat16" if torch.cuda.is_available() else "float32")
    p.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    p.add_argument("--tasks", nargs="*", choices=tasks, default=tasks)
    p.add_argument("--edits", type=positive, default=4, help="of a MEMIT update (default: 4)")
    p.add_argument(
        "--repeats", type=positive, default=1, help="edits of ROME and KN, and steps of MEND, to time (default: 1)"
    )
    p.add_argument("--twin", action="store_true", help="an edit of ROME's naive twin too")
    p.add_argument("--layers", type=positive, help="fewer layers, for a trial")
    p.add_argument("--width", type=width, help="another hidden size, for a trial: a multiple of 16")
    p.add_argument("--out", type=new_file, metavar="FILE", help="the table as JSON too")
    args = p.parse_args(argv)
    if args.layers == 1:
        p.error("--layers: expected 2 or more, as no method edits the last one")
    return args


class Bench:
    """The measurements of one model."""

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        self.args = args
        full = _random.config(name)
        self.lm = _random.random_lm(name, _random.config(name, args.layers, args.width), args.device, args.dtype)
        self.dropped = full.num_hidden_layers - self.lm.n_layers
        self.flops = 0.0
        blocks = sum(
            p.numel() for layer in range(self.lm.n_layers) for p in self.lm.module(self.lm.block(layer)).parameters()
        )
        each = 2.0 * blocks / self.lm.n_layers
        for layer in range(self.lm.n_layers):
            self.lm.module(self.lm.block(layer)).register_forward_hook(self._count(each))

    def _count(self, each: float) -> Callable[..., None]:
        def count(module: Any, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            self.flops += each * hidden.shape[0] * hidden.shape[1]

        return count

    def row(self, what: str, unit: str, work: Callable[[], float]) -> Row:
        """Time `work`, which returns how many things it did. Units with "/s" are rates, others seconds a thing."""
        reset_peak(self.args.device)
        self._wait()
        self.flops, start = 0.0, time.perf_counter()
        done = work()
        self._wait()
        seconds = time.perf_counter() - start
        peak = peak_flops(self.args.device, self.args.dtype)
        return {
            "model": self.lm.name,
            "dtype": self.args.dtype,
            "device": torch.cuda.get_device_name() if self.args.device.startswith("cuda") else self.args.device,
            "what": what,
            "value": done / seconds if "/s" in unit else seconds / done,
            "unit": unit,
            "peak_gb": peak_bytes(self.args.device) / 1e9,
            "utilisation": self.flops / seconds / peak if peak and "samples" in unit else None,
        }

    def _wait(self) -> None:
        if self.args.device.startswith("cuda"):
            torch.cuda.synchronize()

    def rows(self) -> Iterator[Row]:
        for task in (discover("tasks", "TASK")[name] for name in self.args.tasks):
            asked = prompts(task)

            def score(task: Any = task, asked: list[str] = asked) -> float:
                complete(self.lm, asked, task.max_new_tokens, task.choices)
                return len(asked)

            yield self.row(task.name, "samples/s", score)
        with tempfile.TemporaryDirectory() as scratch:
            for method in self.args.methods:
                yield from self.mend() if method == "MEND" else self.edits(method, Path(scratch))

    def edits(self, method: str, scratch: Path) -> Iterator[Row]:
        edits, editors = sample_edits(self.args.edits), list[Any]()
        kind = discover("editors", "EDITOR")[method]
        hp = self.fitted(hparams.load(kind.hparams, folders.HPARAMS / method / f"{self.lm.name}.yaml"))
        if getattr(hp, "mom2_adjustment", False):
            file, count = self.text(scratch)
            hp = dataclasses.replace(hp, mom2_dataset=str(file), mom2_n_samples=count, stats_dir=str(scratch / "stats"))
        prepared = self.row(f"{method}: templates, second moments", "s", lambda: editors.append(kind(self.lm, hp)) or 1)
        if method != "KN":  # which needs none
            yield prepared
        batches = [edits] if method == "MEMIT" else [[edit] for edit in sample_edits(self.args.repeats)]
        if self.args.device.startswith("cuda"):
            editors[0].deltas(batches[0])  # warm

        notes: list[Notes] = []

        def run() -> float:
            for batch in batches:
                notes.append(editors[0].deltas(batch)[1])
            return len(batches)

        what = f"update of {len(edits)} edits" if method == "MEMIT" else "edit"
        yield self.row(f"{method}: {what}", "s", run) | {"notes": notes[-1]}
        if method == "ROME" and self.args.twin:
            bare = dataclasses.replace(hp, mom2_adjustment=False)  # the twin would collect second moments in each edit
            yield self.row(
                "ROME: naive twin", "s", lambda: len(naive.deltas(self.lm, edits[0], bare, editors[0].templates))
            )

    def mend(self) -> Iterator[Row]:
        kind = discover("editors", "EDITOR")["MEND"].hparams
        hp = self.fitted(hparams.load(kind, folders.TRAINING_HPARAMS / "MEND" / f"{self.lm.name}.yaml"))
        net = seeded(shapes_of(self.lm, hp.inner_params), hp).to(self.args.device)
        adam = torch.optim.Adam(net.parameters(), lr=hp.lr)
        records = EDIT_SET.training(folders.SAMPLE / "training-data/zsre_mend_train.json")

        def step() -> float:
            batch: list[list[Edit]] = [[edit] for edit in records[: hp.accumulate_bs]]
            for _ in range(self.args.repeats):
                outcome(self.lm, net, batch, hp)["loss/total_edit"].mean().backward()
                adam.step()
                adam.zero_grad()
            return self.args.repeats

        step()  # Adam's state, and warm
        yield self.row(f"MEND: training step of {hp.accumulate_bs} edits", "steps/s", step)

    def fitted(self, hp: Any) -> Any:
        """Settings of the whole model moved down to one with fewer layers; unchanged for a whole one."""
        if not self.dropped:
            return hp
        given = {field.name for field in dataclasses.fields(hp)}
        changes: dict[str, Any] = {}
        if "layers" in given:
            down = max(0, max(hp.layers) - self.lm.n_layers + 2)
            changes["layers"] = tuple(layer - down for layer in hp.layers if layer >= down)
            changes["v_loss_layer"] = self.lm.n_layers - 1
        if "inner_params" in given:
            changes["inner_params"] = tuple(
                n for n in map(self._lowered, hp.inner_params) if layer_of(self.lm, n) is not None
            )
        return dataclasses.replace(hp, **changes)

    def _lowered(self, name: str) -> str:
        """The weight of the layer as far from the top."""
        return ".".join(str(int(part) - self.dropped) if part.isdigit() else part for part in name.split("."))

    def text(self, scratch: Path) -> tuple[Path, int]:
        """A file of documents with 2 f tokens in all, so that second moments have full rank, and their number."""
        module = self.lm.module(self.lm.mlp_out(0))
        wanted = 2 * orient(module, module.get_parameter("weight")).shape[1]
        words = " ".join(path.read_text(encoding="utf-8") for path in sorted(folders.SAMPLE.glob("*/*.json"))).split()
        tokens, lines = 0, []
        while tokens < wanted and (part := words[100 * len(lines) : 100 * (len(lines) + 1)]):
            lines.append(" ".join(part))
            tokens += len(self.lm.tokenizer(lines[-1])["input_ids"])
        (scratch / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")
        return scratch / "text.txt", len(lines)


def line(row: Row) -> str:
    """A row of the markdown table."""
    used = "" if row["utilisation"] is None else f"{row['utilisation']:.1%}"
    cells = (row["model"], row["dtype"], row["device"], row["what"], f"{row['value']:.3g} {row['unit']}")
    return f"| {' | '.join(cells)} | {row['peak_gb']:.1f} GB | {used} |"


def measure(args: argparse.Namespace) -> Iterator[str]:
    """The table, line by line as it is measured; the whole of it as JSON in the end."""
    rows: list[Row] = []
    yield "| model | dtype | device | what | | peak memory | FLOP utilisation |"
    yield "|---|---|---|---|---|---|---|"
    for name in args.models:
        for row in Bench(args, name).rows():
            rows.append(row)
            yield line(row)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def run() -> Iterator[str]:
    yield from measure(arguments([]))


if __name__ == "__main__":
    printed(lambda: measure(arguments()))
