"""The vector that makes a model say the target: v* of ROME, z of MEMIT, optimised for several edits at a time.

A vector delta is added to one module's output at the subject's last token in every row of an edit (its prompt in N
context templates, and "{subject} is a") and trained so that the target follows. Nothing before that token and nothing
below that module depends on delta, so only the columns from there on and the blocks from there up are run at each step
(core/lm/forward.py), with logits at the positions the loss reads.

Differs from the released code: several edits share a batch, each with its own loss, its own Adam state and its own
early stop, so that each ends as if it were alone; prompt and target are joined as ids, not as text. ENCORE's early stop
is a setting, `v_stop_after` (its prob_cutoff of -4 is 4 here), and so is NAS's norm anchor, `v_norm`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.lm.forward import Resumed
from core.lm.hooks import replaced, trace
from core.lm.kernels.graphs import Recording
from editors._value.prompts import Batch
from editors._value.settings import TargetSettings

GOOD_ENOUGH = 0.05
"""Loss under which an edit's optimisation stops (as in the ROME and MEMIT code)."""
ASKED = {"cpu": 1, "cuda": 5}
"""Every how many steps the device is asked which edits have ended."""


class Patience:
    """ENCORE's early stop (arXiv 2502.01636): `steps` more once an edit's target is the likeliest in every template."""

    def __init__(self, steps: int | None, edits: int, device: torch.device) -> None:
        self.steps = steps
        self.left = torch.full((edits,), -1, device=device)
        """Steps that an edit's search still has; -1 where its target has not been the likeliest yet."""

    def over(self, edits: Tensor, likeliest: Tensor) -> Tensor:
        """Which of these edits have come to the end of their search, (A,); asked once a step."""
        left = self.left[edits]
        start = -1 if self.steps is None else self.steps
        self.left[edits] = left = torch.where(left >= 0, left - 1, torch.where(likeliest, start, -1))
        return left == 0


@dataclass(frozen=True)
class Optimised:
    """For each of E edits what to add to the module's output, (E, d), and the losses of its optimisation."""

    delta: Tensor
    losses: list[list[float]]


def optimise(
    batch: Batch, point: Resumed, path: str, h0: Tensor, hp: TargetSettings, loss_layer: int | None = None
) -> Optimised:
    """Minimise nll + kl + wd for each edit of the batch (ROME eq. 4, MEMIT eq. 16).

    `point` is a way into the forward pass over the batch's tokens at or below the module at `path`, whose output at the
    subject's last token in the bare prompt is `h0` (E, d). The nll reads the model's logits, or those of block
    `loss_layer` behind the final norm. State is float32 whatever the model's dtype.

    An edit that has ended keeps its delta, and leaves the batch the next time that the device is asked who has: each
    step on a CPU, rarely on a GPU, which otherwise would stand still until its answer is here. Where steps are recorded
    those that have ended stay until they are half of the batch: a smaller one is recorded anew.
    """
    return _Search(batch, point, path, h0, hp, None if loss_layer == batch.lm.n_layers - 1 else loss_layer).run()


class _Search:
    """What `optimise` does. All that a step changes stays where it is, so that a GPU can record it."""

    def __init__(
        self, batch: Batch, point: Resumed, path: str, h0: Tensor, hp: TargetSettings, loss_layer: int | None
    ) -> None:
        self.path, self.hp, self.loss_layer = path, hp, loss_layer
        self._take(batch, point)
        self.norms = h0.float().norm(dim=1)  # (E,)
        self.delta = torch.zeros_like(h0, dtype=torch.float32, requires_grad=True)
        self.adam = torch.optim.Adam([self.delta], lr=hp.v_lr, capturable=h0.is_cuda)
        self._begin_adam()
        self.losses = self.norms.new_zeros(len(h0), hp.v_num_grad_steps)
        self.taken = torch.zeros_like(self.norms, dtype=torch.long)  # (E,) steps
        self.active = torch.arange(len(h0), device=h0.device)  # (A,) the edits still in the batch
        self.going = torch.ones_like(self.active, dtype=torch.bool)  # (A,) those of them that have not ended
        self.step = torch.zeros_like(self.active[:1])
        vocabulary = len(batch.lm.model.get_output_embeddings().get_parameter("weight"))
        # (A, vocabulary) log-probabilities after the KL prompt, from the first step on
        self.unedited = self.norms.new_zeros(len(h0), vocabulary)
        self.patience = Patience(hp.v_stop_after, len(h0), h0.device)
        self.asked = ASKED.get(h0.device.type, ASKED["cuda"])

    @torch.enable_grad()
    def run(self) -> Optimised:
        recorder, last = self.batch.lm.recorder, self.hp.v_num_grad_steps - 1
        recording = Recording(recorder)
        for step in range(last):
            recording(self._go)
            if (step + 1) % self.asked:
                continue
            kept = [e for e, on in enumerate(self.going.tolist()) if on]
            if not kept:
                break
            if len(kept) < len(self.active) and (recorder is None or 2 * len(kept) <= len(self.active)):
                self._keep(kept)
                recording = Recording(recorder)
        else:
            self._look()
        each = zip(self.losses.tolist(), self.taken.tolist(), strict=True)
        return Optimised(self.delta.detach(), [values[:count] for values, count in each])

    def _take(self, batch: Batch, point: Resumed) -> None:
        """The edits that steps are of, and the way into their pass."""
        self.batch, self.point = batch, point
        batch.prepare()
        point.prepare()

    def _begin_adam(self) -> None:
        """The state that its first step would make: all of it is there before a step is recorded."""
        step = torch.zeros((), device=self.delta.device if self.delta.is_cuda else None)  # a CPU's is on the host
        zeros = {name: torch.zeros_like(self.delta) for name in ("exp_avg", "exp_avg_sq")}
        self.adam.state[self.delta] = {"step": step, **zeros}

    def _go(self) -> None:
        """One step of the edits that are going."""
        loss = self._look()
        if self.asked == 1 and not self.going.any():
            return  # nothing is left to move
        scaled = loss.where(self.going, 0).sum() * self.batch.lm.loss_scale
        (gradient,) = torch.autograd.grad(scaled, self.delta)
        self.delta.grad = gradient / self.batch.lm.loss_scale
        moved = torch.zeros_like(self.norms, dtype=torch.bool).index_put((self.active,), self.going)
        _step(self.adam, self.delta, self.hp.clamp_norm_factor * self.norms, moved)

    def _look(self) -> Tensor:
        """The loss of each edit in the batch, (A,), which is noted; those that it is good enough for have ended."""
        hp, shift = self.hp, self.delta[self.active]  # (A, d)
        nll, after, told = _read(self.batch, self.point, self.path, shift, self.loss_layer)
        self.unedited.copy_(after.detach().where(self.step == 0, self.unedited))
        kl = (after.exp() * (after - self.unedited)).sum(1)
        wd = shift.norm(dim=1) / self.norms[self.active] ** 2
        loss: Tensor = nll + hp.kl_factor * kl + hp.v_weight_decay * wd  # (A,)
        now = loss.detach()
        self.losses.index_put_((self.active, self.step), now)
        self.taken.index_add_(0, self.active, self.going.long())
        self.going &= ~((now < GOOD_ENOUGH) | self.patience.over(self.active, told))
        self.step += 1
        return loss

    def _keep(self, kept: list[int]) -> None:
        """Go on with these of the edits alone."""
        batch, rows = self.batch.some(kept)
        self._take(batch, self.point.rows(rows))
        self.unedited = self.unedited[kept]
        self.active, self.going = self.active[kept], self.going[kept]


