"""What MEND's updates do: their losses and accuracies, differentiable in the network that made them.

The updates of a step are independent of each other, so they share their passes, each row of the batch with its own
low-rank update: one forward pass over every text of the step, and from its input to the lowest edited block two short
passes, one for the gradients and one with the edits in. Edited weights are never made.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.lm.forward import resume
from core.lm.generate import fit, greedy
from core.lm.model import LM
from core.lm.reads import Reads
from core.lm.tokens import encode, target_ids
from core.types import Edit
from editors.mend.factors import edited, gradient_factors, layer_of, mean_by, reads_of, shares
from editors.mend.network import Network
from editors.mend.settings import MENDSettings

Metrics = dict[str, Tensor]
"""Name -> one value per update, (U,)."""


def outcome(lm: LM, net: Network, updates: Sequence[Sequence[Edit]], hp: MENDSettings) -> Metrics:
    """Losses and teacher-forced accuracies of U updates, each of them made on the model as it is.

    "loss/total_edit" is the training loss. "edit/acc" is the share of the target's tokens that are the likeliest after
    the rephrase, "loc/acc" that of the unrelated answer's positions where the likeliest token is what it was.
    """
    n, edits = len(updates), [edit for update in updates for edit in update]
    of = torch.tensor([u for u, update in enumerate(updates) for _ in update], device=lm.device)  # edit -> update
    local = [i for i, edit in enumerate(edits) if edit.locality and edit.locality_answer]
    reads = _reads(lm, edits, [edits[i] for i in local], hp)
    m, end = len(edits), 2 * len(edits) + len(local)
    owner = torch.cat([of, of, of[local]])  # row -> update
    lowest = min(layer for name in net.shapes if (layer := layer_of(lm, name)) is not None)
    points, seen = resume(lm, reads.tokens, range(lowest, lowest + 1), 0, lm.paths.final_norm)
    point, before = points[lowest], seen[lm.paths.final_norm].output
    rows = torch.arange(end, device=lm.device)
    prompts, rephrased, unrelated = reads.rows(rows[:m]), reads.rows(rows[m : 2 * m]), reads.rows(rows[2 * m :])
    share = shares(prompts, of, hp.batch_loss)

    def edit_loss() -> Tensor:  # summed over updates, so that each has the gradient it has alone
        logp = prompts.logp(lm, point.rows(rows[:m]).run())
        return -(share * prompts.wanted(logp)).sum()

    _, gradients = gradient_factors(lm, list(net.shapes), edit_loss, of)
    with edited(lm, net(gradients), owner[m:]):
        hidden = point.rows(rows[m:]).run()
    was, now = unrelated.logp(lm, before[2 * m :]), unrelated.logp(lm, hidden[m:])  # (reads, vocabulary)
    by, after = owner[2 * m :][unrelated.row], rephrased.logp(lm, hidden[:m])
    metrics = {
        "loss/edit": mean_by(of[rephrased.row], -rephrased.wanted(after), n),
        "loss/loc": mean_by(by, (was.exp() * (was - now)).sum(1), n),
        "edit/acc": mean_by(of[rephrased.row], (after.argmax(1) == rephrased.token).float(), n),
        "loc/acc": 1 - mean_by(by, (was.argmax(1) != now.argmax(1)).float(), n),
    }
    metrics["loss/total_edit"] = hp.cedit * metrics["loss/edit"] + hp.cloc * metrics["loss/loc"]
    if hp.train_base:
        metrics["loss/base"] = mean_by(by, -unrelated.wanted(now), n)
        metrics["loss/total_edit"] = metrics["loss/total_edit"] + hp.cbase * metrics["loss/base"]
    return metrics


def _reads(lm: LM, edits: Sequence[Edit], local: Sequence[Edit], hp: MENDSettings) -> Reads:
    """Rows: the target after every prompt, after every rephrase, and an answer to every unrelated question of `local`.

    That answer is the record's (the released way) or, by `loc_answers`, as many tokens as the unedited model says.
    """
    asked = [edit.locality or "" for edit in local]
    answers = [target_ids(lm, edit.locality_answer or "") for edit in local]
    if hp.loc_answers == "said" and local:
        longest = max(map(len, answers))
        rows = [fit(lm, encode(lm, question), longest)[0] for question in asked]
        answers = [new[: len(own)] for new, own in zip(greedy(lm, rows, longest, past_end=True), answers, strict=True)]
    targets = [target_ids(lm, edit.target) for edit in edits]
    prompts = [edit.prompt for edit in edits] + [edit.rephrase or edit.prompt for edit in edits]
    return reads_of(lm, list(zip(prompts + asked, targets + targets + answers, strict=True)))
