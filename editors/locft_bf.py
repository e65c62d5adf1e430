"""LocFT-BF: plain fine-tuning of one place in the model on all edits of an update, breadth first.

Yang et al., *Fine-tuning Done Right in Model Editing* (ICLR 2026), find that fine-tuning was compared unfairly: each
edit to its end before the next one began. Here each of several epochs goes over all edits in chunks, in a new order.
What is minimised over the trained parameters, for targets t of n tokens with the end-of-text token behind them:

    - 1/n sum_i log P(t_i | p, t_1 ... t_(i-1))           the mean over the edits of a chunk

Differs from the released code: positions count a row's own tokens; no token is added to the vocabulary for pads; the
order is drawn from the run's seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from core.errors import UserError
from core.lm.forward import final_states
from core.lm.model import LM
from core.lm.reads import Reads, joined
from core.lm.tokens import Row
from core.lm.weights import at_hand
from core.messages import short
from core.types import Deltas, Edit, Editor, Layer, Notes
from editors._training.gradients import rows_of
from editors._training.tuning import Chunk, TuningSettings, tuned


@dataclass(frozen=True, kw_only=True)
class LocFTSettings(TuningSettings):
    """Settings of LocFT-BF. `rewrite_module` is the path of what is trained, with {} for the layer: a parameter, or a
    module with all of its parameters; None is the MLP's down projection."""

    READ_PAST: ClassVar[tuple[str, ...]] = ("model_name_or_path", "data_path", "save_model_dir")

    layer: Layer
    rewrite_module: str | None = None


class LocFT(Editor):
    """See the module's docstring. Notes: the loss in the first and in the last epoch, the number of epochs."""

    name = "LocFT-BF"
    modes = frozenset({"Batch-Single", "Batch-Sequential"})
    hparams = LocFTSettings

    def __init__(self, lm: LM, hp: LocFTSettings, seed: int = 0) -> None:
        self.lm, self.hp, self.seed = lm, hp, seed
        self.names = trained(lm, hp)
        at_hand(lm.model, self.names)

    @classmethod
    def suggested(cls, values: Mapping[str, Any], lm: LM, layer: int | None) -> dict[str, Any]:
        """The down projection of the layer at 0.7 of the depth, as in the authors' Llama and Mistral (not Qwen)."""
        return {**values, "layer": int(0.7 * lm.n_layers), "rewrite_module": None}

    def deltas(self, edits: Sequence[Edit]) -> tuple[Deltas, Notes]:
        """The change of what is trained, float32. The model is the same before and after."""
        end = self.lm.tokenizer.eos_token_id
        rows = [(prompt, target if end is None else [*target, end]) for prompt, target in rows_of(self.lm, edits)]
        generator = torch.Generator().manual_seed(self.seed)
        return tuned(self.lm, self.names, partial(self._epoch, rows, generator), self.hp)

    def _epoch(self, rows: Sequence[tuple[Row, Row]], generator: torch.Generator) -> Iterator[Chunk]:
        """All edits, in an order of this epoch's own."""
        for part in torch.randperm(len(rows), generator=generator).split(self.hp.batch_size):
            chunk = [rows[i] for i in part]
            reads = Reads.of(self.lm, [joined(*row) for row in chunk], [target for _, target in chunk])
            yield Chunk(reads, partial(final_states, self.lm, reads.tokens))


def trained(lm: LM, hp: LocFTSettings) -> list[str]:
    """Names of the parameters that `rewrite_module` means. UserError if there is none."""
    path = lm.mlp_out(hp.layer) if hp.rewrite_module is None else hp.rewrite_module.replace("{}", str(hp.layer))
    names = [name for name, _ in lm.model.named_parameters() if f"{name}.".startswith(f"{path}.")]
    if not names:
        raise UserError(f"rewrite_module: '{lm.name}' has no parameter or module {short(path)}")
    return names


EDITOR = LocFT
