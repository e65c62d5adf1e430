"""MEND: a trained network that turns the gradient of an edit's loss into the edit.

Mitchell et al., *Fast Model Editing at Scale* (ICLR 2022). The loss of a batch of edits E, with the target tokens t of
each after its prompt, is by the setting `batch_loss`

    mean    L = - sum_{e in E} sum_{t in e} log p(t) / sum_{e in E} |e|     as the released code has it
    sum     L = - sum_{e in E} ( sum_{t in e} log p(t) / |e| )              section 5.3: made separately, then summed

which are one for a single edit. Its gradient with respect to each inner parameter W (d_out, d_in) is sum_r g_r x_r^T
over the batch's tokens; the network maps every pair (x_r, g_r) to (x'_r, g'_r), and

    W' = W + lr_scale * edit_lr_m * sum_r g'_r x'_r^T

With the mean, the gradients of k edits are about k times smaller than each has alone, which only suits a network that
was trained on k edits at a time. The network is editors/mend/network.py, its training editors/mend/training.py.

Differs from the released code: the normalisation statistics of training are used when editing (there they are thrown
away and estimated from the batch itself, which makes an edit depend on its neighbours); edit rates belong to weights
by name (there their order differs between training and editing); pads are in no loss. A batch too large for one pass
is read in several, each with its share of the one loss: the same gradient.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import folders
from core.errors import UserError
from core.lm.batches import BATCH_TOKENS
from core.lm.forward import final_states
from core.lm.model import LM, orient
from core.lm.reads import Reads
from core.lm.tokens import target_ids
from core.lm.weights import at_hand
from core.messages import short
from core.types import Deltas, Edit, Editor, Notes
from editors.mend import archive as archive
from editors.mend.factors import gradient_factors, reads_of, shapes_of, shares
from editors.mend.network import Network, Statistics, seeded
from editors.mend.settings import BEST, MENDSettings


class MEND(Editor):
    """See the module's docstring. Notes: the loss before the edit, its number of tokens, the edit rates."""

    name = "MEND"
    modes = frozenset({"Batch-Single", "Batch-Sequential"})
    hparams = MENDSettings
    trained_by = "train_MEND.py"

    def __init__(self, lm: LM, hp: MENDSettings, seed: int = 0) -> None:
        self.lm, self.hp = lm, hp
        self.net = opened(self.files(hp, lm.name)["archive"], lm, hp).to(lm.device).eval()
        at_hand(lm.model, self.net.shapes)

    @classmethod
    def files(cls, hp: MENDSettings, model: str) -> dict[str, Path]:
        """The trained network. UserError if there is none."""
        path = hp.archive(model) / BEST
        if not path.is_file():
            raise UserError(f"no trained MEND network at {path}: run `python {cls.trained_by} --model {model}`")
        return {"archive": path}

    @classmethod
    def archives(cls) -> Iterator[Path]:
        yield from sorted((folders.TRAINED / cls.name).glob(f"*/{BEST}"))

    @classmethod
    def trained_for(cls, path: Path) -> tuple[str, str]:
        _, head = archive.load(path)
        return head["model"], head["fingerprint"]

    @classmethod
    def suggested(cls, values: Mapping[str, Any], lm: LM, layer: int | None) -> dict[str, Any]:
        """`inner_params`: the weights of the last three MLPs."""
        last = range(max(0, lm.n_layers - 3), lm.n_layers)
        return {**values, "inner_params": [weight for at in last for weight in lm.mlp_weights(at)]}

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The update for one batch of edits: {weight name: change}, float32. The model is the same before and after."""
        lm = self.lm
        sums: Deltas = {}
        loss, tokens = 0.0, 0
        for part, share in self._parts(edits):
            value, updates = self._update(part, share)
            loss += value
            tokens += len(share)
            for name, delta in updates.items():
                sums[name] = sums[name] + delta if name in sums else delta
        rates = dict(zip(self.net.shapes, self.net.edit_lrs.tolist(), strict=True))
        deltas = {n: orient(lm.module(n.removesuffix(".weight")), delta).contiguous() for n, delta in sums.items()}
        return deltas, {"edit_loss_before": loss, "target_tokens": tokens, "edit_lrs": rates}

    def _update(self, part: Reads, share: Tensor) -> tuple[float, Deltas]:
        """A part's share of the batch's loss and of its updates, (d_out, d_in) each; `share` (N,) is its tokens'."""
        lm, names = self.lm, list(self.net.shapes)

        def loss() -> Tensor:
            logp = part.logp(lm, final_states(lm, part.tokens))
            return -(share * part.wanted(logp)).sum()

        owner = torch.zeros(len(part.tokens.ids), dtype=torch.long, device=lm.device)
        value, gradients = gradient_factors(lm, names, loss, owner)
        with torch.no_grad():
            updates = {name: self.hp.lr_scale * f.product() for name, f in self.net(gradients).items()}
        return float(value), updates

    def _parts(self, edits: Sequence[Edit]) -> Iterator[tuple[Reads, Tensor]]:
        """The edits as rows, as many at a time as fit the token budget, and the weight of each token in the loss."""
        budget = BATCH_TOKENS.get(self.lm.device.type, BATCH_TOKENS["cuda"])
        reads = reads_of(self.lm, [(edit.prompt, target_ids(self.lm, edit.target)) for edit in edits])
        share = shares(reads, torch.zeros(len(edits), dtype=torch.long, device=self.lm.device), self.hp.batch_loss)
        for rows in torch.arange(len(edits)).split(max(1, budget // reads.tokens.ids.shape[1])):
            yield reads.rows(rows), share[(rows[0] <= reads.row) & (reads.row <= rows[-1])]


def opened(path: Path, lm: LM, hp: MENDSettings) -> Network:
    """The network in an archive. Weights are matched by name: their order is the archive's.

    UserError if the file is damaged, or made for another model or with other settings.
    """
    tensors, head = archive.load(path)
    archive.check(path, head, lm)
    mine = {**hp.network(), "batch_loss": hp.batch_loss, "inner_params": sorted(hp.inner_params)}
    try:
        made = head["settings"]
        if made["batch_size"] == 1 and not made["batch_sizes"]:
            del mine["batch_loss"]  # trained on single edits, for which both are one
        trained = {key: made[key] for key in mine}
        trained["inner_params"] = sorted(trained["inner_params"])
        shapes = {name: (d_in, d_out) for name, (d_in, d_out) in head["shapes"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its header is damaged; train it again") from error
    for key, value in mine.items():
        if trained[key] != value:
            raise UserError(
                f"{path} was trained with {key}: {short(trained[key])}, the settings say {short(value)}; "
                "change them or train again"
            )
    if shapes != shapes_of(lm, list(shapes)) or shapes.keys() != set(hp.inner_params):
        raise UserError(f"{path}: its header is damaged; train it again")
    net = seeded(shapes, hp)
    archive.fill(net, tensors, path)
    if any(isinstance(part, Statistics) and part.count < 2 for part in net.modules()):
        raise UserError(f"{path}: its network has seen no gradients; train it again")
    return net


EDITOR = MEND
