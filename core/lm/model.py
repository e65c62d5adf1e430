"""A causal language model, its tokenizer, and where its parts are.

Module paths belong to the model family: one row of `PATHS` per `config.model_type`. Adding a family is adding a row.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from core.errors import UserError
from core.lm.kernels.fused import fuse_
from core.lm.kernels.graphs import Recorder
from core.lm.kernels.products import quicken_

OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""For every loader of transformers: nothing from the network, no code out of a model's folder."""
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"),
)
"""Files of a model folder that decide its token ids."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a family keeps its parts; `{}` stands for the layer. `mlp_*` are paths inside the block."""

    block: str
    mlp: str
    """The module whose output is what the MLP writes."""
    mlp_in: str
    """First projection of the MLP, before the non-linearity (the gate, where there is one).

    Its first f outputs, f the width of the keys, go through the non-linearity: all, unless gate and up are one matrix.
    """
    mlp_out: str
    """Down projection of the MLP: its weight W is what ROME and MEMIT edit, its input is the key k."""
    final_norm: str
    block_returns_tuple: bool = False
    needs: Callable[[Any], dict[str, Any]] = lambda config: {}
    """Values of the configuration without which a model of the family is built otherwise than this row says."""


_LLAMA = Paths("model.layers.{}", "mlp", "mlp.gate_proj", "mlp.down_proj", "model.norm")

