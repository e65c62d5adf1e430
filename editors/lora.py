"""LoRA: low-rank matrices beside the attention's projections, trained on the target, then added to their weights.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models* (ICLR 2022), and with `lora_type: adalora` AdaLoRA,
Zhang et al. (ICLR 2023), by the library peft. For a weight W (d, f) the module computes

    LoRA     W x + (alpha / r) B A x                    A (r, f) drawn, B (d, r) zero at first
    AdaLoRA  W x + alpha / (r + 1e-5) B diag(E) A x     A and B drawn, E (r) zero at first

One adapter grows over a run: each update goes on from where the last one left it, and its delta is what B A has become
less what it was. The loss is the mean of -log p over all target tokens of a chunk; AdaLoRA's has, as peft's own, half
the mean over the factors of |A A^T - I| and |B^T B - I|, and its ranks are never cut down, as in the released code.

Differs from the released code: the model that is scored holds the sum, without adapter and without its dropout;
positions count a row's own tokens; prompt and target are joined as ids, with one blank between them; `rank` is
AdaLoRA's rank too (there it is peft's 12 whatever `rank` says); with a regulariser the adapter goes on from what was
applied of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.errors import UserError
from core.lm.model import LM
from core.lm.reads import Reads, joined
from core.lm.weights import add_, at_hand, preserved
from core.messages import short
from core.types import Deltas, Edit, Editor, Layer, Notes
from editors._training.gradients import layer_of, rows_of
from editors._training.tuning import TuningSettings, fixed

ATTENTION = ("q_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj")
"""What families call the projections of queries and values, and the one that has them all."""
ORTHOGONAL = 0.5
"""Weight of AdaLoRA's regularisation (peft's)."""


@dataclass(frozen=True, kw_only=True)
class LoRASettings(TuningSettings):
    """Settings of LoRA, under the names of the released files. `layers` are all if none is named; `target_modules` are
    names of linear modules in them, or None: the projections of queries and values."""

    READ_PAST: ClassVar[tuple[str, ...]] = ("kl_factor", "norm_constraint")  # which the released code does not use
    SPELLED: ClassVar[dict[str, str]] = {"lora_r": "rank"}

    rank: int
    lora_alpha: float
    batch_size: int = 128
    lora_dropout: float = 0.0
    lora_type: Literal["lora", "adalora"] = "adalora"
    layers: tuple[Layer, ...] = ()
    target_modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or not self.lora_alpha > 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError("rank: expected 1 or more; lora_alpha: more than 0; lora_dropout: in [0, 1)")


class LoRA(Editor):
    """See the module's docstring. Notes: the loss in the first and in the last epoch."""

    name = "LoRA"
    modes = frozenset({"Instance-Sequential", "Batch-Single", "Batch-Sequential"})
    hparams = LoRASettings

    def __init__(self, lm: LM, hp: LoRASettings, seed: int = 0) -> None:
        self.lm, self.hp, self.seed = lm, hp, seed
        self.paths = targets(lm, hp)
        at_hand(lm.model, (f"{path}.weight" for path in self.paths))
        self.adapter: dict[str, Tensor] = {}
        """The factors as they are in the weights, by peft's names, and how many updates they went through."""
        self.next: dict[str, Tensor] = {}

    @classmethod
    def suggested(cls, values: Mapping[str, Any], lm: LM, layer: int | None) -> dict[str, Any]:
        """All layers, and the family's own names of the projections."""
        own: dict[str, Any] = {"layers": [], "target_modules": None}
        return {key: own.get(key, value) for key, value in values.items()}

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """What the adapter adds beyond what it added so far, float32. The model is the same before and after."""
        lm, count = self.lm, int(self.adapter.get("updates", torch.tensor(0)))
        with seeded(lm, ((self.seed << 20) + count) % 2**63), adapted(lm, self.hp, self.paths) as layers:
            factors = factors_of(layers)
            for name in factors.keys() & self.adapter.keys():
                factors[name].data.copy_(self.adapter[name])
            before = merged(layers)
            with preserved(lm.model, before):  # the weights hold it, and the adapter is beside them now
                add_(lm.model, {name: -delta for name, delta in before.items()})
                losses = self._train(edits, factors)
            after = merged(layers)
            self.next = {name: factor.detach().clone() for name, factor in factors.items()}
        self.next["updates"] = torch.tensor(count + 1)
        deltas = {name.replace(".base_layer", ""): (after[name] - before[name]).contiguous() for name in before}
        return deltas, {"loss_first": losses[0], "loss_last": losses[-1]}

    def applied(self, edits: Sequence[Edit]) -> None:
        self.adapter = self.next

    def state(self) -> dict[str, Tensor]:
        """The factors, and the number of updates that dropout was drawn for."""
        return dict(self.adapter)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.adapter = dict(state)

    def _train(self, edits: Sequence[Edit], factors: Mapping[str, nn.Parameter]) -> list[float]:
        """Adam over the factors; the mean loss of each epoch."""
        lm, hp, rows = self.lm, self.hp, rows_of(self.lm, edits)
        parts = [rows[at : at + hp.batch_size] for at in range(0, len(rows), hp.batch_size)]
        chunks = [Reads.of(lm, [joined(*row) for row in part], [target for _, target in part]) for part in parts]
        lowest = min(layer for path in self.paths if (layer := layer_of(lm, path)) is not None)
        adam = torch.optim.Adam(factors.values(), lr=hp.lr, weight_decay=hp.weight_decay)
        epoch, means = fixed(lm, lowest, chunks), []
        for _ in range(hp.num_steps):
            losses = []
            for chunk in epoch():
                with torch.enable_grad():
                    loss = chunk.nll(lm).mean()
                    whole = loss + ORTHOGONAL * skew(factors) if hp.lora_type == "adalora" else loss
                gradients = torch.autograd.grad(whole * lm.loss_scale, list(factors.values()))
                for factor, gradient in zip(factors.values(), gradients, strict=True):
                    factor.grad = gradient / lm.loss_scale
                adam.step()
                losses.append((loss.item(), len(chunk)))
            means.append(sum(loss * n for loss, n in losses) / len(edits))
        return means


