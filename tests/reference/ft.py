"""FT-L and FT-M the plain way: a copy of the model whose parameters are trained in place, row by row."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.lm.model import LM
from core.lm.tokens import encode, target_ids
from core.types import Deltas, Edit


def deltas(lm: LM, edits: Sequence[Edit], hp: Any) -> Deltas:
    """The change of the down projections' parameters after all epochs."""
    model = copy.deepcopy(lm.model)
    wanted = tuple(f"{lm.mlp_out(layer)}." for layer in hp.layers)
    trained = {name: weight for name, weight in model.named_parameters() if name.startswith(wanted)}
    start = {name: weight.detach().clone() for name, weight in trained.items()}
    for weight in trained.values():
        weight.requires_grad_()
    adam = torch.optim.Adam(trained.values(), lr=hp.lr, weight_decay=hp.weight_decay)
    for _ in range(hp.num_steps):
        losses = []
        for first in range(0, len(edits), hp.batch_size):
            chunk = edits[first : first + hp.batch_size]
            with torch.enable_grad():
                rows = [row_loss(lm, model, edit, hp.objective_optimization) for edit in chunk]
                loss = torch.stack(rows).mean()
            losses += [loss.item()] * len(chunk)
            if loss.item() >= 1e-2:
                adam.zero_grad()
                loss.backward()
                adam.step()
            if hp.norm_constraint:
                with torch.no_grad():
                    for name, weight in trained.items():
                        weight.clamp_(start[name] - hp.norm_constraint, start[name] + hp.norm_constraint)
        if sum(losses) / len(losses) < 1e-2:
            break
    return {name: weight.detach() - start[name] for name, weight in trained.items()}


def row_loss(lm: LM, model: Any, edit: Edit, objective: str) -> Tensor:
    """-log p of the target's tokens, their mean: all at the end of the prompt, or each after those before it."""
    prompt, target = encode(lm, edit.prompt), target_ids(lm, edit.target)
    if objective == "prompt_last":
        logp = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        return -logp[target].mean()
    logp = model(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
    return -torch.stack([logp[len(prompt) + i - 1, token] for i, token in enumerate(target)]).mean()
