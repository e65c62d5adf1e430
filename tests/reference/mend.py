"""MEND's training loss for one update, the slow way: the twin that `editors/mend/outcome.py` is checked against.

One edit after another, each text in a pass of its own through the whole model; a d_out x d_in matrix for every token,
summed; the edited model is a functional call with whole edited weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.lm.model import LM, orient
from core.lm.tokens import encode, target_ids
from core.types import Edit
from editors.mend.network import Factors, Network
from editors.mend.settings import MENDSettings


def read(lm: LM, prompt: str, answer: str | list[int], weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, vocabulary) where the answer's n tokens are said, with `weights` in place; those tokens."""
    target = target_ids(lm, answer) if isinstance(answer, str) else answer
    ids = torch.tensor([encode(lm, prompt) + target], device=lm.device)
    logits = torch.func.functional_call(lm.model, weights, (ids,)).logits[0]
    return logits[-len(target) - 1 : -1].float().log_softmax(-1), torch.tensor(target, device=lm.device)


@torch.no_grad()
def continued(lm: LM, prompt: str, answer: str) -> list[int]:
    """As many tokens as the answer has, each the likeliest after all before it."""
    ids = encode(lm, prompt)
    for _ in target_ids(lm, answer):
        ids = [*ids, int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[len(encode(lm, prompt)) :]


def edit_loss(lm: LM, edits: Sequence[Edit], weights: dict[str, Tensor], batch_loss: str = "mean") -> Tensor:
    """Mean negative log-likelihood of all target tokens, or the sum over edits of that of each one's tokens."""
    said = [read(lm, e.prompt, e.target, weights) for e in edits]
    each = [-logp[range(len(t)), t] for logp, t in said]
    return torch.cat(each).mean() if batch_loss == "mean" else torch.stack([nll.mean() for nll in each]).sum()


def token_factors(lm: LM, edits: Sequence[Edit], names: Sequence[str], batch_loss: str) -> dict[str, Factors]:
    """x and g of every token of the edits with a gradient, from autograd's own graph."""
    weights = {n: lm.model.get_parameter(n).detach().clone().requires_grad_() for n in names}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {n: [] for n in names}
    hooks = []
    for name in names:

        def keep(module: object, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            output.retain_grad()
            seen[name].append((args[0], output))

        hooks.append(lm.module(name.removesuffix(".weight")).register_forward_hook(keep))
    with torch.enable_grad():
        edit_loss(lm, edits, weights, batch_loss).backward()
    for hook in hooks:
        hook.remove()
    out = {}
    for name, passes in seen.items():
        x = torch.cat([x.detach().flatten(0, -2) for x, _ in passes])
        g = torch.cat([y.grad.flatten(0, -2) for _, y in passes if y.grad is not None])
        kept = (x != 0).any(1) & (g != 0).any(1)
        out[name] = Factors(x[kept], g[kept], torch.zeros(int(kept.sum()), dtype=torch.long, device=x.device))
    return out


def update(lm: LM, net: Network, edits: Sequence[Edit], batch_loss: str) -> dict[str, Tensor]:
    """Edited weights: every token's gradient as a matrix of the weight's size, transformed, summed and added."""
    edited = {}
    for name, f in net(token_factors(lm, edits, list(net.shapes), batch_loss)).items():
        tokens = torch.stack([torch.outer(g, x) for g, x in zip(f.g, f.x, strict=True)])  # (R, d_out, d_in)
        delta = orient(lm.module(name.removesuffix(".weight")), tokens.sum(0))
        edited[name] = lm.model.get_parameter(name) + delta
    return edited


def total(lm: LM, net: Network, edits: Sequence[Edit], hp: MENDSettings) -> Tensor:
    """The training loss of one update."""
    edited = update(lm, net, edits, hp.batch_loss)
    said = [read(lm, e.rephrase or e.prompt, e.target, edited) for e in edits]
    loss = hp.cedit * torch.cat([-logp[range(len(t)), t] for logp, t in said]).mean()
    given = [(e.locality, e.locality_answer) for e in edits if e.locality and e.locality_answer]
    asking = [(q, answer if hp.loc_answers == "given" else continued(lm, q, answer)) for q, answer in given]
    if asking:
        with torch.no_grad():
            was = torch.cat([read(lm, *pair, {})[0] for pair in asking])
        now = [read(lm, *pair, edited) for pair in asking]
        logp = torch.cat([part for part, _ in now])
        loss = loss + hp.cloc * (was.exp() * (was - logp)).sum(1).mean()
        if hp.train_base:
            loss = loss + hp.cbase * torch.cat([-part[range(len(t)), t] for part, t in now]).mean()
    return loss
