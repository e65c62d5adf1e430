"""MEND's edit quality against how many edits are in an update; needs the embedded model's trained network.

    python -m benchmarks.mend_batches --edits 200 220 --sizes 1 5 10 --lr-scale 1 0.7

Every update is made on the unedited model, so an edit shares it with those of its own update alone.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks._common import embedded, hparams_file, parser, printed, sample_edits
from core import hparams
from core.lm.model import LM
from core.lm.weights import add_, preserved
from core.script import positive
from core.types import Edit
from editors.mend import MEND
from editors.mend.settings import MENDSettings
from experiment import quality

SHOWN = ("reliability", "generalisation", "locality", "locality_tokens")


def arguments(argv: list[str] | None = None) -> Namespace:
    p = parser("mend_batches", "Edit quality of MEND on the embedded model, by edits an update.")
    p.add_argument("--edits", type=int, nargs=2, default=(200, 220), metavar=("BEGIN", "END"))
    p.add_argument("--sizes", type=positive, nargs="+", default=(1, 5, 10), help="edits an update")
    p.add_argument("--lr-scale", type=float, nargs="+", help="default: as in the settings")
    p.add_argument("--hparams", type=Path, default=hparams_file("MEND"))
    return p.parse_args(argv)


def probes(lm: LM, editor: MEND, edits: Sequence[Edit], size: int) -> Iterator[quality.Probe]:
    """What the model says about each edit while the update of its `size` neighbours, itself among them, is in."""
    for start in range(0, len(edits), size):
        together = edits[start : start + size]
        deltas = editor.deltas(together)[0]
        with preserved(lm.model, deltas):
            add_(lm.model, deltas)
            yield from quality.probe(lm, together)


def measured(lm: LM, hp: MENDSettings, edits: Sequence[Edit], sizes: Sequence[int]) -> Iterator[str]:
    """A line per size, with the means over the edits."""
    before, editor = quality.probe(lm, edits), MEND(lm, hp)
    for size in sizes:
        after = list(probes(lm, editor, edits, size))
        found = quality.summarize(before, after, after)["after"]
        values = "".join(f"  {name} {found[name].value:.2f}" for name in SHOWN)
        yield f"edits {edits[0].index} to {edits[-1].index}, {size} an update, lr_scale {hp.lr_scale:g}:{values}"


def run() -> Iterator[str]:
    asked = arguments()
    begin, end = asked.edits
    lm, hp = embedded(), hparams.load(MENDSettings, asked.hparams)
    for scale in asked.lr_scale or [hp.lr_scale]:
        yield from measured(lm, replace(hp, lr_scale=scale), sample_edits(end - begin, begin), asked.sizes)


if __name__ == "__main__":
    printed(run)
