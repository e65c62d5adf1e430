"""Settings of MEND: one class for the file an edit reads and the one its training reads.

The released files of both kinds have almost the same keys, so each loads here. An edit takes `inner_params`, the
network's shape and `lr_scale`; the keys of training in its file say how the archive is to be made and play no part.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from core import hparams
from core.folders import of_project
from core.types import Weight

BEST = "best.safetensors"
"""The network an edit uses, in the archive's folder."""
VALIDATION_KEYS = ("loss/edit_val", "loss/loc_val", "loss/total_edit_val", "edit/acc_val", "loc/acc_val")
NETWORK = (
    *("shared", "norm", "combine", "one_sided", "x_only", "delta_only"),
    *("n_hidden", "rank", "init", "act", "mlp_class"),
)
"""The settings that decide what the network computes: an archive is used with the ones it was trained with."""

_REFUSED: dict[str, tuple[Any, str]] = {
    "dropout": (0.0, "the model that is edited stays in evaluation mode"),
    "hidden_dim": (None, "an IDMLP is as wide as its input"),
    "no_grad_layers": (None, "the backward pass already ends at the lowest inner parameter"),
    "half": (False, "use --dtype"),
    "debug": (False, "there is no debug mode; --max-iters makes a short run"),
    "save": (False, "it only mattered in debug mode: the best and the last network are always saved"),
}
"""Switches of the released files with the one value that is supported, and why."""


@dataclass(frozen=True, kw_only=True)
class MENDSettings:
    """Names as in the released files; defaults are their values. Three settings are ours, the released way by default.

    `batch_loss`: the loss of several edits in one update, see editors/mend/__init__.py. `batch_sizes`: training updates
    of several sizes instead of `batch_size` edits each, see editors/mend/order.py. `loc_answers`: the answers to
    unrelated questions on which training keeps the model as it was, see editors/mend/training.py.
    """

    inner_params: tuple[Weight, ...]
    archive_dir: str = "result/models/MEND"
    lr_scale: float = 1.0
    batch_loss: Literal["mean", "sum"] = hparams.added("mean")

    shared: bool = True
    norm: bool = True
    combine: bool = True
    one_sided: bool = False
    x_only: bool = False
    delta_only: bool = False
    n_hidden: int = 1
    rank: int = 1920
    init: Literal["id", "xavier"] = "id"
    act: Literal["relu"] = "relu"
    mlp_class: Literal["IDMLP"] = "IDMLP"
    hidden_dim: int | None = None

    lr: float = 1e-6
    edit_lr: float = 1e-4
    lr_lr: float = 1e-4
    opt: Literal["Adam"] = "Adam"
    grad_clip: float = 100.0
    cedit: float = 0.1
    cloc: float = 1.0
    cbase: float = 1.0
    loc_answers: Literal["given", "said"] = hparams.added("given")
    train_base: bool = False
    dropout: float = 0.0
    no_grad_layers: tuple[int, ...] | None = None
    seed: int = 42
    batch_size: int = 1
    batch_sizes: tuple[int, ...] = hparams.added(())
    accumulate_bs: int = 10
    max_iters: int = 100000
    val_batch_size: int = 5
    val_steps: int = 500
    val_interval: int = 1000
    final_eval: bool = True
    early_stop_patience: int = 20000
    early_stop_key: str = "loss/total_edit_val"
    model_save_pt: int = 5000
    log_interval: int = 1000
    eval_log_interval: int = 1000
    silent: bool = False
    verbose: bool = True
    eval_only: bool = False
    half: bool = False
    debug: bool = False
    save: bool = False

    def __post_init__(self) -> None:
        for key, (value, reason) in _REFUSED.items():
            if getattr(self, key) != value:
                raise ValueError(f"{key}: only {value} is supported: {reason}")
        self._check_network()
        if self.early_stop_key not in VALIDATION_KEYS:
            raise ValueError(f"early_stop_key: expected one of {', '.join(VALIDATION_KEYS)}")
        for key in (
            *("batch_size", "accumulate_bs", "max_iters", "val_batch_size", "val_steps", "val_interval"),
            *("early_stop_patience", "model_save_pt", "log_interval", "eval_log_interval"),
        ):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected 1 or more, found {getattr(self, key)}")
        if not (self.lr > 0 and self.lr_lr >= 0 and self.grad_clip > 0):
            raise ValueError("lr and grad_clip: expected more than 0; lr_lr: 0 or more")
        if any(size < 1 for size in self.batch_sizes) or (self.batch_sizes and self.batch_size != 1):
            raise ValueError("batch_sizes: expected numbers from 1 on, in place of a batch_size")
        if self.train_base and self.loc_answers != "given":
            raise ValueError("train_base: true trains on right answers: expected loc_answers: given")

    def _check_network(self) -> None:
        variants = [key for key in ("one_sided", "x_only", "delta_only") if getattr(self, key)]
        if self.combine and variants:
            raise ValueError(f"combine: true transforms both factors at once and excludes {variants[0]}")
        if len(variants) > 1:
            raise ValueError(f"{variants[0]} and {variants[1]} exclude each other")
        if not self.inner_params or len(set(self.inner_params)) < len(self.inner_params):
            raise ValueError("inner_params: expected at least one weight, each named once")
        if self.rank < 1 or self.n_hidden < 0:
            raise ValueError("rank: expected 1 or more; n_hidden: 0 or more")

    def network(self) -> dict[str, Any]:
        """The settings an archive must have been made with."""
        values = asdict(self)
        return {key: values[key] for key in NETWORK}

    def archive(self, model: str) -> Path:
        """The folder of a model's trained network."""
        return of_project(self.archive_dir) / model

    @classmethod
    def added(cls) -> dict[str, Any]:
        """The settings that older archives do not name, with what those were made with."""
        return {f.name: f.default for f in fields(cls) if f.metadata.get("added")}
