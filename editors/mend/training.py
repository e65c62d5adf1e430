"""Training of MEND's network: edits are made inside the graph, and what they did is what it learns from.

For an update of `batch_size` edits, or of one of the `batch_sizes` (editors/mend/order.py), with the Delta that
editors/mend/network.py makes of the edit loss on their prompts (Mitchell et al., equations 4a and 4b):

    loss = cedit * nll_{W + Delta}(target | rephrase) + cloc * KL(p_W || p_{W + Delta})(answer | unrelated question)
         [ + cbase * nll_{W + Delta}(answer | unrelated question)   with train_base ]

means over tokens. `accumulate_bs` updates make one step of Adam on the mean of their losses. The paper trains and edits
with the same number of edits an update (section 5.3). With `loc_answers: said`, which is ours, the answer of the KL is
what the unedited model goes on with: a model that was never taught to answer such questions does not say the record's
answer, and the KL would be read where its own text never comes.

Differs from the released code: pads are in no loss and the KL reads the answer's tokens alone; the statistics count all
rows of a step before they normalise them; the base loss trains the network, since the model stays as it is; a record
without a rephrase is judged on its prompt, one without an unrelated question has no KL; a last checkpoint beside the
best one, from which a run that was stopped goes on as if it had not been.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from core.disk.whole import unwritable
from core.errors import Interrupted, UserError
from core.lm.model import LM
from core.messages import short
from core.types import Edit
from editors.mend import archive as archive
from editors.mend.factors import shapes_of
from editors.mend.log import Log
from editors.mend.network import seeded
from editors.mend.order import drawn
from editors.mend.outcome import outcome
from editors.mend.settings import BEST, MENDSettings

FREE = ("max_iters", "archive_dir", "silent", "verbose")
"""Settings that may differ when a run is resumed: they change none of its numbers up to there."""


@dataclass(frozen=True)
class Records:
    """What to train on, what to validate on, and where they came from (for the archive)."""

    train: Sequence[Edit]
    validation: Sequence[Edit]
    sources: dict[str, Any] = field(default_factory=dict)


@dataclass
class Progress:
    """Where a run is. `best` is its best validation value so far, at `best_iteration`."""

    iteration: int = 0
    best: float | None = None
    best_iteration: int = 0
    skipped: int = 0


def existing(folder: Path, permitted: bool) -> list[Path]:
    """The files of an earlier training in `folder`. UserError if there are any and this is not `permitted`."""
    files = [folder / file for file in (archive.LAST, BEST) if (folder / file).is_file()]
    if files and not permitted:
        resume = "--resume goes on with that training, " if files[0].name == archive.LAST else ""
        raise UserError(f"{files[0]} exists: {resume}--overwrite starts again")
    return files


class Training:
    """A training run. Its `folder` gets the best and the last network, the metrics and the curves."""

    def __init__(self, lm: LM, hp: MENDSettings, records: Records, folder: Path) -> None:
        self.lm, self.hp, self.records, self.folder = lm, hp, records, folder
        self.net = seeded(shapes_of(lm, hp.inner_params), hp).to(lm.device)
        slow = [p for name, p in self.net.named_parameters() if name != "edit_lrs"]
        self.adam = torch.optim.Adam([{"params": slow, "lr": hp.lr}, {"params": [self.net.edit_lrs], "lr": hp.lr_lr}])
        self.progress = Progress()
        self.saved = 0
        """The iteration of the last checkpoint."""
        dtype = str(lm.model.dtype).removeprefix("torch.")
        self.header = archive.header(lm, hp, self.net.shapes, data=records.sources, dtype=dtype)

    def run(self) -> dict[str, float]:
        """Train to the end; returns the best network's validation metrics. What ends it early says what is kept."""
        try:
            return self._run()
        except KeyboardInterrupt as signal:
            kept = (
                f"iteration {self.saved} of {self.hp.max_iters} is kept in {self.folder}; --resume goes on from there"
            )
            raise Interrupted(kept if self.saved else "nothing is kept yet; --overwrite starts again") from signal
        except OSError as error:
            raise unwritable(self.folder, error, archive.RESUME) from error

    def _run(self) -> dict[str, float]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(self.folder, self.progress.iteration)
        hp, progress, steps = self.hp, self.progress, self.hp.accumulate_bs
        bar = tqdm(total=hp.max_iters, initial=progress.iteration, unit="update", desc="training", disable=hp.silent)
        while not self._finished():
            self.log.add(self._step(self._updates()))
            progress.iteration += steps
            bar.update(steps)
            if hp.verbose:
                bar.set_postfix_str(_text(self.log.running()))
            validating = self._due(hp.val_interval) or progress.iteration >= hp.max_iters
            if validating or self._due(hp.model_save_pt) or self._due(hp.log_interval):
                self.log.flush(progress.iteration)
            if validating:
                self._validate()
            if validating or self._due(hp.model_save_pt):
                self._save(archive.LAST, self._state())
                self.saved = progress.iteration
        bar.close()
        best, head = archive.load(self.folder / BEST)
        archive.fill(self.net, best, self.folder / BEST)
        self.log.close()
        return self._measure(self.records.validation) if hp.final_eval else head["validation"]

    def summary(self, metrics: Mapping[str, float], seconds: float) -> Iterator[str]:
        """What a run has come to, in lines: `metrics` are those that `run` returned."""
        p, records, hp = self.progress, self.records, self.hp
        measured = len(records.validation) if hp.final_eval else hp.val_steps * hp.val_batch_size
        minutes = f"{seconds / 60:.1f} minutes"
        yield f"\nMEND for {self.lm.name}: {p.iteration} iterations on {len(records.train)} records, {minutes}"
        if p.skipped:
            yield f"{p.skipped} steps left out: their gradient was not finite"
        yield f"best at iteration {p.best_iteration}; on {min(measured, len(records.validation))} validation records:"
        yield from (f"  {name:<20} {value:8.4f}" for name, value in metrics.items())
        yield f"-> {self.folder}"

    def resume(self) -> None:
        """Go on from the last checkpoint. UserError if there is none or it is of another run."""
        path = self.folder / archive.LAST
        if not path.is_file():
            raise UserError(f"nothing to resume: no {path}")
        tensors, head = archive.load(path)
        archive.check(path, head, self.lm)
        for key in ("settings", "data", "dtype"):
            was, now = _flat(key, head.get(key)), _flat(key, self.header[key])
            if changed := [k for k in {**was, **now} if was.get(k) != now.get(k) and k not in FREE]:
                k = changed[0]
                raise UserError(f"{path} was made with {k} {was.get(k)}, now {now.get(k)}; --overwrite starts again")
        net = {name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")}
        archive.fill(self.net, net, path)
        try:
            self._restore(tensors)
            self.progress = Progress(**head["progress"])
            self.saved = self.progress.iteration + 0  # TypeError if it is no number
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path}: does not say where it was ({short(error)}); --overwrite starts again") from error

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        """The state of Adam. Raises ValueError if it is not of this network."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
        own = [parameter for group in self.adam.param_groups for parameter in group["params"]]
        for i, moments in state.items():
            if not 0 <= i < len(own) or {"exp_avg", "exp_avg_sq", "step"} != moments.keys():
                raise ValueError(f"the state of parameter {i}")
            if not moments["exp_avg"].shape == moments["exp_avg_sq"].shape == own[i].shape:
                raise ValueError(f"the shape of parameter {i}")
        self.adam.load_state_dict({**self.adam.state_dict(), "state": state})

    def _finished(self) -> bool:
        p, hp = self.progress, self.hp
        return p.iteration >= hp.max_iters or p.iteration - p.best_iteration >= hp.early_stop_patience

    def _due(self, interval: int) -> bool:
        """Whether the latest step reached or crossed a multiple of `interval` iterations."""
        now = self.progress.iteration
        return now // interval > (now - self.hp.accumulate_bs) // interval

    def _updates(self) -> list[list[Edit]]:
        """The edits of the next step's updates."""
        start = self.progress.iteration
        updates = range(start, start + self.hp.accumulate_bs)
        return [drawn(update, self.records.train, self.hp) for update in updates]

    def _step(self, updates: list[list[Edit]]) -> dict[str, float]:
        """One step of Adam; a step with a gradient that is not finite is left out and counted."""
        self.net.train()
        metrics = outcome(self.lm, self.net, updates, self.hp)
        self.adam.zero_grad()
        (metrics["loss/total_edit"].mean() * self.lm.loss_scale).backward()
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.lm.loss_scale
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.hp.grad_clip)
        if norm.isfinite():
            self.adam.step()
        else:
            self.progress.skipped += 1
        return {name: float(values.detach().mean()) for name, values in metrics.items()}

    @torch.no_grad()
    def _measure(self, edits: Sequence[Edit]) -> dict[str, float]:
        """Means of the metrics over updates of val_batch_size edits each."""
        hp, size = self.hp, self.hp.val_batch_size
        self.net.eval()
        updates = [edits[start : start + size] for start in range(0, len(edits), size)]
        sums: dict[str, float] = {}
        with tqdm(total=len(updates), unit="update", desc="validating", leave=False, disable=hp.silent) as bar:
            for start in range(0, len(updates), hp.accumulate_bs):
                chunk = updates[start : start + hp.accumulate_bs]
                for name, values in outcome(self.lm, self.net, chunk, hp).items():
                    sums[name] = sums.get(name, 0.0) + float(values.sum())
                bar.update(len(chunk))
                done = start + len(chunk)
                if done // hp.eval_log_interval > start // hp.eval_log_interval:
                    bar.set_postfix_str(_text(sums, done))
        return {f"{name}_val": total / len(updates) for name, total in sums.items()}

    def _validate(self) -> None:
        """Measure on the validation records; keep the network if it is the best so far."""
        hp, p = self.hp, self.progress
        metrics = self._measure(self.records.validation[: hp.val_steps * hp.val_batch_size])
        self.log.write(p.iteration, metrics)
        self.log.draw()
        value = metrics[hp.early_stop_key]
        sign = 1 if hp.early_stop_key.startswith("loss") else -1
        if p.best is None or math.isnan(p.best) or sign * value < sign * p.best:
            p.best, p.best_iteration = value, p.iteration
            self._save(BEST, self.net.state_dict(), validation=metrics)  # before LAST, which knows of it

    def _state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs that is a tensor; there is no random state: orders come from the seed."""
        adam = self.adam.state_dict()["state"]
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        return tensors | {f"adam.{i}.{key}": t for i, state in adam.items() for key, t in state.items()}

    def _save(self, name: str, tensors: dict[str, Tensor], **more: Any) -> None:
        archive.save(self.folder / name, tensors, {**self.header, "progress": asdict(self.progress), **more})


def _text(metrics: dict[str, float], n: int = 1) -> str:
    return ", ".join(f"{name} {value / n:.3g}" for name, value in metrics.items())


def _flat(key: str, value: Any) -> dict[str, Any]:
    """A header entry as {name: value}."""
    return value if isinstance(value, dict) else {key: value}
