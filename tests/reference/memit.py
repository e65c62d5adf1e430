"""MEMIT the slow way: one edit at a time, the whole model on whole prompts at every step, the solve as in the paper."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from core.lm.hooks import replaced, trace
from core.lm.model import LM, orient
from core.lm.tokens import Padded, in_template, pad, target_ids
from core.lm.weights import add_, preserved
from core.types import Deltas, Edit

Solve = Callable[[int, Tensor, Tensor], Tensor]
"""Layer, keys (f, B) and residual (d, B) -> the update there, (d, f); all float64."""


def deltas(
    lm: LM,
    hp: Any,
    templates: Sequence[str],
    moments: dict[int, Tensor],
    edits: Sequence[Edit],
    solve: Solve | None = None,
) -> Deltas:
    """The update for `edits`; `moments` are C of each layer. With `solve` that of a method that spreads alike."""

    def memit(layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        return residual @ keys.T @ torch.linalg.inv(hp.mom2_update_weight * moments[layer] + keys @ keys.T)

    z = torch.stack([target_vector(lm, hp, templates, edit) for edit in edits], 1).double()  # (d, B)
    found: Deltas = {}
    names = {layer: f"{lm.mlp_out(layer)}.weight" for layer in hp.layers}
    with preserved(lm.model, names.values()):
        for position, layer in enumerate(hp.layers):
            keys = torch.stack([key(lm, templates, edit, layer) for edit in edits], 1).double()  # (f, B)
            reached = torch.stack([passing(lm, ["{}"], edit, lm.block(hp.layers[-1]))[1][0] for edit in edits], 1)
            residual = (z - reached.double()) / (len(hp.layers) - position)
            update = (solve or memit)(layer, keys, residual).float()
            found[names[layer]] = orient(lm.module(lm.mlp_out(layer)), update)
            add_(lm.model, {names[layer]: found[names[layer]]})
    return found


def key(lm: LM, templates: Sequence[str], edit: Edit, layer: int) -> Tensor:
    """Half the key of the bare prompt, half the mean over the other templates, (f,)."""
    keys, _ = passing(lm, templates, edit, lm.mlp_out(layer))
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2


def target_vector(lm: LM, hp: Any, templates: Sequence[str], edit: Edit) -> Tensor:
    """z of one edit, (d,)."""
    target = target_ids(lm, edit.target)
    kl_prompt = Edit(f"{edit.subject} is a", edit.subject, "", "")
    placed = [*(in_template(lm, t, edit) for t in templates), in_template(lm, "{}", kl_prompt)]
    rows = [ids + target[:-1] for ids, _ in placed[:-1]] + [placed[-1][0]]
    tokens = pad(lm, rows)
    at = torch.tensor([tokens.ids.shape[1] - len(row) + at for row, (_, at) in zip(rows, placed, strict=True)])
    block = lm.block(hp.layers[-1])
    every = torch.arange(len(rows))
    with torch.no_grad(), trace(lm.model, block) as seen:
        forward(lm, tokens)
    h0 = seen[block].output[0, at[0]].clone()
    delta = torch.zeros_like(h0, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=hp.v_lr)
    unedited, hits = None, list[bool]()

    def shifted(out: Tensor) -> Tensor:
        added = torch.zeros_like(out)
        added[every, at] = delta
        return out + added

    for step in range(hp.v_num_grad_steps):
        with replaced(lm.model, block, shifted), trace(lm.model, lm.block(hp.v_loss_layer)) as seen:
            logits = forward(lm, tokens)
        told = lm.logits(lm.module(lm.paths.final_norm)(seen[lm.block(hp.v_loss_layer)].output))
        logp = told[:-1, -len(target) :].log_softmax(-1)
        nll = -torch.stack([logp[:, i, token] for i, token in enumerate(target)]).mean()
        after = logits[-1, at[-1]].log_softmax(-1)
        unedited = after.detach() if unedited is None else unedited
        kl = (after.exp() * (after - unedited)).sum()
        loss = nll + hp.kl_factor * kl + hp.v_weight_decay * delta.norm() / h0.norm() ** 2
        hits.append(all(bool((logp[:, i].argmax(-1) == token).all()) for i, token in enumerate(target)))
        stop = hp.v_stop_after is not None and any(hits[: len(hits) - hp.v_stop_after])
        if loss < 0.05 or step == hp.v_num_grad_steps - 1 or stop:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        limit = hp.clamp_norm_factor * h0.norm()
        if delta.norm() > limit:
            delta.data.mul_(limit / delta.data.norm())
    return (h0 + delta).detach()


def forward(lm: LM, tokens: Padded) -> Tensor:
    out = lm.model(tokens.ids, attention_mask=tokens.mask, position_ids=tokens.positions, use_cache=False)
    logits: Tensor = out.logits
    return logits


@torch.no_grad()
def passing(lm: LM, templates: Sequence[str], edit: Edit, path: str) -> tuple[Tensor, Tensor]:
    """What goes into and out of a module at the subject's last token, one prompt at a time, (N, features) each."""
    found = []
    for template in templates:
        ids, at = in_template(lm, template, edit)
        with trace(lm.model, path) as seen:
            forward(lm, pad(lm, [ids]))
        found.append((seen[path].input[0, at], seen[path].output[0, at]))
    inputs, outputs = zip(*found, strict=True)
    return torch.stack(inputs), torch.stack(outputs)
