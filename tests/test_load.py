"""core.lm.load: a folder is the model it says it is, or refused in one line that says what to do."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import saved, tiny
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from core.errors import UserError
from core.lm import load as loading
from core.lm.generate import complete
from core.lm.load import load, tokenizer_of
from core.lm.model import TOKENIZER, hash_files, hash_folder
from core.lm.tokens import encode

PROMPTS = ["The capital of France is", "a", "Where was Tom Hill born?"]


def change(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    content = {key: value for key, value in {**content, **values}.items() if value is not None}
    file.write_text(json.dumps(content), encoding="utf-8")


def add(folder: Path, **tensors: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file(load_file(file) | {name.replace("__", "."): t for name, t in tensors.items()}, file, {"format": "pt"})


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(folder, "m", "cpu")
    message = str(caught.value)
    assert str(folder) in message and len(message.splitlines()) == 1
    assert all(word in message for word in words), message


# --- weights -------------------------------------------------------------------------------------------------------


def test_biases_the_configuration_has_no_place_for(tmp_path: Path) -> None:
    lm = tiny("llama", attention_bias=True)
    folder = saved(lm, tmp_path / "m")
    assert load(folder, "m", "cpu").model.config.attention_bias
    change(folder / "config.json", attention_bias=None)
    refused(
        folder, "no place for 16 of its weights, 'model.layers.0.self_attn.k_proj.bias' among them", "attention_bias"
    )


def test_more_layers_than_the_configuration_says(tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "m")
    change(folder / "config.json", num_hidden_layers=3)
    refused(folder, "no place for 9 of its weights, 'model.layers.3.", "num_hidden_layers")


def test_factors_of_an_adapter_among_the_weights(tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "m")
    add(folder, model__layers__0__self_attn__q_proj__lora_A__weight=torch.ones(2, 32))
    refused(folder, "'model.layers.0.self_attn.q_proj.lora_A.weight'", "merged first")


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("gpt2", ["transformer__h__0__attn__bias", "transformer__h__0__attn__masked_bias"]),
        ("gptj", ["transformer__h__0__attn__bias", "transformer__h__0__attn__masked_bias"]),
        ("gpt_neox", ["gpt_neox__layers__0__attention__bias", "gpt_neox__layers__0__attention__masked_bias"]),
        ("llama", ["model__layers__0__self_attn__rotary_emb__inv_freq"]),
        ("opt", ["model__decoder__version"]),
    ],
)
def test_constants_that_older_versions_wrote_beside_the_weights(family: str, names: list[str], tmp_path: Path) -> None:
    lm = tiny(family)
    folder = saved(lm, tmp_path / "m")
    add(folder, **{name: torch.ones(1) for name in names})
    if family == "gpt_neox":
        add(folder, gpt_neox__layers__0__attention__rotary_emb__inv_freq=torch.ones(4))
    assert complete(load(folder, "m", "cpu"), PROMPTS, 3) == complete(lm, PROMPTS, 3)


@pytest.mark.parametrize("name", ["self_attn.bias", "attention.bias", "attn.masked_bias", "decoder.version.weight"])
def test_weights_that_are_called_nearly_so(name: str, tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "m")
    add(folder, **{f"model.layers.0.{name}".replace(".", "__"): torch.ones(32)})
    refused(folder, f"no place for 1 of its weights, 'model.layers.0.{name}' among them")


def test_an_adapter_beside_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    folder = saved(load(tiny_folder, "m", "cpu"), tmp_path / "m")
    change(folder / "adapter_config.json", peft_type="LORA")
    refused(folder, "has an adapter (adapter_config.json) beside its weights", "merge_and_unload")


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "gptq", "bitsandbytes", "unheard-of", None])
def test_quantised_weights(method: str | None, tmp_path: Path) -> None:
    folder = saved(tiny("gpt2"), tmp_path / "m")
    change(folder / "config.json", quantization_config={"quant_method": method} if method else {"bits": 4})
    refused(folder, f"are quantised ('{method or 'unknown'}')", "bfloat16")


def test_outputs_are_read_by_name_whatever_the_configuration_says(tmp_path: Path) -> None:
    lm = tiny("gpt2")
    folder = saved(lm, tmp_path / "m")
    change(folder / "config.json", return_dict=False)
    loaded = load(folder, "m", "cpu")
    for new_tokens in (1, 4):
        assert complete(loaded, PROMPTS, new_tokens) == complete(lm, PROMPTS, new_tokens)


# --- tokenizers ----------------------------------------------------------------------------------------------------


def words_and_digits(tokenizer: Tokenizer) -> None:
    """What no class of transformers builds by itself: everything in lower case, digits one by one."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer", None])
