"""Causal tracing the slow way: the whole model on one row, for every draw of the noise and every layer anew."""

from contextlib import ExitStack

import torch
from torch import Tensor

from core.lm.hooks import replaced, trace
from core.lm.model import LM
from inputs.tracing import Fact, Plan, Traced, draw


@torch.no_grad()
def traced(lm: LM, fact: Fact, plan: Plan) -> Traced:
    paths = [lm.mlp(layer) for layer in range(lm.n_layers)]
    with trace(lm.model, *paths) as seen:
        clean = chance(lm, fact)
    written = [seen[path].output[0, fact.last] for path in paths]
    draws = draw(fact, plan, lm.model.get_input_embeddings().weight.shape[1])
    runs = []  # per draw: the corrupted run, then one with each layer restored
    for one in draws:
        with replaced(lm.model, lm.embeddings.removesuffix(".weight"), shifted(fact, one)):
            windows = [plan.around(layer, lm.n_layers) for layer in range(lm.n_layers)]
            runs.append([chance(lm, fact), *(restored(lm, fact, window, written) for window in windows)])
    corrupted, *layers = torch.tensor(runs).mean(0)
    return Traced(clean, float(corrupted), torch.stack(layers))


def restored(lm: LM, fact: Fact, window: range, written: list[Tensor]) -> float:
    with ExitStack() as stack:
        for at in window:

            def put(out: Tensor, at: int = at) -> Tensor:
                out = out.clone()
                out[0, fact.last] = written[at]
                return out

            stack.enter_context(replaced(lm.model, lm.mlp(at), put))
        return chance(lm, fact)


def shifted(fact: Fact, noise: Tensor):  # type: ignore[no-untyped-def]
    def add(out: Tensor) -> Tensor:
        out = out.clone()
        out[0, fact.first : fact.last + 1] += noise
        return out

    return add


def chance(lm: LM, fact: Fact) -> float:
    """P(answer | prompt), from one unpadded row with all its logits."""
    logits = lm.model(torch.tensor([fact.prompt + fact.answer]), use_cache=False).logits[0]
    said = logits[len(fact.prompt) - 1 : -1].softmax(-1)
    return float(said[range(len(fact.answer)), fact.answer].prod())