def anchored(delta: Tensor, v0: Tensor, hp: TargetSettings) -> tuple[Tensor, list[float]]:
    """What to add to MLP outputs v0 (E, d) instead of `delta` (E, d) by `v_norm`, and the lengths of v0 + delta.

    The norm anchor of NAS (arXiv 2602.02543): v* = v0 + delta is scaled to the length `v_norm`, up or down; nothing is
    added where it is more than `v_norm_limit` times as long.
    """
    v = v0.float() + delta
    lengths = v.norm(dim=1)
    if hp.v_norm is None:
        return delta, lengths.tolist()
    scaled = v * (hp.v_norm / lengths).unsqueeze(1) - v0.float()
    return scaled.where((lengths <= hp.v_norm_limit * hp.v_norm).unsqueeze(1), 0), lengths.tolist()


def _read(
    batch: Batch, point: Resumed, path: str, shift: Tensor, loss_layer: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """With `shift` (A, d) added at the subject's last token: per edit the nll of its target (mean over templates and
    tokens), (A,), the log-probabilities after the subject in its KL prompt, (A, vocabulary), and whether the target is
    the likeliest, (A,)."""
    lm = batch.lm
    per_row = shift.repeat_interleave(batch.rows_each, 0)  # (rows, d)

    def shifted(out: Tensor) -> Tensor:
        return torch.cat([out[:, :1] + per_row.to(out).unsqueeze(1), out[:, 1:]], 1)

    watched = [] if loss_layer is None else [lm.block(loss_layer)]
    with replaced(lm.model, path, shifted), trace(lm.model, *watched) as seen:
        final = point.run()  # (rows, columns, d)
    states = final if loss_layer is None else lm.module(lm.paths.final_norm)(seen[lm.block(loss_layer)].output)
    answers, subjects = batch.reads.states(states, batch.column), final[batch.rows_each - 1 :: batch.rows_each, 0]
    # together: that many rows cost hardly more than the vocabulary's matrix, which is read once for all of them
    logits = lm.logits(torch.cat([answers, subjects.to(answers)])).to(batch.reads.token.device, torch.float32)
    logp, after = logits.log_softmax(-1).split([len(answers), len(subjects)])
    return batch.nll(logp).to(shift.device), after.to(shift.device), batch.likeliest(logp).to(shift.device)


@torch.no_grad()
def _step(adam: torch.optim.Adam, delta: Tensor, limits: Tensor, moved: Tensor) -> None:
    """One step of the rows of `delta` (E, d) that are `moved` (E,), and of no other, to at most `limits` (E,)."""
    before = delta.clone()
    adam.step()
    delta.copy_(_clamped(delta, limits).where(moved.unsqueeze(1), before))


def _clamped(delta: Tensor, limits: Tensor) -> Tensor:
    """Every row of `delta` that is longer than its limit, scaled back to it: (E, d) and (E,)."""
    lengths = delta.norm(dim=1)
    scale = torch.where(lengths > limits, limits / lengths, 1)  # (E,)
    return delta * scale.unsqueeze(1)
