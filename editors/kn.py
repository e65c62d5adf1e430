"""KN: find the neurons that express a fact, and overwrite what they write.

Dai et al., *Knowledge Neurons in Pretrained Transformers* (ACL 2022), equations 2-3, as run by the paper on
autoregressive models. Legend: a_l (f) output of the MLP's first projection at the prompt's last token, before the
non-linearity (the gate's half of it, where gate and up are one matrix); g the n tokens of the old answer, t those of
the new one; E the input embedding.

    score_l = 1/n sum_i  a_l / S  sum_s  d P(g_i | prompt_i, a_l scaled by s / (S - 1)) / d a_l,    s = 0..S-1

Neurons with a score above `adaptive_threshold` x the largest one get a new row in the down projection: with y the
model's own len(t) greedy tokens, row += -2 E[y_0] + E[t_0] for a single token, else row += sum_i (E[t_i] - E[y_i]).

Every g_i is scored after the bare prompt (`grow_prompt: false`, as the released code does for GPT-2 and GPT-J), or
after the prompt grown by the model's own greedy tokens (true, as it does for LLaMA). `prepend_space: true` puts a blank
before both answers; the released code does not.

Differs from the released code: only the last token depends on the scaled activation, so everything before it is a
cache, the blocks below are not run again, and the scaled copies are one batch; P is summed over the g_i of a prompt
before one backward pass. The update is applied once (there it is applied twice).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from core.errors import UserError
from core.lm.forward import Resumed, resume
from core.lm.generate import greedy
from core.lm.hooks import replaced
from core.lm.model import LM, orient
from core.lm.tokens import Row, continuation, encode, of_edit, pad, target_ids
from core.lm.weights import at_hand
from core.types import Deltas, Edit, Editor, Notes

TINY = torch.finfo(torch.float32).tiny
TOGETHER = {"cpu": 0, "cuda": 4096}
"""Cached tokens, of all scaled copies, up to which the neurons of several layers are scored in one pass. Some rows then
run through blocks that leave them as they were, but a GPU waits for launches, as many for one layer as for several."""


@dataclass(frozen=True)
class KNSettings:
    """Settings of KN, under the names of the released files. `batch_size` scaled copies of a prompt are run at a time.

    With the one prompt of an edit `refine`, `p` and `n_toks` (filters over several prompts) have nothing to do.
    """

    steps: int
    batch_size: int
    adaptive_threshold: float
    grow_prompt: bool = False
    prepend_space: bool = False
    lr_scale: float = 1.0
    refine: bool = False
    p: float = 0.4
    n_toks: int = 10

    def __post_init__(self) -> None:
        if self.refine or self.lr_scale != 1.0:
            raise ValueError(
                "refine: expected false, and lr_scale: expected 1.0 (an edit has one prompt and no step size)"
            )
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("steps and batch_size: expected 1 or more")
        if not 0 <= self.adaptive_threshold < 1:
            raise ValueError("adaptive_threshold: expected a share of the largest score, from 0 to below 1")


class KN(Editor):
    """See the module's docstring. Notes: the edit's neurons, [layer, index, score] each."""

    name = "KN"
    modes = frozenset({"Instance-Sequential"})
    needs = frozenset({"old"})
    hparams = KNSettings

    def __init__(self, lm: LM, hp: KNSettings, seed: int = 0) -> None:
        at_hand(lm.model, [*(f"{lm.mlp_out(layer)}.weight" for layer in range(lm.n_layers)), lm.embeddings])
        self.lm, self.hp = lm, hp

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The update for one edit: new rows for its neurons. The model is only read."""
        (edit,) = edits
        lm = self.lm
        scores = self.scores(edit)  # (layers, f)
        neurons = (scores > self.hp.adaptive_threshold * scores.max()).nonzero().tolist()
        notes = {"neurons": [[layer, index, float(scores[layer, index])] for layer, index in neurons]}
        row = self._new_row(edit)  # (d,)
        deltas: Deltas = {}
        for layer in sorted({layer for layer, _ in neurons}):
            out = lm.module(lm.mlp_out(layer))
            update = torch.zeros(len(row), scores.shape[1], device=row.device)  # (d, f)
            update[:, [index for at, index in neurons if at == layer]] = row.unsqueeze(1)
            deltas[f"{lm.mlp_out(layer)}.weight"] = orient(out, update).contiguous()
        return deltas, notes

    def scores(self, edit: Edit) -> Tensor:
        """Integrated gradients of the old answer's probability, (layers, f) float32."""
        lm = self.lm
        old, prompt = self._answer(edit, edit.old), encode(lm, edit.prompt)
        if not old:
            raise UserError(
                f"edit {edit.index}: KN looks for the neurons of the old answer, but there is none ('pred')"
            )
        if len(prompt) + max(len(old), len(self._answer(edit, edit.target))) > lm.context:
            raise UserError(f"edit {edit.index}: {len(prompt)} tokens long, too long for '{lm.name}' ({lm.context})")
        if self.hp.grow_prompt:
            said = greedy(lm, [prompt], len(old), past_end=True)[0]
            rows, wanted = [prompt + said[:i] for i in range(len(old))], [[token] for token in old]
        else:
            rows, wanted = [prompt], [old]
        tokens, paths = pad(lm, rows), [lm.mlp_in(layer) for layer in range(lm.n_layers)]
        points, seen = resume(lm, tokens, range(lm.n_layers), tokens.ids.shape[1] - 1, *paths)
        answers = torch.tensor(wanted, device=lm.device)  # (prompts, answers each)
        activations = [seen[path].output[:, -1, : lm.key_width(at)].float() for at, path in enumerate(paths)]
        together = TOGETHER.get(lm.device.type, TOGETHER["cuda"])
        scores, size = [], max(1, together // (self.hp.batch_size * tokens.ids.numel()))
        for first in range(0, lm.n_layers, size):
            some = activations[first : first + size]  # (prompts, f) each
            for each, gradients in zip(some, self._gradients(points[first], some, answers), strict=True):
                scores.append((each * gradients).sum(0) / self.hp.steps / len(old))
        return torch.stack([score.to(lm.device) for score in scores])

    def _gradients(self, point: Resumed, activations: Sequence[Tensor], answers: Tensor) -> list[Tensor]:
        """Sum over the scaled copies of d sum_i P(answers_i) / d activation, per prompt: (prompts, f) for each layer.

        `activations` (prompts, f) are those of the layers from `point.layer` on; each has scaled copies of its own.
        """
        lm, prompts = self.lm, len(activations[0])
        totals = [torch.zeros_like(each) for each in activations]
        for scales in torch.linspace(0, 1, self.hp.steps).split(self.hp.batch_size):
            row = torch.arange(prompts, device=point.hidden.device).repeat_interleave(len(scales))
            row = row.repeat(len(activations))
            scaled = [
                torch.einsum("s,pf->psf", scales.to(each), each).flatten(0, 1).requires_grad_() for each in activations
            ]  # (copies, f) each
            with torch.enable_grad(), ExitStack() as stack:
                for at, copies in enumerate(scaled):
                    path, rows = lm.mlp_in(point.layer + at), range(at * len(copies), (at + 1) * len(copies))
                    stack.enter_context(replaced(lm.model, path, partial(_substituted, copies, rows)))
                chances = lm.logits(point.rows(row).run()[:, -1]).float().softmax(-1)  # (rows, vocabulary)
                wanted = chances.gather(1, answers[row.to(answers.device)].to(chances.device))
                wanted = wanted.sum(1)  # (rows,)
                # A small P's gradient may be too small for the model's dtype; that of log P is 1 / P times as large.
                gradients = torch.autograd.grad(wanted.clamp(min=TINY).log().sum(), scaled)
            chance = wanted.detach().chunk(len(activations))
            for total, gradient, p in zip(totals, gradients, chance, strict=True):
                total += (gradient * p.to(gradient).unsqueeze(1)).view(prompts, len(scales), -1).sum(1)
        return totals

    def _new_row(self, edit: Edit) -> Tensor:
        """What is added to every neuron's row, (d,) float32."""
        lm, new = self.lm, self._answer(edit, edit.target)
        said = greedy(lm, [encode(lm, edit.prompt)], len(new), past_end=True)[0]
        embed = lm.model.get_input_embeddings().weight
        factor = -2 if len(new) == 1 else -1
        row: Tensor = factor * embed[said].float().sum(0) + embed[new].float().sum(0)
        return row

    def _answer(self, edit: Edit, text: str) -> Row:
        with of_edit(edit):
            return target_ids(self.lm, text) if self.hp.prepend_space else continuation(self.lm, text)


def _substituted(scaled: Tensor, rows: range, out: Tensor) -> Tensor:
    """The output of a first projection, (rows, tokens, f or more), with `scaled` (copies, f) in place of some rows."""
    own = out[rows.start : rows.stop, ..., scaled.shape[1] :]
    return torch.cat([out[: rows.start], torch.cat([scaled.to(out).unsqueeze(1), own], -1), out[rows.stop :]])


EDITOR = KN
