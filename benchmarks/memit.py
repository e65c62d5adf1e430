"""One MEMIT update of 16 edits, against the naive twin and the machine."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks._common import embedded, hparams_file, printed, sample_edits, versus
from benchmarks._flops import share
from core import hparams
from editors._moments import load
from editors.memit import MEMIT, MEMITSettings
from tests.reference import memit as naive


def run() -> Iterator[str]:
    lm = embedded()
    hp = hparams.load(MEMITSettings, hparams_file("MEMIT"))
    editor = MEMIT(lm, hp)  # second moments are computed here, once
    edits, moments = sample_edits(16), load(lm, hp.layers, hp.corpus)
    ours, other = versus(lambda: editor.deltas(edits), lambda: naive.deltas(lm, hp, editor.templates, moments, edits))
    yield f"{len(edits)} edits: ours {ours:.1f} s, naive twin {other:.1f} s: {other / ours:.1f}x"
    alone = MEMIT(lm, replace(hp, edit_batch=1))  # no edit is padded to another's length
    yield share(lambda: editor.deltas(edits), lambda: alone.deltas(edits), rounds=1)


if __name__ == "__main__":
    printed(run, flagless="memit")
