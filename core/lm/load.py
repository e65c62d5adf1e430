"""A Hugging Face folder on the disk, read as a model and its tokenizer, or refused in one line.

The loaders of transformers drop weights without a place, pass over an adapter beside the weights, and may read text
otherwise than tokenizer.json says. Here that is mended or an error: the numbers would be those of another model.
"""

import importlib.util
import logging
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from core.errors import UserError
from core.lm.model import LM, OFFLINE, paths_of
from core.messages import MERGE, first_line, short

logger = logging.getLogger(__name__)

MASKS = re.compile(
    r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias|(gpt_neox\.)?layers\.\d+\.attention\.(masked_)?bias"
    r"|(\w+\.)*rotary_emb\.inv_freq|(model\.)?decoder\.version"
)
"""Constants that older versions of the libraries wrote beside the weights of GPT-2, GPT-J, GPT-NeoX, LLaMA and OPT."""
PROBES = (
    "The mother tongue of Anna Bell is French, isn't it?",
    "Text: it 's  a charming\nand often   affecting journey (1,234.50 km).\n\nanswer: NO",
    "São Tomé, e\u0301te\u0301, Łódź, Москва, 東京, ﬁne №5 \U0001f642",
)
"""Texts on which two readings of one tokenizer.json are compared."""


def load(
    folder: Path,
    name: str,
    device: str | None = None,
    dtype: str = "float32",
    *,
    device_map: str | dict[str, Any] | None = None,
    attn: str | None = None,
    fingerprint: str | None = None,
) -> LM:
    """Load a Hugging Face folder from disk (never from the network, never running code it contains).

    `device_map` spreads the layers over several devices (accelerate), `attn` names an implementation of attention,
    `fingerprint` is that of a folder whose files were hashed already.
    Raises UserError for a folder that is not a readable model, that would load as another model than it holds, or
    whose family has no table row.
    """
    if device and device_map:
        raise UserError("--device-map places the layers itself: leave --device out")
    transformers.logging.set_verbosity_error()  # what it warns of is checked here, and said in one line
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not (folder / "config.json").is_file():
        raise UserError(f"no model at {folder}: config.json is missing; run `python prepare.py model {name}`")
    config = config_of(folder, name)  # before gigabytes are read
    tokenizer = tokenizer_of(folder, config)
    given = {"dtype": getattr(torch, dtype), "device_map": device_map, "attn_implementation": attn}
    try:
        model = _weights(folder, {key: value for key, value in given.items() if value is not None})
        if not device_map:
            model.to(place)
    except UserError:
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"model '{name}' does not fit on {place}; try --dtype bfloat16, --device-map auto or --device cpu"
        ) from error
    except Exception as error:  # the loaders' many kinds, and whatever torch says of a device that is not there
        raise UserError(f"cannot load the model at {folder} onto {device_map or place}: {first_line(error)}") from error
    return LM(model, tokenizer, name, folder, fingerprint)


def config_of(folder: Path, name: str) -> Any:
    """The configuration of a folder with plain weights of a known family. UserError for any other."""
    try:
        config = AutoConfig.from_pretrained(folder, **OFFLINE)
    except Exception as error:  # the loaders raise many kinds, all of which mean that the files are at fault
        raise UserError(f"cannot read the model at {folder}: {first_line(error)}") from error
    paths_of(config, name)
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"the model at {folder} has an adapter (adapter_config.json) beside its weights: {MERGE}")
    quantized = getattr(config, "quantization_config", None)
    if quantized is not None:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else quantized
        raise UserError(
            f"the weights of the model at {folder} are quantised ({short(method)}): they are neither read nor edited "
            "here; name a folder of the same model with weights in float32, bfloat16 or float16"
        )
    return config


def tokenizer_of(folder: Path, config: Any) -> Any:
    """The tokenizer of a folder, which reads text as its tokenizer.json says, if there is one.

    UserError if there is none, or if it puts tokens into texts that the model with this `config` has no embedding for.
    """
    try:
        tokenizer = _as_filed(folder, AutoTokenizer.from_pretrained(folder, **OFFLINE))
        ids = tokenizer("a")["input_ids"]
    except Exception as error:  # as above
        if _needs_sentencepiece(folder):
            raise UserError(
                f"the tokenizer of the model at {folder} is a sentencepiece file: `pip install sentencepiece protobuf`"
            ) from error
        raise UserError(f"cannot read the tokenizer of the model at {folder}: {first_line(error)}") from error
    if not ids:  # the loader makes up an empty tokenizer if there is none
        raise UserError(f"the model at {folder} has no tokenizer: tokenizer.json or the like is missing")
    if max(ids) >= config.vocab_size:
        raise UserError(
            f"the tokenizer of the model at {folder} puts token {max(ids)} into every text, but the model has "
            f"{config.vocab_size} embeddings (vocab_size of config.json): put the model's own tokenizer files there"
        )
    return tokenizer


def _needs_sentencepiece(folder: Path) -> bool:
    """Whether all there is of a tokenizer is a file that only sentencepiece reads, and that is not installed."""
    files = [path.name for path in folder.glob("*.model")]
    return bool(files) and not (folder / "tokenizer.json").is_file() and not importlib.util.find_spec("sentencepiece")


def _as_filed(folder: Path, tokenizer: Any) -> Any:
    """`tokenizer`, or the one tokenizer.json describes where the class that was chosen for it reads texts otherwise.

    Classes of transformers build their own normaliser and splitter around the vocabulary of the file, and some put
    special tokens of their own into every text. A tokenizer_config.json that names another family's class then gives
    ids that the model was not trained on.
    """
    file = folder / "tokenizer.json"
    if not file.is_file() or not getattr(tokenizer, "is_fast", False):
        return tokenizer
    filed = Tokenizer.from_file(str(file))
    filed.no_truncation()
    filed.no_padding()
    if [tokenizer(text)["input_ids"] for text in PROBES] == [filed.encode(text).ids for text in PROBES]:
        return tokenizer
    told = (
        "%s: %s, which transformers takes for it, reads text otherwise than tokenizer.json; tokenizer.json is followed"
    )
    logger.warning(told, folder, type(tokenizer).__name__)
    return PreTrainedTokenizerFast.from_pretrained(folder, **OFFLINE)


def _weights(folder: Path, given: dict[str, Any]) -> Any:
    """The model of a folder: every one of its weights is in the files, and it has a place for all that is there."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            ignore_mismatched_sizes=True,  # refused below, with a better message
            output_loading_info=True,
            **OFFLINE,
            **given,
        )
    except (ImportError, ValueError) as error:
        attn = given.get("attn_implementation")
        if attn is None or attn.split("_")[0] not in str(error).lower():
            raise
        raise UserError(f"--attn {attn} is not available here: {first_line(error)}") from error
    model, report = loaded
    unfit = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if unfit:  # the loader makes up random values for these
        raise UserError(f"the model at {folder} does not fit its config.json: no weights of that shape for {unfit[0]}")
    surplus = sorted(key for key in report["unexpected_keys"] if not MASKS.fullmatch(key))
    if surplus:  # the loader drops these
        raise UserError(
            f"the model at {folder} does not fit its config.json, which has no place for {len(surplus)} of its "
            f"weights, {short(surplus[0])} among them: config.json is to say what they need (attention_bias, "
            "num_hidden_layers, ...), an adapter's factors are to be merged first"
        )
    return model
