"""UltraEdit the plain way: every row of every turn kept, statistics of them all at once, an f x f matrix inverted."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.lm.model import LM, orient
from core.lm.tokens import encode, target_ids
from core.lm.weights import add_
from core.types import Deltas, Edit

History = dict[tuple[int, int], list[Tensor]]
"""(f, d) of a weight -> the rows [h, g] of all turns so far."""


def sequence(lm: LM, turns: Sequence[Sequence[Edit]], hp: Any) -> list[Deltas]:
    """The update of each turn on the model with the updates before it, which stay in the model."""
    history: History = {}
    found = []
    for edits in turns:
        rows = rows_of(lm, edits, hp)
        for h, g in rows.values():
            history.setdefault((h.shape[1], g.shape[1]), []).append(torch.cat([h, g], 1))
        found.append({name: update(lm, name, h, g, history, hp) for name, (h, g) in rows.items()})
        add_(lm.model, found[-1])
    return found


def update(lm: LM, name: str, h: Tensor, g: Tensor, history: History, hp: Any) -> Tensor:
    """-lr |h^|^2 g^ as values of a ridge regression on h, in the weight's own layout."""
    every = torch.cat(history[h.shape[1], g.shape[1]]).double()
    normal = (torch.cat([h, g], 1).double() - every.mean(0)) / (every.std(0) + 1.1920929e-07)
    h_, g_ = normal.split([h.shape[1], g.shape[1]], 1)
    v = torch.stack([-hp.lr * (h_[i] @ h_[i]) * g_[i] for i in range(len(h_))])
    inverse = torch.linalg.inv(h.double().T @ h.double() + torch.eye(h.shape[1]).double())
    delta = (inverse @ h.double().T @ v).T.float()  # (d, f)
    return orient(lm.module(name.removesuffix(".weight")), delta).contiguous()


def rows_of(lm: LM, edits: Sequence[Edit], hp: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and gradients of each weight's module over the turn, texts run alone, the longest first in chunks."""
    texts = [(encode(lm, edit.prompt), target_ids(lm, edit.target)) for edit in edits]
    texts.sort(key=lambda text: -len(text[0]) - len(text[1]))
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in hp.inner_params}
    for first in range(0, len(texts), hp.batch_size_once):
        chunk = texts[first : first + hp.batch_size_once]
        tokens = sum(len(target) for _, target in chunk)
        for prompt, target in chunk:
            seen = backward(lm, prompt, target, tokens, hp.inner_params)
            start = len(prompt) - 1 if hp.token == "ans" else 0
            for name, (h, g) in seen.items():
                found[name][0].append(h[start:])
                found[name][1].append(g[start:])
    return {name: (torch.cat(h), torch.cat(g)) for name, (h, g) in found.items()}


def backward(
    lm: LM, prompt: list[int], target: list[int], tokens: int, names: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per weight the inputs of its module and the gradients at its outputs of this text's share of the mean loss."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []
    for name in names:

        def keep(module: Any, args: Any, output: Tensor, name: str = name) -> None:
            output.retain_grad()
            seen[name] = args[0].reshape(-1, args[0].shape[-1]), output

        weight = lm.model.get_parameter(name)
        weight.requires_grad_()
        hooks.append(lm.module(name.removesuffix(".weight")).register_forward_hook(keep))
    with torch.enable_grad():
        logp = lm.model(torch.tensor([prompt + target[:-1]])).logits[0, -len(target) :].log_softmax(-1)
        (-logp[range(len(target)), target].sum() / tokens).backward()
    for hook in hooks:
        hook.remove()
    lm.model.requires_grad_(False)
    for name in names:
        lm.model.get_parameter(name).grad = None
    made = {}
    for name, (h, output) in seen.items():
        assert output.grad is not None
        made[name] = h.detach(), output.grad.reshape(-1, output.shape[-1])
    return made