def test_ids_are_those_of_tokenizer_json(named: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = tiny("qwen2")
    words_and_digits(lm.tokenizer.backend_tokenizer)
    folder = saved(lm, tmp_path / "m")
    change(folder / "tokenizer_config.json", tokenizer_class=named, add_bos_token=None)
    filed = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with caplog.at_level(logging.WARNING):
        loaded = load(folder, "m", "cpu")
    for text in (*PROMPTS, "In 1984 ÉTÉ e\u0301te\u0301"):
        assert encode(loaded, text) == filed.encode(text).ids
    assert complete(loaded, PROMPTS, 3) == complete(lm, PROMPTS, 3)
    told = [record.getMessage() for record in caplog.records if "tokenizer.json is followed" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith(f"{folder}: Qwen2Tokenizer")


def test_special_tokens_are_those_of_tokenizer_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A class that splits texts as the file does may put a BOS of its own in front of them."""
    folder = saved(tiny("llama"), tmp_path / "m")
    change(folder / "tokenizer_config.json", tokenizer_class="CodeLlamaTokenizer")
    change(folder / "tokenizer.json", post_processor=None)
    with caplog.at_level(logging.WARNING):
        loaded = load(folder, "m", "cpu")
    for text in PROMPTS:
        assert encode(loaded, text) == encode(tiny("llama"), text)[1:]
    assert [message for message in caplog.messages if "CodeLlamaTokenizer" in message and "is followed" in message]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_tokenizer_that_is_read_as_filed_stays_what_it_is(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tiny(family), tmp_path / "m")
    own = AutoTokenizer.from_pretrained(folder)
    assert loading._as_filed(folder, own) is own
    assert encode(load(folder, "m", "cpu"), "a b") == encode(tiny(family), "a b")
    assert not caplog.records


def test_a_token_that_is_put_into_every_text_and_has_no_embedding(tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "m")
    change(folder / "tokenizer.json", **beyond(folder / "tokenizer.json", 5000))
    refused(folder, "puts token 5000 into every text", "1000 embeddings")


def beyond(file: Path, number: int) -> dict[str, Any]:
    """The parts of a tokenizer.json, with another id for BOS."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content["post_processor"]["special_tokens"]["<s>"]["ids"] = [number]
    return {"post_processor": content["post_processor"]}


def test_a_special_token_without_an_embedding_that_no_text_has(tmp_path: Path) -> None:
    """As with Gemma's token for images."""
    lm = tiny("gpt2")
    wanted = complete(lm, PROMPTS, 3)
    lm.tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<image>", special=True)]})
    folder = saved(lm, tmp_path / "m")
    assert complete(load(folder, "m", "cpu"), PROMPTS, 3) == wanted
    with pytest.raises(UserError, match="has token"):
        lm.tokenizer.add_tokens(["France"])
        encode(lm, "France")


def without_tokenizer(folder: Path) -> None:
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize("installed", [False, True])
def test_a_sentencepiece_file_alone(installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tiny("llama"), tmp_path / "m")
    without_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: "here" if installed else None)
    words = () if installed else ("is a sentencepiece file: `pip install sentencepiece protobuf`",)
    refused(folder, *words)


def test_no_tokenizer(tmp_path: Path) -> None:
    folder = saved(tiny("gpt2"), tmp_path / "m")
    without_tokenizer(folder)
    refused(folder, "has no tokenizer")


def test_a_tokenizer_that_cannot_be_read(tmp_path: Path) -> None:
    folder = saved(tiny("gpt2"), tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, "cannot read the tokenizer of the model at")


def test_a_tokenizer_of_words(tmp_path: Path) -> None:
    """No byte fallback, no merges: it is taken as it is."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = saved(tiny("gpt2"), tmp_path / "m", PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))
    assert tokenizer_of(folder, tiny("gpt2").model.config)("b a c")["input_ids"] == [2, 1, 0]


# --- fingerprints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        (lambda folder: change(folder / "tokenizer.json", truncation=None), True),
        (lambda folder: change(folder / "tokenizer_config.json", add_bos_token=True), True),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), True),
        (lambda folder: (folder / "chat_template.jinja").write_text("x"), False),
        (lambda folder: change(folder / "generation_config.json", eos_token_id=7), False),
    ],
)
def test_the_tokenizers_files_have_a_hash(harm: Callable[[Path], Any], seen: bool, tmp_path: Path) -> None:
    folder = saved(tiny("gpt2"), tmp_path / "m")
    hashed, whole, ends = (
        hash_files(folder, *TOKENIZER),
        hash_folder(folder),
        hash_files(folder, "generation_config.json"),
    )
    assert hashed == load(folder, "m", "cpu").tokenizer_sha256 and tiny("gpt2").tokenizer_sha256 is None
    harm(folder)
    assert (hash_files(folder, *TOKENIZER) != hashed) == seen
    assert hash_folder(folder) == whole
    assert (hash_files(folder, "generation_config.json") != ends) == (
        json.loads((folder / "generation_config.json").read_text()).get("eos_token_id") == 7
    )
    assert hash_files(folder, "nothing.json") is None
