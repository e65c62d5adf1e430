"""Tiny random models of every family, and the parts tests share. CPU, seconds."""

import copy
import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from core import folders
from core.lm.model import LM
from core.script import PACKAGES
from core.types import Edit, Editor, Regularizer
from experiment.editing import Editing, Rules, Update
from experiment.quality import Probe

# One thread each: the workers of pytest -n share the cores, and waiting threads that spin in a crowd burn minutes.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the scripts that tests run

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
EMBEDDED = ROOT / "hugging_cache" / "smollm2-135m"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long and slow tests are started first: at the end no worker waits for another one's."""
    items.sort(key=lambda item: not (item.get_closest_marker("long") or item.get_closest_marker("slow")))


CONFIGS = {
    "gpt2": dict(n_layer=4, n_embd=32, n_head=4, n_positions=128),
    "gptj": dict(n_layer=4, n_embd=32, n_head=4, n_positions=128, rotary_dim=4),
    "llama": dict(
        num_hidden_layers=4,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    ),
}
WINDOWS: dict[str, dict[str, Any]] = {
    "gemma3_text": dict(sliding_window=6),
    "mistral": dict(sliding_window=6),
    "phi3": dict(sliding_window=6),
    "qwen2": dict(use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3": dict(use_sliding_window=True, sliding_window=6, max_window_layers=1),
}
"""What gives a family's blocks, all of them or those after the first, attention to the last few tokens alone."""
FAMILIES = tuple(CONFIGS)
"""Those every test with the `lm` fixture runs on."""
SIZES = {**CONFIGS["llama"], "head_dim": 8}
OTHERS = {
    "gpt_neox": dict(
        num_hidden_layers=4, hidden_size=32, intermediate_size=48, num_attention_heads=4, max_position_embeddings=128
    ),
    "mistral": SIZES,
    "qwen2": CONFIGS["llama"],
    "qwen3": SIZES,
    "gemma3_text": {**SIZES, "sliding_window": 16},
    "phi": {**CONFIGS["llama"], "num_key_value_heads": 4},
    "phi3": CONFIGS["llama"],
    "opt": dict(
        num_hidden_layers=4,
        hidden_size=32,
        ffn_dim=48,
        num_attention_heads=4,
        max_position_embeddings=128,
        init_std=0.15,  # its name for initializer_range
    ),
}


def in_soak(*values: Any) -> list[Any]:
    """Values of a parameter that `make soak` tries and `make test` does not."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def project(folder: Path) -> Path:
    """Make `folder` a project of its own: scripts, the code and its settings, but no model, data or result."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*PACKAGES, "docs", "requirements.txt"):
        (folder / name).symlink_to(ROOT / name)
    for script in ROOT.glob("*.py"):
        (folder / script.name).write_bytes(script.read_bytes())  # not linked: Python starts where a link leads
    return folder


def settle(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make `folder` the working directory, and where models, data, settings and what is trained are."""
    patch.chdir(folder)
    for name, path in vars(folders).items():
        if isinstance(path, Path) and path.is_relative_to(ROOT) and path.name not in ("requirements.txt", ROOT.name):
            patch.setattr(folders, name, path.relative_to(ROOT))


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """LLaMA-style: blanks are "▁", one is put before the text, unknown bytes fall back, BOS is added."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)  # no piece spans two words
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    texts = (ROOT / "data/sample/edited-data/zsre.json").read_text(encoding="utf-8").splitlines()
    initial = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=[*special, *initial], show_progress=False)
    tokenizer.train_from_iterator((text.strip() for text in texts), trainer)
    trained = json.loads(tokenizer.to_str())
    trained["added_tokens"] = [token for token in trained["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(trained))  # the bytes are ordinary pieces
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def tiny(family: str, seed: int = 0, **changes: Any) -> LM:
    """A random model with weights large enough that its answers differ from prompt to prompt.

    `changes` are values of its configuration.
    """
    model, tokenizer = copy.deepcopy(made(family, seed, json.dumps(changes)))
    return LM(model, tokenizer, f"tiny-{family}")


@functools.cache
def made(family: str, seed: int, changes: str) -> tuple[Any, Any]:
    """What is made once and copied for each test: training a tokenizer takes longer than most tests."""
    if family == "llama":
        tokenizer = sentencepiece_like()
    else:
        tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "models/gpt2-tiny")
    ids = dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id
    )
    sizes = {**CONFIGS, **OTHERS}[family] | json.loads(changes)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), initializer_range=0.15, **ids, **sizes)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A script that runs in this process keeps the signals to itself, and logs to stderr; all that is put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    hook = sys.unraisablehook
    yield
    for package in PACKAGES:
        logging.getLogger(package).handlers.clear()
        logging.getLogger(package).setLevel(logging.NOTSET)
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> LM:
    return tiny(request.param)


@pytest.fixture(params=(*CONFIGS, *OTHERS))
def any_lm(request: pytest.FixtureRequest) -> LM:
    """A model of each family of the table."""
    return tiny(request.param)


def saved(lm: LM, folder: Path, tokenizer: Any = None) -> Path:
    """The model as a Hugging Face folder, with its tokenizer or another."""
    lm.model.save_pretrained(folder)
    (tokenizer or lm.tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny gpt2 as a Hugging Face folder, for tests that go through the scripts."""
    return saved(tiny("gpt2"), tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture
def edits() -> list[Edit]:
    return [
        Edit(
            "The mother tongue of Anna Bell is",
            "Anna Bell",
            "the Program",
            "French",
            "Anna Bell speaks",
            "who ran",
            "a b",
        ),
        Edit(
            "London is the capital of", "London", "Italy", "England", "The city of London is in", "where is it", "x", 1
        ),
        Edit(
            "Where was Tom Hill born?", "Tom Hill", "Rome", "Paris", "Tom Hill was born in", "what is a class", "an", 2
        ),
        Edit("Peter Lane works as a", "Peter Lane", "painter of words", "teacher", None, None, None, 3),
    ]


@pytest.fixture
def unchanged() -> Callable[[LM], Callable[[], None]]:
    """`check = unchanged(lm)`; ...; `check()` asserts that every tensor is bit for bit what it was."""

    def start(lm: LM) -> Callable[[], None]:
        before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}

        def check() -> None:
            for name, tensor in lm.model.state_dict().items():
                assert torch.equal(tensor, before[name]), f"{name} changed"

        return check

    return start


def edit_model(
    lm: LM, editor: Editor, updates: Iterable[Sequence[Edit]], regularizer: Regularizer | None = None
) -> tuple[list[Update], list[Probe]]:
    """One update per batch, each on the result of the one before: the updates, and every edit's own probe."""
    editing = Editing(lm, editor, Rules(regularizer))
    for batch in updates:
        editing.step(batch)
    return editing.updates, editing.own
