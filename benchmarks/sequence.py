"""Updates that remember past edits: AlphaEdit against an f x f solve, MEMIT against itself without; what they keep."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks._common import embedded, hparams_file, printed, sample_edits, versus
from core import hparams
from core.lm.model import LM
from core.lm.moments import second_moments
from core.types import Edit
from editors._moments import Past
from editors._spread import SpreadEditor, spread
from editors.alphaedit import AlphaEdit, AlphaEditSettings
from editors.memit import MEMIT, MEMITSettings
from tests.reference.sequences import Course

EDITS, KEPT = 10, 1000


def run() -> Iterator[str]:
    lm, edits = embedded(), sample_edits(EDITS)
    yield from alphaedit(lm)
    yield from memit(lm, edits)


def alphaedit(lm: LM) -> Iterator[str]:
    """The solve of one layer alone, against the naive twin's in float32, as released: z and keys cost both the same."""
    hp = hparams.load(AlphaEditSettings, hparams_file("AlphaEdit"))
    editor, layer, generator = AlphaEdit(lm, hp), hp.layers[0], torch.Generator().manual_seed(0)
    kept, c = editor.moments[layer], second_moments(lm, (layer,), hp.corpus)[layer]
    keys, f = keys_like(c, EDITS, generator), len(c)
    residual = torch.randn(lm.model.config.hidden_size, EDITS, generator=generator, dtype=torch.double)
    p = kept.solve(torch.eye(f, dtype=torch.double))
    exact, twin = (Course(lm, hp, editor.templates, "AlphaEdit", {layer: p.to(t)}) for t in (torch.double, torch.float))
    for past in (0, KEPT):
        old, memory = keys_like(c, past, generator), Past(kept, hp.L2)
        for part in old.split(EDITS, 1) if past else ():
            memory = memory.grown(part)
        exact.past[layer], twin.past[layer] = old @ old.T, (old @ old.T).float()
        found, wanted = spread(memory, keys, residual, hp.L2), exact.solve(layer, keys, residual)
        assert (found - wanted).norm() <= 1e-6 * wanted.norm()
        ours, other = versus(
            lambda memory=memory: (spread(memory, keys, residual, hp.L2), memory.grown(keys)),
            lambda: twin.solve(layer, keys.float(), residual.float()),
            rounds=3,
        )
        times = f"ours {1e3 * ours:.1f} ms a layer, f x f solve {1e3 * other:.0f} ms: {other / ours:.0f}x"
        yield f"AlphaEdit, f = {f}, {EDITS} edits after {past}: {times}"
    few = Past(kept, hp.L2).grown(old[:, :100])
    for count, kept_keys in ((100, few), (KEPT, memory)):
        held = sum(tensor.numel() * tensor.element_size() for tensor in kept_keys.state().values())
        yield f"{count} past edits: {held / count / 1e3:.1f} kB an edit and layer, {held / 1e6:.1f} MB in all"


def memit(lm: LM, edits: list[Edit]) -> Iterator[str]:
    """Keys and solves of an update in all layers, with past keys and without: the search for z costs both the same."""
    hp = hparams.load(MEMITSettings, hparams_file("MEMIT"))
    plain, cached = MEMIT(lm, hp), MEMIT(lm, replace(hp, cache=True))
    filled(cached, lm)
    z, notes = plain._targets(edits)
    for editor in (plain, cached):
        editor._targets = lambda edits: (z, dict(notes))
    ours, other = versus(lambda: cached.deltas(edits), lambda: plain.deltas(edits), rounds=3)
    times = f"with past keys {ours:.2f} s, without {other:.2f} s: {ours / other:.2f}x"
    yield f"MEMIT, {EDITS} edits after {KEPT}, z apart: {times}"


def filled(editor: SpreadEditor, lm: LM) -> None:
    """Let it remember so many edits, with keys drawn as the second moments say."""
    generator = torch.Generator().manual_seed(0)
    for layer, c in second_moments(lm, editor.hp.layers, editor.hp.corpus).items():
        for part in keys_like(c, KEPT, generator).split(100, 1):
            editor.past[layer] = editor.past[layer].grown(part)


def keys_like(c: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Keys (f, count) whose second moments are C."""
    drawn = torch.randn(len(c), count, generator=generator, dtype=torch.double)
    return torch.linalg.cholesky(c + 1e-9 * torch.eye(len(c), dtype=torch.double)) @ drawn


if __name__ == "__main__":
    printed(run, flagless="sequence")
