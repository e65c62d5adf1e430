"""KN's integrated gradients the slow way: the whole model on the whole prompt, one answer token at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.lm.hooks import replaced, trace
from core.lm.model import LM
from core.lm.tokens import Row, continuation, encode, target_ids
from core.types import Edit
from editors.kn import KNSettings


def scores(lm: LM, hp: KNSettings, edit: Edit, layers: Sequence[int] | None = None) -> Tensor:
    """(layers, f), of all layers or of those asked for."""
    layers = range(lm.n_layers) if layers is None else layers
    old = target_ids(lm, edit.old) if hp.prepend_space else continuation(lm, edit.old)
    prompt = encode(lm, edit.prompt)
    per_token = []
    for token in old:
        per_token.append(torch.stack([attribution(lm, hp, prompt, token, layer) for layer in layers]))
        if hp.grow_prompt:
            prompt = [*prompt, int(logits(lm, [prompt])[0].argmax())]
    return torch.stack(per_token).mean(0)


def attribution(lm: LM, hp: KNSettings, prompt: Row, token: int, layer: int) -> Tensor:
    """a / S sum_s dP(token)/da, with the activation at the last token replaced by its scaled copies, (f,)."""
    path = lm.mlp_in(layer)
    with torch.no_grad(), trace(lm.model, path) as seen:
        logits(lm, [prompt])
    activation = seen[path].output[0, -1, : lm.key_width(layer)]
    gradient = torch.zeros_like(activation)
    for scales in torch.linspace(0, 1, hp.steps).split(hp.batch_size):
        scaled = (scales.unsqueeze(1) * activation).requires_grad_()

        def substituted(out: Tensor, scaled: Tensor = scaled) -> Tensor:
            last = torch.cat([scaled.unsqueeze(1), out[:, -1:, len(activation) :]], 2)
            return torch.cat([out[:, :-1], last], 1)

        with replaced(lm.model, path, substituted):
            chances = logits(lm, [prompt] * len(scales)).softmax(-1)[:, token]
        gradient += torch.autograd.grad(chances.sum(), scaled)[0].sum(0)
    return activation / hp.steps * gradient


def logits(lm: LM, rows: list[Row]) -> Tensor:
    """Logits at the last token of equally long prompts, (rows, vocabulary)."""
    out = lm.model(torch.tensor(rows, device=lm.device), use_cache=False)
    last: Tensor = out.logits[:, -1]
    return last
