"""LocFT-BF the plain way: a copy of the model trained in place, epoch after epoch over all edits, texts run alone."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from core.lm.model import LM
from core.lm.tokens import encode, target_ids
from core.types import Deltas, Edit


def deltas(lm: LM, edits: Sequence[Edit], hp: Any, names: Sequence[str], seed: int) -> Deltas:
    """The change of the parameters `names` after all epochs; the order of each is drawn from `seed`."""
    model, generator = copy.deepcopy(lm.model), torch.Generator().manual_seed(seed)
    trained = {name: weight.requires_grad_() for name, weight in model.named_parameters() if name in names}
    start = {name: weight.detach().clone() for name, weight in trained.items()}
    adam = torch.optim.Adam(trained.values(), lr=hp.lr, weight_decay=hp.weight_decay)
    for _ in range(hp.num_steps):
        order = torch.randperm(len(edits), generator=generator).tolist()
        for first in range(0, len(order), hp.batch_size):
            with torch.enable_grad():
                losses = []
                for edit in (edits[i] for i in order[first : first + hp.batch_size]):
                    prompt, target = encode(lm, edit.prompt), [*target_ids(lm, edit.target), lm.tokenizer.eos_token_id]
                    logp = model(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
                    losses.append(-torch.stack([logp[len(prompt) + i - 1, t] for i, t in enumerate(target)]).mean())
                loss = torch.stack(losses).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    return {name: weight.detach() - start[name] for name, weight in trained.items()}
