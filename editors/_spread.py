"""Many facts in one update, spread over the down projections of several layers: what MEMIT, AlphaEdit and EMMET share.

Legend: l_1 < ... < l_m edited layers, z_i (d) the wanted output of block l_m at the subject's last token of edit i,
K (f, B) keys of the B edits, R (d, B) what is left to add to reach z, spread over the layers still to come. Layer by
layer, each seeing the updates of the layers below it, solved in float64,

    Delta = R K^T (w M + K K^T)^-1 = R (w I + K^T M^-1 K)^-1 K^T M^-1

the same by the push-through identity, with a B x B solve instead of an f x f one. The methods differ in M (f, f), what
an update should leave alone, and in the weight w of that.

Methods that remember the keys of past edits have them in M (editors/_moments.py), K K^T / w more after each update.
They are the keys that the update was solved with. The released codes run the edited model once more: the same, as the
key at a layer depends on the layers below it alone.

A regulariser with error feedback holds back a part H (d, f) of the updates so far and adds it to the next. That one is
solved as if H were in the weights already, Delta = (R - H K) K^T (w M + K K^T)^-1. With past keys in M, Delta + H is
what *The Labyrinth and the Thread* (arXiv 2605.26670) solves for: there the error is kept as E = -H A, with the
A = w M + K K^T of the update before, and the update is (R K^T - E) A'^-1, where A' = A + K K^T with the new keys.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from core.errors import EditRefused
from core.lm.batches import in_batches
from core.lm.forward import final_states, resume
from core.lm.hooks import trace
from core.lm.model import LM, orient
from core.lm.tokens import Row, in_template, pad
from core.lm.weights import add_, preserved
from core.types import Deltas, Edit, Notes
from editors._moments import Past, Solver
from editors._value.prompts import Batch, Prompts, prompts_of
from editors._value.search import anchored, optimise
from editors._value.settings import TargetEditor, TargetSettings

FREE = {"cpu": 256, "cuda": 512}
"""A step over fewer tokens takes hardly less time: it waits for weights, the vocabulary's most, or a GPU's launches."""


@dataclass(frozen=True, kw_only=True)
class SpreadSettings(TargetSettings):
    """Settings that these methods have in common.

    `edit_batch` is how many edits are optimised at a time, at most; it halves by itself where memory runs out.
    """

    context_template_length_params: tuple[tuple[int, int], ...] = ((10, 5),)
    edit_batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mom2_adjustment:
            raise ValueError("mom2_adjustment: this method cannot do without second moments, expected true")
        if self.edit_batch < 1 or list(self.layers) != sorted(set(self.layers)):
            raise ValueError("expected edit_batch of 1 or more and layers in ascending order")


class SpreadEditor(TargetEditor):
    """See the module's docstring. Notes: per edit the last loss, the number of forward passes and the length of v*,
    per layer how far the edits are from z before it."""

    modes = frozenset({"Batch-Single", "Batch-Sequential"})
    edit_batch = True
    past: dict[int, Past]
    """Per layer what an update is to leave alone, past edits included."""
    held: Deltas
    fresh: tuple[list[Edit], dict[int, Past]]
    """The edits of the last update, and what `past` is to be once it is applied."""

    def __init__(self, lm: LM, hp: Any, seed: int = 0) -> None:
        super().__init__(lm, hp, seed)
        self.load_state({})

    def weight(self, edits: int) -> float:
        """w for an update of so many edits."""
        raise NotImplementedError

    @property
    def remembers(self) -> bool:
        """Whether the keys of past edits are kept. Only where the weight is the same for any number of edits."""
        return False

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The update for all `edits` at once. The model is the same before and after."""
        warn_of_conflicts(edits)
        lm, grown = self.lm, dict[int, Past]()
        deltas: Deltas = {}
        z, notes = self._targets(edits)  # (d, B)
        with preserved(lm.model, self.names.values()):
            for position, (layer, name) in enumerate(self.names.items()):
                module, past = lm.module(lm.mlp_out(layer)), self.past[layer]
                keys, reached = self._state(edits, layer)  # (f, B), (d, B)
                residual = (z - reached) / (len(self.names) - position)
                held = self.held.get(name)
                if held is not None:
                    residual -= (orient(module, held).to(keys) @ keys).to(residual)
                update = spread(past, keys, residual, self.weight(len(edits)))
                deltas[name] = orient(module, update.float()).contiguous()
                add_(lm.model, {name: deltas[name] if held is None else deltas[name] + held.to(deltas[name])})
                notes[f"distance to z before layer {layer}"] = float((z - reached).norm(dim=0).mean())
                if self.remembers:
                    grown[layer] = past.grown(keys)
        self.fresh = (list(edits), grown)
        return deltas, notes

    def carry(self, held: Deltas) -> None:
        self.held = held

    def applied(self, edits: Sequence[Edit]) -> None:
        solved_for, grown = self.fresh
        assert solved_for == list(edits), "an update is applied right after it was made"
        self.past |= grown

    def state(self) -> dict[str, Tensor]:
        return {f"{layer}/{part}": t for layer, past in self.past.items() for part, t in past.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        parts: dict[int, dict[str, Tensor]] = {layer: {} for layer in self.names}
        for key, tensor in state.items():
            layer, _, part = key.partition("/")
            parts[int(layer)][part] = tensor
        solvers: dict[int, Solver] = dict(self.moments)
        self.past = {layer: Past(solvers[layer], self.weight(1), **parts[layer]) for layer in self.names}
        self.held, self.fresh = {}, ([], {})

    def _targets(self, edits: Sequence[Edit]) -> tuple[Tensor, Notes]:
        """z of each edit, (d, B) float64: the vector that, as output of the last edited block, yields the target.

        And what is to be noted of the search for them.
        """
        prompts = [prompts_of(self.lm, edit, self.templates) for edit in edits]
        order = sorted(range(len(edits)), key=lambda i: (prompts[i].columns, max(map(len, prompts[i].rows))))
        z: dict[int, Tensor] = {}
        losses: dict[int, list[float]] = {}
        norms: dict[int, float] = {}
        size = self.hp.edit_batch
        with tqdm(total=len(edits), desc="optimising z", unit="edit", leave=False, disable=len(edits) < 2) as bar:
            while len(z) < len(edits):
                batch = self._alike(prompts, order[len(z) : len(z) + size])
                try:
                    found = self._optimised([prompts[i] for i in batch])
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
                    found = None
                if found is None:  # now nothing holds the batch that was too large
                    size = max(1, len(batch) // 2)
                    torch.cuda.empty_cache()
                    continue
                values, traces, lengths = found
                z.update(zip(batch, values, strict=True))
                losses.update(zip(batch, traces, strict=True))
                norms.update(zip(batch, lengths, strict=True))
                bar.update(len(batch))
        every = range(len(edits))
        notes = {
            "loss_last": [losses[i][-1] for i in every],
            "forwards": [len(losses[i]) for i in every],
            "v_norm": [norms[i] for i in every],
        }
        return torch.stack([z[i] for i in every], 1).double(), notes

    def _alike(self, prompts: Sequence[Prompts], order: list[int]) -> list[int]:
        """The next edits to optimise together: no pads in what each step runs, unless they cost nothing."""
        free = FREE.get(self.lm.device.type, FREE["cuda"])
        columns = [prompts[i].columns for i in order]
        rows = len(prompts[order[0]].rows)
        count = 1
        while count < len(order) and (columns[count] == columns[0] or count * rows * columns[count] < free):
            count += 1
        return order[:count]

    def _optimised(self, prompts: list[Prompts]) -> tuple[Tensor, list[list[float]], list[float]]:
        """z (B, d) float32 of a few edits, the losses on the way, and the length of each v*, the MLP's output."""
        lm, last = self.lm, self.hp.layers[-1]
        batch, block, mlp = Batch(lm, prompts), lm.block(last), lm.mlp(last)
        points, seen = resume(lm, batch.reads.tokens, range(last, last + 1), batch.column, block, mlp)
        h0, v0 = (seen[path].output[:: batch.rows_each, batch.column] for path in (block, mlp))  # bare prompts, (B, d)
        best = optimise(batch, points[last], block, h0, self.hp, max(self.hp.v_loss_layer, last))
        shift, lengths = anchored(best.delta, v0, self.hp)
        return h0.float() + shift, best.losses, lengths

    @torch.no_grad()
    def _state(self, edits: Sequence[Edit], layer: int) -> tuple[Tensor, Tensor]:
        """With the weights as they are now: keys at `layer` (f, B) and the last edited block's output (d, B), float64.

        A key is the mean of that of the bare prompt and of the mean over the other templates.
        """
        lm, out, block = self.lm, self.lm.mlp_out(layer), self.lm.block(self.hp.layers[-1])
        rows: list[Row] = []
        for edit in edits:
            for template in self.templates:
                ids, at = in_template(lm, template, edit)
                rows.append(ids[: at + 1])

        def work(batch: list[Row]) -> list[tuple[Tensor, Tensor]]:
            tokens = pad(lm, batch)
            with trace(lm.model, out, block, stop=True) as seen:
                final_states(lm, tokens)
            return list(zip(seen[out].input[:, -1].double(), seen[block].output[:, -1].double(), strict=True))

        keys, reached = zip(*in_batches(rows, work, lm, len, what="keys"), strict=True)
        grouped = torch.stack(keys).view(len(edits), len(self.templates), -1)  # (B, N, f)
        mean = grouped[:, 0] if len(self.templates) == 1 else (grouped[:, 0] + grouped[:, 1:].mean(1)) / 2
        return mean.T, torch.stack(reached[:: len(self.templates)], 1)


def spread(moments: Solver, keys: Tensor, residual: Tensor, weight: float) -> Tensor:
    """R K^T (weight M + K K^T)^-1, (d, f) float64, from M, K (f, B) and R (d, B).

    EditRefused where the system cannot be solved.
    """
    solved = moments.solve(keys)  # M^-1 K, (f, B)
    eye = torch.eye(keys.shape[1], dtype=solved.dtype, device=solved.device)
    small = weight * eye + keys.to(solved).T @ solved  # (B, B)
    try:
        right = torch.linalg.solve(small, residual.to(solved).T)  # small is symmetric
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise EditRefused(f"lambda I + K^T C^-1 K cannot be solved with ({str(error).splitlines()[0]})") from error
    update: Tensor = (solved @ right).T
    return update.to(keys.device)


def warn_of_conflicts(edits: Sequence[Edit]) -> None:
    """One line on stderr for two edits of a batch that want different answers to the same prompt."""
    seen: dict[tuple[str, str], Edit] = {}
    for edit in edits:
        other = seen.setdefault((edit.subject, edit.prompt), edit)
        if other.target != edit.target:
            tqdm.write(
                f"warning: edits {other.index} and {edit.index} of one batch want both {other.target!r} and "
                f"{edit.target!r} after {edit.prompt!r}",
                file=sys.stderr,
            )
