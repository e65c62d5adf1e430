"""The released models at their real sizes, with random weights: speed and memory do not depend on what weights say."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from core import folders
from core.lm.model import LM
from inputs.embedded import EMBEDDED_MODEL

LLAMA: dict[str, Any] = dict(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
)
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-xl": ("gpt2", dict(n_embd=1600, n_layer=48, n_head=25, n_positions=1024, vocab_size=50257)),
    "gpt-j-6B": ("gptj", dict(n_embd=4096, n_layer=28, n_head=16, rotary_dim=64, n_positions=2048, vocab_size=50400)),
    "llama-7b": ("llama", dict(LLAMA, max_position_embeddings=2048)),
    "llama2-7b": ("llama", dict(LLAMA, max_position_embeddings=4096)),
    "llama2-13b": (
        "llama",
        dict(
            LLAMA,
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
            max_position_embeddings=4096,
        ),
    ),
}
"""Family and sizes of the published config.json files."""
STAND_INS = (folders.MODELS / EMBEDDED_MODEL, Path("tests/golden/models/gpt2-tiny"))


def config(name: str, layers: int | None = None, width: int | None = None) -> Any:
    """The configuration of a released model, with fewer `layers` or another `width` (4 heads) for a trial."""
    family, sizes = CONFIGS[name]
    shape = AutoConfig.for_model(family, tie_word_embeddings=family == "gpt2", **sizes)
    if layers:
        shape.num_hidden_layers = layers  # the families' own names are aliases of these
    if width:
        shape.hidden_size, shape.num_attention_heads = width, 4
        if family == "llama":
            shape.num_key_value_heads, shape.head_dim, shape.intermediate_size = 4, width // 4, 4 * width
        if family == "gptj":
            shape.rotary_dim = width // 8
    return shape


def skeleton(name: str) -> LM:
    """The model without weights: shapes and names."""
    with torch.device("meta"):
        return LM(AutoModelForCausalLM.from_config(config(name)), None, name)


def random_lm(name: str, shape: Any, device: str, dtype: str) -> LM:
    """A model of the configuration `shape`, drawn where and as it is to be used."""
    tokenizer = stand_in(shape.vocab_size)
    shape.bos_token_id = shape.eos_token_id = shape.pad_token_id = tokenizer.eos_token_id
    model = drawn(shape, device, dtype)
    return LM(model, tokenizer, name, fingerprint="random weights")  # the hash of gigabytes takes minutes


def drawn(shape: Any, device: str, dtype: str) -> PreTrainedModel:
    """The model as transformers makes it; the same weights each time."""
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, dtype))
    return model


def stand_in(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer with ids below `vocabulary`: a byte-level BPE here already, without its last merges."""
    source = next(folder for folder in STAND_INS if (folder / "tokenizer.json").is_file())
    if len(whole := AutoTokenizer.from_pretrained(source)) <= vocabulary:
        return whole
    state = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    kept = {token: i for token, i in state["model"]["vocab"].items() if i < vocabulary}
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in state["model"]["merges"]]
    state["model"]["vocab"] = kept
    state["model"]["merges"] = [
        list(pair) for pair in merges if pair[0] in kept and pair[1] in kept and "".join(pair) in kept
    ]
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < vocabulary]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token=whole.eos_token, bos_token=whole.bos_token
    )