PATHS = {
    "gpt2": Paths("transformer.h.{}", "mlp", "mlp.c_fc", "mlp.c_proj", "transformer.ln_f"),
    "gptj": Paths("transformer.h.{}", "mlp", "mlp.fc_in", "mlp.fc_out", "transformer.ln_f", True),
    "gpt_neox": Paths(
        "gpt_neox.layers.{}", "mlp", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi": Paths("model.layers.{}", "mlp", "mlp.fc1", "mlp.fc2", "model.final_layernorm"),
    "phi3": replace(_LLAMA, mlp_in="mlp.gate_up_proj"),
    "opt": Paths(
        "model.decoder.layers.{}",
        "fc2",  # no module holds the MLP as a whole: what its last projection returns is its output
        "fc1",
        "fc2",
        "model.decoder.final_layer_norm",
        needs=lambda config: {  # unlike opt-350m
            "do_layer_norm_before": True,
            "_remove_final_layer_norm": False,
            "word_embed_proj_dim": config.hidden_size,
        },
    ),
}


class LM:
    """A model ready to be scored and edited: evaluation mode, no parameter requires a gradient.

    `name` names its settings and results; `folder` is where it was loaded from (None for a model built in memory);
    `fingerprint` is what `LM.fingerprint` shall be, so that gigabytes are not hashed again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        name: str,
        folder: Path | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model.config.return_dict = True  # outputs are read by their names
        self.tokenizer = tokenizer
        self.name = name
        self.folder = folder
        self.paths = paths_of(model.config, name)
        self._fingerprint = fingerprint
        self._recorder: Recorder | None = None
        if self._on_one_gpu:
            fuse_(self.model)
        elif self.device.type == "cpu":
            quicken_(self.model)

    @property
    def device(self) -> torch.device:
        """Where inputs go: that of the embeddings, for a model spread over several."""
        return device_of(self.model.get_input_embeddings())

    @property
    def loss_scale(self) -> float:
        """What a loss is multiplied by before it goes back through the model, and its gradient divided by after.

        float16 ends at 6e-8, where gradients are 0; the other types reach as far down as float32.
        """
        return 1024.0 if self.model.dtype == torch.float16 else 1.0

    @property
    def _on_one_gpu(self) -> bool:
        return self.device.type == "cuda" and getattr(self.model, "hf_device_map", None) is None

    @property
    def recorder(self) -> Recorder | None:
        """Records what this model does again and again; None where that cannot be recorded.

        On a CPU, or spread over several devices; where attention or position angles ask the device for numbers.
        """
        config, rope = self.model.config, getattr(self.model.config, "rope_parameters", None) or {}
        attention = config._attn_implementation == "sdpa" or self.takes_masks
        if not self._on_one_gpu or not attention or rope.get("rope_type") in ("dynamic", "longrope"):
            return None
        if self._recorder is None:
            self._recorder = Recorder(self.device)
        return self._recorder

    @property
    def n_layers(self) -> int:
        return int(self.model.config.num_hidden_layers)

    @property
    def context(self) -> int:
        """Longest input in tokens.

        With longrope the length of training before it was stretched: beyond it all positions of a batch, those of
        short rows too, are turned by other angles, and what the model says of a row would depend on its neighbours.
        """
        config = self.model.config
        longest, rope = int(config.max_position_embeddings), getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            return min(longest, int(rope["original_max_position_embeddings"]))
        return longest

    @property
    def window(self) -> int | None:
        """How many columns back attention reaches in some layers, None where it reaches to the first in all."""
        kinds = getattr(self.model.config, "layer_types", None) or ["sliding_attention"]
        return getattr(self.model.config, "sliding_window", None) if "sliding_attention" in kinds else None

    @property
    def takes_masks(self) -> bool:
        """Whether all layers take one and the same mask of attention, ready-made."""
        return self.window is None and self.model.config._attn_implementation in ("sdpa", "eager")

    @property
    def vocabulary(self) -> int:
        """How many ids have an embedding."""
        return int(self.model.get_input_embeddings().get_parameter("weight").shape[0])

    @property
    def pad_id(self) -> int:
        """Any valid id: padded positions are masked and never decoded."""
        return self.valid(self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)

    def valid(self, *ids: int | None) -> int:
        """The first of `ids` that has an embedding; 0 if none has."""
        return next((i for i in ids if i is not None and 0 <= i < self.vocabulary), 0)

    @cached_property
    def tokens_behind(self) -> int:
        """How many tokens the tokenizer puts behind every text: an EOS, with some."""
        return added_behind(self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration and weights on disk; of the tensors themselves for a model built in memory.

        Taken from the constructor where it was known already.
        """
        if self._fingerprint is not None:
            return self._fingerprint
        if self.folder is not None:
            return hash_folder(self.folder)
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def tokenizer_sha256(self) -> str | None:
        """SHA-256 of the tokenizer's files; None for a model built in memory."""
        return None if self.folder is None else hash_files(self.folder, *TOKENIZER)

    @cached_property
    def embeddings(self) -> str:
        """Name of the input embeddings' weight."""
        module = self.model.get_input_embeddings()
        return next(f"{name}.weight" for name, found in self.model.named_modules() if found is module)

    def block(self, layer: int) -> str:
        return self.paths.block.format(layer)

    def mlp(self, layer: int) -> str:
        return f"{self.block(layer)}.{self.paths.mlp}"

    def mlp_in(self, layer: int) -> str:
        return f"{self.block(layer)}.{self.paths.mlp_in}"

    def mlp_out(self, layer: int) -> str:
        return f"{self.block(layer)}.{self.paths.mlp_out}"

    def key_width(self, layer: int) -> int:
        """f, the length of a key: the inputs of the MLP's down projection."""
        module = self.module(self.mlp_out(layer))
        return orient(module, module.get_parameter("weight")).shape[1]

    def mlp_weights(self, layer: int) -> list[str]:
        """Names of the weights of the MLP, in the model's order."""
        ends, inside = (self.mlp_in(layer), self.mlp_out(layer)), f"{self.mlp(layer)}."
        linear = [path for path, module in self.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
        return [f"{path}.weight" for path in linear if path in ends or path.startswith(inside)]

    def module(self, path: str) -> nn.Module:
        module: nn.Module = self.model.get_submodule(path)
        return module

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of final hidden states, as the model itself makes them: (..., d) -> (..., vocabulary)."""
        head = self.model.get_output_embeddings()
        logits: Tensor = head(hidden.to(device_of(head)))
        cap = getattr(self.model.config, "final_logit_softcapping", None)  # Gemma's
        return logits if cap is None else cap * (logits / cap).tanh()


def added_behind(tokenizer: Any) -> int:
    """How many tokens a tokenizer puts behind every text."""
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    starts = [start for start in range(len(whole)) if whole[start : start + len(bare)] == bare]
    return len(whole) - starts[0] - len(bare) if starts else 0


def device_of(module: nn.Module) -> torch.device:
    """Where a module with a weight computes; accelerate brings an offloaded weight there when it is needed."""
    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return module.get_parameter("weight").device if place is None else torch.device(place)


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's config.json and weight files."""
    return _hashed(sorted([folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]))


def hash_files(folder: Path, *names: str) -> str | None:
    """SHA-256 over the names and contents of those of the files that are in a model folder; None if none is."""
    files = [folder / name for name in names if (folder / name).is_file()]
    return _hashed(files) if files else None


def _hashed(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 24):
                    digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read the model at {file.parent}: {error.strerror}") from error
    return digest.hexdigest()


def paths_of(config: Any, name: str) -> Paths:
    """The table row for this model's family. Raises UserError if there is none."""
    if config.model_type not in PATHS:
        raise UserError(
            f"model '{name}' is of family '{config.model_type}', which has no row in the table of core/lm/model.py; "
            f"known families: {', '.join(sorted(PATHS))}"
        )
    row = PATHS[config.model_type]
    for key, value in row.needs(config).items():
        if getattr(config, key) != value:
            raise UserError(
                f"model '{name}' is a variant of '{config.model_type}' that cannot be edited: its config.json says "
                f"{key}: {getattr(config, key)}, expected {value}"
            )
    return row


def transposed(module: nn.Module) -> bool:
    """Whether the module stores its weight as (d_in, d_out), as Conv1D does."""
    return isinstance(module, Conv1D)


def orient(module: nn.Module, update: Tensor) -> Tensor:
    """A (d_out, d_in) update in the layout the module stores, and back."""
    return update.T if transposed(module) else update
