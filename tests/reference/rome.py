"""ROME the plain way, as its authors' code goes about it: every step runs the whole model on whole prompts.

A function per equation of Meng et al. 2022. The rows of an edit (its prompt in every template, and the KL prompt) are
one batch, padded on the right; all logits of all positions are made; parameters need no gradient.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.lm.hooks import replaced, trace
from core.lm.model import LM, orient
from core.lm.tokens import Row, encode, in_template, target_ids
from core.lm.weights import add_, preserved
from core.types import Deltas, Edit
from editors._moments import load

GOOD_ENOUGH = 0.05


def deltas(lm: LM, edit: Edit, hp: Any, templates: Sequence[str]) -> Deltas:
    """The update for one edit: v u^T at each layer, each on top of those below it."""
    found: Deltas = {}
    names = {layer: f"{lm.mlp_out(layer)}.weight" for layer in sorted(hp.layers)}
    with preserved(lm.model, names.values()):
        for layer, name in names.items():
            u = direction(lm, edit, hp, templates, layer)
            v = change(lm, edit, hp, templates, layer, u)
            found[name] = orient(lm.module(lm.mlp_out(layer)), torch.outer(v, u))
            add_(lm.model, {name: found[name]})
    return found


def direction(lm: LM, edit: Edit, hp: Any, templates: Sequence[str], layer: int) -> Tensor:
    """u = C^-1 kbar / |C^-1 kbar|, (f,); p-ROME: of the bare prompt's key."""
    u = mean_key(lm, edit, templates[:1] if hp.key == "bare" else templates, layer)
    if hp.mom2_adjustment:
        u = (torch.linalg.inv(load(lm, hp.layers, hp.corpus)[layer]) @ u.double()).float()
    return u / u.norm()


def mean_key(lm: LM, edit: Edit, templates: Sequence[str], layer: int) -> Tensor:
    """kbar (f,): the mean over the templates of the down projection's input at the subject's last token."""
    rows, at = zip(*(in_template(lm, template, edit) for template in templates), strict=True)
    with torch.no_grad(), trace(lm.model, lm.mlp_out(layer)) as seen:
        logits_of(lm, rows)
    return seen[lm.mlp_out(layer)].input[range(len(rows)), at].mean(0)


def change(lm: LM, edit: Edit, hp: Any, templates: Sequence[str], layer: int, u: Tensor) -> Tensor:
    """v = (v* - o*) / (k* . u), (d,); k* and o* are input and output of the down projection in the bare prompt.

    r-ROME: their means over the templates, each of which is run alone.
    """
    value = wanted_output(lm, edit, hp, templates, layer)
    keys, outputs = [], []
    for template in templates if hp.key == "mean" else ["{}"]:
        row, at = in_template(lm, template, edit)
        with torch.no_grad(), trace(lm.model, lm.mlp_out(layer)) as seen:
            logits_of(lm, [row])
        keys.append(seen[lm.mlp_out(layer)].input[0, at])
        outputs.append(seen[lm.mlp_out(layer)].output[0, at])
    key, output = torch.stack(keys).mean(0), torch.stack(outputs).mean(0)
    return (value - output) / (key @ u)


def wanted_output(lm: LM, edit: Edit, hp: Any, templates: Sequence[str], layer: int) -> Tensor:
    """v* = h0 + delta (d,): the MLP's output at the subject's last token that makes the target follow."""
    target = target_ids(lm, edit.target)
    placed = [in_template(lm, template, edit) for template in templates]
    rows = [ids + target[:-1] for ids, _ in placed] + [encode(lm, f"{edit.subject} is a")]
    at = [at for _, at in placed] + [len(encode(lm, edit.subject)) - 1]
    every = range(len(rows))
    h0: Tensor | None = None
    unedited: Tensor | None = None
    delta = torch.zeros(lm.model.config.hidden_size, device=lm.device, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=hp.v_lr)

    def shifted(output: Tensor) -> Tensor:
        nonlocal h0
        h0 = output[0, at[0]].detach().clone() if h0 is None else h0
        output = output.clone()
        output[every, at] += delta
        return output

    for step in range(hp.v_num_grad_steps):
        with replaced(lm.model, lm.mlp(layer), shifted):
            logp = logits_of(lm, rows).log_softmax(-1)  # (rows, width, vocabulary)
        assert h0 is not None
        after = logp[-1, at[-1]]  # (vocabulary,)
        unedited = after.detach() if unedited is None else unedited
        loss = (
            negative_log_likelihood(logp, rows[:-1], target)
            + hp.kl_factor * divergence(after, unedited)
            + hp.v_weight_decay * delta.norm() / h0.norm() ** 2
        )
        if loss < GOOD_ENOUGH or step == hp.v_num_grad_steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        project_(delta, hp.clamp_norm_factor * h0.norm())
    assert h0 is not None
    return h0 + delta.detach()


def negative_log_likelihood(logp: Tensor, rows: Sequence[Row], target: Row) -> Tensor:
    """mean over rows of -(1/n) sum_i log p(t_i), read at the last n tokens of each row."""
    n = len(target)
    per_row = [-logp[j, range(len(row) - n, len(row)), target].mean() for j, row in enumerate(rows)]
    return torch.stack(per_row).mean()


def divergence(now: Tensor, before: Tensor) -> Tensor:
    """KL(P_now || P_before) from log-probabilities over the vocabulary."""
    return (now.exp() * (now - before)).sum()


@torch.no_grad()
def project_(delta: Tensor, limit: Tensor) -> None:
    """Scale delta to the length `limit` if it is longer."""
    if delta.norm() > limit:
        delta *= limit / delta.norm()


def logits_of(lm: LM, rows: Sequence[Row]) -> Tensor:
    """Logits of every position, (rows, width, vocabulary); what stands to the right of a row is padding."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [lm.pad_id] * (width - len(row)) for row in rows], device=lm.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=lm.device)
    logits: Tensor = lm.model(ids, attention_mask=mask, use_cache=False).logits
    return logits
