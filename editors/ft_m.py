"""FT-M: fine-tuning of one layer on the likelihood of the target after its prompt.

Zhang et al., *A Comprehensive Study of Knowledge Editing for Large Language Models* (2024), name it so. For a target t
of n tokens after a prompt p, which is what is minimised over the weights of the MLP's down projection:

    - 1/n sum_i log P(t_i | p, t_1 ... t_(i-1))

the mean over the edits of a chunk; with `norm_constraint` no entry goes further from its value than that.

Differs from the released code: positions count a row's own tokens (there a row padded on its left starts late, with
learned positions); prompt and target are joined as ids, with one blank between them, not two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.lm.reads import Reads, joined
from core.types import Edit
from editors._training.ft import FTSettings, Tuning
from editors._training.gradients import rows_of


@dataclass(frozen=True, kw_only=True)
class FTMSettings(FTSettings):
    """Settings of FT-M, under the names of the released files; `objective_optimization` tells them from FT-L's."""

    objective_optimization: Literal["target_new"] = "target_new"


class FTM(Tuning):
    """See the module's docstring. Notes: the loss in the first and in the last epoch, the number of epochs."""

    name = "FT-M"
    modes = frozenset({"Instance-Sequential", "Batch-Single", "Batch-Sequential"})
    hparams = FTMSettings

    def reads(self, edits: Sequence[Edit]) -> Reads:
        """Each token of a target, after the prompt and the tokens before it."""
        rows = rows_of(self.lm, edits)
        return Reads.of(self.lm, [joined(*row) for row in rows], [target for _, target in rows])


EDITOR = FTM
