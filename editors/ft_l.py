"""FT-L: fine-tuning of one layer on targets that are all read behind the prompt, none behind another.

The fine-tuning that Meng et al. (*Locating and Editing Factual Associations in GPT*, NeurIPS 2022) and most tables
since compare with; with `norm_constraint` that of Zhu et al., *Modifying Memories in Transformer Models* (2020). For a
target t of n tokens after a prompt p, which is what is minimised over the weights of the MLP's down projection:

    - 1/n sum_i log P(t_i | p)

the mean over the edits of a chunk. For n > 1 this is a bag of tokens: nothing teaches their order. That is the method
as published; FT-M has the likelihood of the target.

Differs from the released code: the place is the prompt's last token whatever is padded (there, with left padding, that
of a shorter prompt in a batch is another, at times a pad); the target has one blank in front of it, not two; pads are
told by the mask, not by their id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from core.lm.reads import Reads
from core.lm.tokens import pad
from core.types import Edit
from editors._training.ft import FTSettings, Tuning
from editors._training.gradients import rows_of


@dataclass(frozen=True, kw_only=True)
class FTLSettings(FTSettings):
    """Settings of FT-L, under the names of the released files; `objective_optimization` tells them from FT-M's."""

    objective_optimization: Literal["prompt_last"] = "prompt_last"


class FTL(Tuning):
    """See the module's docstring. Notes: the loss in the first and in the last epoch, the number of epochs."""

    name = "FT-L"
    modes = frozenset({"Instance-Sequential", "Batch-Single", "Batch-Sequential"})
    hparams = FTLSettings

    def reads(self, edits: Sequence[Edit]) -> Reads:
        """All tokens of a target, at the last token of its prompt."""
        prompts, targets = zip(*rows_of(self.lm, edits), strict=True)
        tokens = pad(self.lm, prompts)
        row = torch.tensor([r for r, target in enumerate(targets) for _ in target], device=self.lm.device)
        token = torch.tensor([token for target in targets for token in target], device=self.lm.device)
        return Reads(tokens, row, torch.full_like(row, tokens.ids.shape[1] - 1), token)


EDITOR = FTL
