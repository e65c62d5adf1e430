"""A long course: 2,000 edits in updates of 100 by methods that remember past ones, how time and memory grow.

The search for z costs every update the same, so it is cut to one step in one template: what grows weighs the more.
"""

import argparse
import gc
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil

from benchmarks._common import embedded, hparams_file, printed, sample_edits, seconds
from core import hparams
from core.lm.weights import add_, preserved
from core.types import Edit
from editors._spread import SpreadEditor
from editors.alphaedit import AlphaEdit
from editors.memit import MEMIT

OPENINGS = ("", "So ", "Now ", "Well, ")
"""Before a prompt they make a new edit of it, with other keys: there are fewer facts in the sample than are needed."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m benchmarks.long", description="Time and memory of a long course.")
    p.add_argument("--edits", type=int, default=2000, help="(default: 2000)")
    p.add_argument("--batch", type=int, default=100, help="edits of an update (default: 100)")
    p.add_argument("--steps", type=int, default=1, help="of the search for z (default: 1)")
    return p.parse_args(argv)


def run(args: argparse.Namespace | None = None) -> Iterator[str]:
    args = args or arguments([])
    lm, edits = embedded(), many(args.edits)
    ways: tuple[tuple[str, type[SpreadEditor], dict[str, Any]], ...] = (
        ("MEMIT with past keys", MEMIT, {"cache": True}),
        ("AlphaEdit", AlphaEdit, {}),
    )
    for name, kind, settings in ways:
        hp = hparams.load(kind.hparams, hparams_file(kind.name))
        editor = kind(lm, replace(hp, v_num_grad_steps=args.steps, context_templates=("{}",), **settings))
        with preserved(lm.model, editor.names.values()):
            yield f"{name}: {course(editor, [edits[i : i + args.batch] for i in range(0, len(edits), args.batch)])}"


def many(count: int) -> list[Edit]:
    facts = sample_edits(-(-count // len(OPENINGS)), 0)
    return [replace(fact, prompt=opening + fact.prompt) for opening in OPENINGS for fact in facts][:count]


def course(editor: SpreadEditor, batches: list[list[Edit]]) -> str:
    """Updates are applied one after the other, as in a run."""
    process, times, resident, kept = psutil.Process(), list[float](), list[float](), list[float]()

    def update(batch: list[Edit]) -> None:
        add_(editor.lm.model, editor.deltas(batch)[0])
        editor.applied(batch)

    for batch in batches:
        times.append(seconds(lambda batch=batch: update(batch)))
        gc.collect()
        resident.append(process.memory_info().rss / 1e6)
        kept.append(sum(t.numel() * t.element_size() for t in editor.state().values()) / 1e6)
    last = max(1, len(times) // 10)
    first, end = times[0], statistics.median(times[-last:])
    back = seconds(lambda: editor.load_state(editor.state()))
    grown, keys = resident[-1] - resident[1], kept[-1] - kept[1]
    return (
        f"{len(batches)} updates of {len(batches[0])}, the first {first:.1f} s, the last {last} {end:.1f} s: "
        f"{end / first:.2f}x; kept keys {kept[-1]:.0f} MB, memory since the second update {grown:+.0f} MB, "
        f"{keys:.0f} of them keys; what is kept is taken up again in {back:.1f} s"
    )


if __name__ == "__main__":
    printed(lambda: run(arguments()))
