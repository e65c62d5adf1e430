"""EMMET: many facts in one update that is to give each key exactly its value, as ROME's does for one.

Gupta et al., *A Unified Framework for Model Editing* (EMNLP Findings 2024). In the legend of editors/_spread.py, with
M = mom2_update_weight C + update_norm_lambda I, C = E[k k^T] of the unedited model:

    Delta_l = R (K^T M^-1 K + emmet_lambda I)^-1 K^T M^-1

where emmet_lambda, for several edits alone, softens the constraint Delta K = R. For one edit this is ROME's closed form
with one key for all, r (M^-1 k)^T / (k^T M^-1 k); it differs from ROME in its target (the block's output, as MEMIT's)
and its key (MEMIT's mean over templates).

By the push-through identity that is MEMIT's update with emmet_lambda * mom2_update_weight for lambda, and with 0 for
one edit, which is how it is solved here: only the product of the two counts.

Differs from the released code as MEMIT does; and where the constraint cannot be met (one key with two values, no
emmet_lambda) the update is refused, not solved with a pseudo-inverse. EasyEdit's copy softens single edits too.
"""

from dataclasses import dataclass
from typing import ClassVar

from editors._moments import Factors, factorised
from editors._spread import SpreadEditor, SpreadSettings


@dataclass(frozen=True, kw_only=True)
class EMMETSettings(SpreadSettings):
    """Settings of EMMET: those it shares with MEMIT and its own."""

    READ_PAST: ClassVar[tuple[str, ...]] = ("calculate_objective_value",)  # which asks for a measurement alone

    mom2_update_weight: float
    emmet_lambda: float
    update_norm_lambda: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mom2_update_weight > 0 or self.emmet_lambda < 0 or self.update_norm_lambda < 0:
            raise ValueError("mom2_update_weight: expected more than 0, and the two lambdas: 0 or more")


class EMMET(SpreadEditor):
    """See the module's docstring."""

    name = "EMMET"
    modes = frozenset({"Batch-Single", "Batch-Sequential"})
    hparams = EMMETSettings
    hp: EMMETSettings

    def weight(self, edits: int) -> float:
        return self.hp.emmet_lambda * self.hp.mom2_update_weight if edits > 1 else 0.0

    def measured(self) -> dict[int, Factors]:
        ridge = self.hp.update_norm_lambda / self.hp.mom2_update_weight
        return factorised(self.lm, self.hp.layers, self.hp.corpus, ridge=ridge)


EDITOR = EMMET
