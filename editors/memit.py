"""MEMIT: many facts in one update, spread over the down projections of several layers.

Meng et al., *Mass-Editing Memory in a Transformer* (ICLR 2023), equations 14-20. In the legend of editors/_spread.py,
where the update is made, with C = E[k k^T] of the unedited model and lambda = mom2_update_weight:

    Delta_l = R K^T (lambda C + K K^T)^-1

Between batches the weights stay, and the keys of earlier batches do not enter. With `cache: true` they do, so that
later updates leave them alone too: MEMIT_seq of the AlphaEdit authors' repository, with K_p the keys of earlier edits,

    Delta_l = R K^T (lambda C + K_p K_p^T + K K^T)^-1

`update_norm_lambda` n puts n I beside lambda C: ENCORE's penalty (Gupta et al. 2025) on the update's norm.

Differs from the released code: the z of several edits are optimised in one batch; C is factorised once per run, and the
system is solved in its small form. MEMIT_seq does not run there as released (its cache is not handed on); this is what
it is meant to do.
"""

from dataclasses import dataclass

from core.hparams import added
from editors._moments import Factors, factorised
from editors._spread import SpreadEditor, SpreadSettings


@dataclass(frozen=True, kw_only=True)
class MEMITSettings(SpreadSettings):
    """Settings of MEMIT: those it shares with others and its own."""

    mom2_update_weight: float
    cache: bool = added(False)
    update_norm_lambda: float = added(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update_norm_lambda < 0 or not self.mom2_update_weight > 0:
            raise ValueError("mom2_update_weight: expected more than 0, and update_norm_lambda: 0 or more")


class MEMIT(SpreadEditor):
    """See the module's docstring."""

    name = "MEMIT"
    modes = frozenset({"Batch-Single", "Batch-Sequential"})
    hparams = MEMITSettings
    hp: MEMITSettings

    def weight(self, edits: int) -> float:
        return self.hp.mom2_update_weight

    @property
    def remembers(self) -> bool:
        return self.hp.cache

    def measured(self) -> dict[int, Factors]:
        hp, ridge = self.hp, self.hp.update_norm_lambda and self.hp.update_norm_lambda / self.hp.mom2_update_weight
        return factorised(self.lm, hp.layers, hp.corpus, ridge=ridge)


EDITOR = MEMIT
