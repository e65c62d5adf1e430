"""Seconds per ROME edit with the released number of context templates (21), against the naive twin and the machine."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks._common import embedded, hparams_file, printed, sample_edits, versus
from benchmarks._flops import share
from core import hparams
from editors.rome import ROME, ROMESettings
from tests.reference import rome as naive

SHAPES = ((5, 10), (10, 10))


def run() -> Iterator[str]:
    lm = embedded()
    as_released = {"v_num_grad_steps": 20, "context_templates": None, "context_template_length_params": SHAPES}
    hp = replace(hparams.load(ROMESettings, hparams_file("ROME")), **as_released)
    editor = ROME(lm, hp)
    edits = sample_edits(2)
    editor.deltas(edits[:1])  # warm
    ours, other = versus(
        lambda: [editor.deltas([edit]) for edit in edits],
        lambda: [naive.deltas(lm, edit, hp, editor.templates) for edit in edits],
    )
    yield f"{len(editor.templates)} templates, {hp.v_num_grad_steps} steps, layer {hp.layers[0]} of {lm.n_layers}"
    yield f"ours {ours / 2:.1f} s an edit, naive twin {other / 2:.1f} s: {other / ours:.1f}x"
    yield share(lambda: editor.deltas(edits[:1]))


if __name__ == "__main__":
    printed(run, flagless="rome")