def targets(lm: LM, hp: LoRASettings) -> list[str]:
    """Paths of the modules that are adapted, in the model's order. UserError for a name that no linear module has."""
    blocks = tuple(f"{lm.block(layer)}." for layer in hp.layers or range(lm.n_layers))
    linear = [p for p, m in lm.model.named_modules() if isinstance(m, nn.Linear | Conv1D) and p.startswith(blocks)]
    own = {path.rpartition(".")[2] for path in linear}
    wanted = [name for name in ATTENTION if name in own] if hp.target_modules is None else hp.target_modules
    for name in wanted:
        if name not in own:
            raise UserError(
                f"target_modules: no linear module of '{lm.name}' is called {short(name)}; there are "
                f"{', '.join(sorted(own))}"
            )
    if not wanted:
        raise UserError(f"target_modules: expected some of {', '.join(sorted(own))}, modules of '{lm.name}'")
    return [path for path in linear if path.rpartition(".")[2] in wanted]


def skew(factors: Mapping[str, Tensor]) -> Tensor:
    """How far AdaLoRA's factors are from orthogonal: the mean of |A A^T - I| and |B^T B - I| over all A and B."""
    squares = [f @ f.T if ".lora_A" in name else f.T @ f for name, f in factors.items() if ".lora_E" not in name]
    return torch.stack([(square - torch.eye(len(square)).to(square)).norm() for square in squares]).mean()


def factors_of(layers: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """What is trained of peft's layers, under the names peft saves them by."""
    return {
        f"{path}.{name.replace('.default', '')}": parameter
        for path, layer in layers.items()
        for name, parameter in layer.named_parameters()
        if parameter.requires_grad
    }


def merged(layers: Mapping[str, Any]) -> Deltas:
    """What each of peft's layers adds to its weight: {the weight's name now: delta in its layout, float32}."""
    return {f"{p}.base_layer.weight": layer.get_delta_weight("default").detach().float() for p, layer in layers.items()}


@contextmanager
def adapted(lm: LM, hp: LoRASettings, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """peft's layers in the place of the modules at `paths`, with a new adapter, whose dropout alone is in training."""
    from peft import AdaLoraConfig, LoraConfig, inject_adapter_in_model  # takes seconds

    common: dict[str, Any] = dict(
        lora_alpha=hp.lora_alpha,
        lora_dropout=hp.lora_dropout,
        target_modules=list(paths),
        fan_in_fan_out=isinstance(lm.module(paths[0]), Conv1D),
    )
    config = (
        LoraConfig(r=hp.rank, **common)
        if hp.lora_type == "lora"
        else AdaLoraConfig(init_r=hp.rank, total_step=hp.num_steps, **common)
    )
    modules, attributes = {path: lm.module(path) for path in paths}, set(vars(lm.model))
    try:
        inject_adapter_in_model(config, lm.model)
        layers: dict[str, Any] = {path: lm.module(path) for path in paths}
        for layer in layers.values():
            layer.lora_dropout.train()
            for parameter in layer.parameters():
                if parameter.requires_grad:  # Adam's moments are 0 in half precision
                    parameter.data = parameter.data.float()
        yield layers
    finally:
        for path, module in modules.items():
            parent, _, own = path.rpartition(".")
            setattr(lm.module(parent), own, module)
        for attribute in set(vars(lm.model)) - attributes:
            delattr(lm.model, attribute)


@contextmanager
def seeded(lm: LM, seed: int) -> Iterator[None]:
    """torch's random numbers from `seed` on, and as before afterwards: neither peft nor dropout takes a generator."""
    with torch.random.fork_rng(range(torch.cuda.device_count()) if lm.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


EDITOR = LoRA
