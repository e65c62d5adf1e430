"""LoRA and AdaLoRA by their formulas: a copy of the unedited model with hooks, each text run alone, no library."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.lm.model import LM, orient
from core.lm.tokens import encode, target_ids
from core.types import Deltas, Edit


def deltas(unedited: LM, edits: Sequence[Edit], hp: Any, start: Mapping[str, Tensor]) -> Deltas:
    """What the adapter that `start` holds adds after training on the edits, less what it adds before."""
    model = copy.deepcopy(unedited.model)
    factors = {name: value.clone().requires_grad_() for name, value in start.items()}
    paths = list(dict.fromkeys(name.partition(".lora_")[0] for name in factors))
    before = {path: product(factors, path, hp).detach() for path in paths}

    def beside(path: str) -> Any:
        return lambda module, args, output: output + args[0] @ product(factors, path, hp).T

    for path in paths:
        model.get_submodule(path).register_forward_hook(beside(path))
    adam = torch.optim.Adam(factors.values(), lr=hp.lr, weight_decay=hp.weight_decay)
    for _ in range(hp.num_steps):
        for first in range(0, len(edits), hp.batch_size):
            with torch.enable_grad():
                tokens = [nll(unedited, model, edit) for edit in edits[first : first + hp.batch_size]]
                loss = torch.cat(tokens).mean()
                if hp.lora_type == "adalora":
                    loss = loss + 0.5 * torch.stack(skewness(factors)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    change = {path: product(factors, path, hp).detach() - before[path] for path in paths}
    return {f"{path}.weight": orient(unedited.module(path), delta) for path, delta in change.items()}


def product(factors: Mapping[str, Tensor], path: str, hp: Any) -> Tensor:
    """What is added to a weight, (d, f)."""
    if hp.lora_type == "lora":
        a, b = (factors[f"{path}.lora_{word}.weight"] for word in "AB")
        return hp.lora_alpha / hp.rank * b @ a
    a, b, e = (factors[f"{path}.lora_{word}"] for word in "ABE")
    return hp.lora_alpha / (hp.rank + 1e-5) * b @ torch.diag(e[:, 0]) @ a


def skewness(factors: Mapping[str, Tensor]) -> list[Tensor]:
    """The Frobenius norm of A A^T - I for every A, of B^T B - I for every B."""
    squares = [f @ f.T for name, f in factors.items() if name.endswith("lora_A")]
    squares += [f.T @ f for name, f in factors.items() if name.endswith("lora_B")]
    return [(square - torch.eye(len(square))).square().sum().sqrt() for square in squares]


def nll(lm: LM, model: Any, edit: Edit) -> Tensor:
    """-log p of each token of the target after the prompt and the tokens before it."""
    prompt, target = encode(lm, edit.prompt), target_ids(lm, edit.target)
    logp = model(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
    return -torch.stack([logp[len(prompt) + i - 1, token] for i, token in enumerate(target)])
