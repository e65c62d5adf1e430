"""What FT-L and FT-M share: fine-tuning of the MLP's down projection in a few layers, weight and bias."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from core.lm.model import LM
from core.lm.reads import Reads
from core.lm.weights import at_hand
from core.types import Deltas, Edit, Editor, Layer, Notes
from editors._training.tuning import TuningSettings, fixed, tuned


@dataclass(frozen=True, kw_only=True)
class FTSettings(TuningSettings):
    """Settings of FT-L and FT-M. `norm_constraint`: how far an entry of a weight may go from its value (false: far)."""

    READ_PAST: ClassVar[tuple[str, ...]] = ("kl_factor",)  # which the released code does not use

    layers: tuple[Layer, ...]
    norm_constraint: Literal[False] | float = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers:
            raise ValueError("layers: expected at least one")
        if self.norm_constraint < 0:
            raise ValueError("norm_constraint: expected more than 0, or false")


class Tuning(Editor):
    """See the modules of those that inherit from it, which say what is read."""

    hp: FTSettings

    def __init__(self, lm: LM, hp: Any, seed: int = 0) -> None:
        self.lm, self.hp = lm, hp
        paths = [lm.mlp_out(layer) for layer in sorted(set(hp.layers))]
        self.names = [f"{path}.{own}" for path in paths for own, _ in lm.module(path).named_parameters()]
        at_hand(lm.model, self.names)

    def reads(self, edits: Sequence[Edit]) -> Reads:
        """Where the targets of edits that share a step are read."""
        raise NotImplementedError

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The change of the down projections, float32. The model is the same before and after."""
        chunks = [self.reads(edits[at : at + self.hp.batch_size]) for at in range(0, len(edits), self.hp.batch_size)]
        limit = self.hp.norm_constraint or float("inf")
        return tuned(self.lm, self.names, fixed(self.lm, min(self.hp.layers), chunks), self.hp, limit)

    @classmethod
    def suggested(cls, values: Mapping[str, Any], lm: LM, layer: int | None) -> dict[str, Any]:
        """`layers`, as many as in the template, end at the layer that holds facts."""
        assert layer is not None, "tracing says where facts are"
        count = min(len(values["layers"]), lm.n_layers - 1)
        start = max(0, layer - count + 1)
        return {**values, "layers": list(range(start, start + count))}
