"""What ROME, MEMIT, AlphaEdit and EMMET share: their settings, and what they measure of the unedited model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from core.folders import of_project
from core.hparams import added
from core.lm.model import LM
from core.lm.moments import Corpus
from core.lm.weights import at_hand
from core.types import Editor, Layer, Notes
from editors._moments import Solver, factorised
from editors._templates import context_templates


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """What ROME, MEMIT, AlphaEdit and EMMET share, under the names of the authors' files, or with a default."""

    layers: tuple[Layer, ...]
    v_num_grad_steps: int
    v_lr: float
    v_loss_layer: Layer
    v_weight_decay: float
    clamp_norm_factor: float
    kl_factor: float
    mom2_adjustment: bool
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int = 100000
    mom2_dtype: Literal["float32"] = "float32"
    stats_dir: str = "data/stats"
    fact_token: Literal["subject_last"] = "subject_last"
    context_templates: tuple[str, ...] | None = None
    context_template_length_params: tuple[tuple[int, int], ...] = ()
    """Length in tokens and number of the templates that are drawn where there are no `context_templates`."""
    v_stop_after: int | None = added(None)
    """Steps that an edit's search goes on once its target is the likeliest in every template; None: to its own end."""
    v_norm: float | None = added(None)
    """The length that every MLP output v* is brought to, its mean on the unedited model; None: v* stays as it is."""
    v_norm_limit: float = added(2.0)
    """With `v_norm`: an edit whose v* is more than so many times as long is left out."""

    def __post_init__(self) -> None:
        templates = self.context_templates
        if templates is not None and (templates[:1] != ("{}",) or any(t.count("{}") != 1 for t in templates)):
            raise ValueError('context_templates: the first must be "{}", and each must contain {} exactly once')
        if any(part < 1 for shape in self.context_template_length_params for part in shape):
            raise ValueError("context_template_length_params: expected pairs of a length and a number from 1 on")
        if not self.layers or self.v_num_grad_steps < 1:
            raise ValueError("layers and v_num_grad_steps: expected at least one layer and one step")
        if self.v_stop_after is not None and self.v_stop_after < 0:
            raise ValueError("v_stop_after: expected a number of steps, 0 or more")
        if not (self.v_lr > 0 and self.clamp_norm_factor > 0 and self.mom2_n_samples > 0):
            raise ValueError("v_lr, clamp_norm_factor and mom2_n_samples: expected more than 0")
        if self.v_weight_decay < 0 or self.kl_factor < 0:
            raise ValueError("v_weight_decay and kl_factor: expected 0 or more")
        if self.v_norm is not None and not (self.v_norm > 0 and self.v_norm_limit > 0):
            raise ValueError("v_norm and v_norm_limit: expected more than 0")

    @property
    def corpus(self) -> Corpus:
        """What the second moments are collected over."""
        return Corpus(self.mom2_dataset, self.mom2_n_samples, of_project(self.stats_dir))


class TargetEditor(Editor):
    """What the four share: they measure the same of the unedited model, and their settings fit a model alike."""

    hp: Any
    strict: ClassVar[bool] = False
    """Whether second moments that are near-singular are refused, or only warned of."""

    def __init__(self, lm: LM, hp: Any, seed: int = 0) -> None:
        self.lm, self.hp = lm, hp
        self.names = {layer: f"{lm.mlp_out(layer)}.weight" for layer in sorted(hp.layers)}
        """Layer -> the weight that is edited there, in ascending order."""
        at_hand(lm.model, self.names.values())
        self.templates = hp.context_templates or context_templates(lm, hp.context_template_length_params, seed)
        self.moments = self.measured()

    def measured(self) -> Mapping[int, Solver]:
        """Per layer what an update is to leave alone: the second moments of keys, unless the settings do without."""
        hp = self.hp
        return factorised(self.lm, hp.layers, hp.corpus, self.strict) if hp.mom2_adjustment else {}

    def about(self) -> Notes:
        return {"context_templates": list(self.templates)}

    @classmethod
    def redrawn(cls, hp: Any) -> Any:
        return replace(hp, context_templates=None)

    @classmethod
    def suggested(cls, values: Mapping[str, Any], lm: LM, layer: int | None) -> dict[str, Any]:
        """`layers`, as many as in the template, end at the layer that holds facts; the loss reads the last one.

        Where too few are below it they start at the first one.
        Another model's context templates are not taken: they are drawn.
        """
        assert layer is not None, "tracing says where facts are"
        count = min(len(values["layers"]), lm.n_layers - 1)
        start = max(0, layer - count + 1)
        own = {"layers": list(range(start, start + count)), "v_loss_layer": lm.n_layers - 1}
        return {**{key: value for key, value in values.items() if key != "context_templates"}, **own}
