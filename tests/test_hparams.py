"""core.hparams: strict about keys and types, at ease with the released files; and every file of the repository."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from conftest import ROOT, tiny

from core.errors import UserError
from core.hparams import added, build, check, load, named, recorded
from core.registry import discover
from core.types import Layer, Weight

EDITORS = discover("editors", "EDITOR")
FILES = [(editor, path) for editor in EDITORS.values() for path in sorted(ROOT.glob(f"hparams/{editor.name}/*.yaml"))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    layers: tuple[int, ...]
    rate: float
    steps: int = 3
    active: bool = False
    word: str = "w"
    kind: Literal["a", "b"] = "a"
    pairs: tuple[tuple[int, int], ...] = ()
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.steps > 100:
            raise ValueError("steps: expected 100 at most")


def read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return load(Settings, path)


@pytest.fixture(autouse=True)
def notices(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "core")


def test_values_and_defaults(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "layers: [3, 4]\nrate: 0.5\nkind: b\npairs: [[5, 10], [10, 10]]\nnames: ['{}', x]\nactive: true\nsteps: 7"
    assert read(tmp_path, text) == Settings(
        layers=(3, 4), rate=0.5, kind="b", pairs=((5, 10), (10, 10)), names=("{}", "x"), active=True, steps=7
    )
    assert read(tmp_path, "layers: []\nrate: 1\nnames: null") == Settings(layers=(), rate=1.0)
    assert caplog.messages == []


@pytest.mark.parametrize(("text", "value"), [("5e-1", 0.5), ("1e-3", 1e-3), ("4", 4.0), ("-2.5", -2.5), ("'0.1'", 0.1)])
def test_numbers_as_the_released_files_write_them(tmp_path: Path, text: str, value: float) -> None:
    found = read(tmp_path, f"layers: [1]\nrate: {text}").rate
    assert found == value
    assert type(found) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers: [1]", "the key 'rate' is missing"),
        ("layers: [1]\nrate: 1\nstesp: 3", "unknown key 'stesp': did you mean 'steps'?"),
        ("layers: [1]\nrate: 1\nzzzzzzzzz: 3", "unknown key 'zzzzzzzzz'$"),
        ("layers: [1]\nrate: 1\n7: 3", "unknown key '7'"),
        ("layers: 1\nrate: 1", "layers: expected a list.* found 1$"),
        ("layers: [a]\nrate: 1", "layers: expected int, found 'a'"),
        ("layers: [1.0]\nrate: 1", r"layers: expected int, found 1\.0"),
        ("layers: [true]\nrate: 1", "layers: expected int, found True"),
        ("layers: [1]\nrate: fast", "rate: expected float, found 'fast'"),
        ("layers: [1]\nrate: true", "rate: expected float, found True"),
        ("layers: [1]\nrate:", "rate: expected float, found None"),
        ("layers: [1]\nrate: 1\nsteps: '3'", "steps: expected int, found '3'"),
        ("layers: [1]\nrate: 1\nactive: 1", "active: expected true or false, found 1"),
        ("layers: [1]\nrate: 1\nword: 1", "word: expected str, found 1"),
        ("layers: [1]\nrate: 1\nkind: c", "kind: expected one of a, b, found 'c'"),
        ("layers: [1]\nrate: 1\npairs: [[1, 2, 3]]", "pairs: expected a list"),
        ("layers: [1]\nrate: 1\nsteps: 101", "s.yaml: steps: expected 100 at most"),
        ("- 1", "expected `key: value` lines"),
        ("", "expected `key: value` lines"),
        ("layers: [1]\nrate: [", "not a YAML file: .* line 2, column 8"),
        ("a: 2020-13-45", "not a YAML file"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 's.yaml'}: ")
    assert "\n" not in str(error.value)


def test_deep_nests_are_refused_at_once(tmp_path: Path) -> None:
    """PyYAML by itself would look at all of it for seconds."""
    with pytest.raises(UserError, match="not a YAML file: values nested more than 10 deep"):
        read(tmp_path, "rate: " + "[" * 20_000)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the settings: No such file .*--hparams FILE"):
        load(Settings, tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot read the settings"):
        load(Settings, tmp_path)
    (tmp_path / "latin.yaml").write_bytes("word: é".encode("latin-1"))
    with pytest.raises(UserError, match="not a YAML file"):
        load(Settings, tmp_path / "latin.yaml")


def test_keys_of_the_released_files_are_read_past_with_one_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All keys of the released gpt2-xl files that this project takes from the model or the command line."""
    released = """
    alg_name: "ROME"
    model_name: "./hugging_cache/gpt2-xl"
    model_class: GPT2LMHeadModel
    tokenizer_class: GPT2Tokenizer
    tokenizer_name: "./hugging_cache/gpt2-xl"
    device: 0
    model_parallel: false
    layer_selection: "all"
    max_length: 40
    results_dir: "./results"
    rewrite_module_tmp: "transformer.h.{}.mlp.c_proj"
    layer_module_tmp: "transformer.h.{}"
    mlp_module_tmp: "transformer.h.{}.mlp"
    attn_module_tmp: "transformer.h.{}.attn"
    ln_f_module: "transformer.ln_f"
    lm_head_module: "transformer.wte"
    layers: [17]
    rate: 5e-1
    """
    assert read(tmp_path, released.replace("\n    ", "\n")) == Settings(layers=(17,), rate=0.5)
    (notice,) = caplog.messages
    assert "taken from the model or the command line" in notice
    for key in ("alg_name", "device", "rewrite_module_tmp", "ln_f_module", "model_parallel", "max_length"):
        assert key in notice
    assert "layers" not in notice.split(":")[-1].replace("layer_", "")


def test_keys_of_other_projects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "layers: [1]\nrate: 1\nfp16: false\nbf16: false\nbatch_size: 1\nmax_output_length: 30\n"
    assert read(tmp_path, text) == Settings(layers=(1,), rate=1.0)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("not from here: fp16, bf16, batch_size, max_output_length")
    for line, told in {
        "fp16: true": "not from here: fp16; fp16 True: use --dtype float16",
        "bf16: true": "bf16; bf16 True: use --dtype bfloat16",
        "half: true": "half; half True: use --dtype bfloat16",
        "batch_size: 10": "; batch_size 10: BATCH_SIZE of the command line says how many edits go into one update",
        "P_loc: ./p.pt": "not from here: P_loc",
    }.items():
        caplog.clear()
        assert read(tmp_path, f"layers: [1]\nrate: 1\n{line}\n") == Settings(layers=(1,), rate=1.0)
        assert caplog.messages[0].endswith(told)


@pytest.mark.parametrize("name", ["ROME", "MEMIT", "MEND"])
def test_they_load_in_every_methods_file(name: str, tmp_path: Path) -> None:
    shipped = ROOT / f"hparams/{name}/gpt2-xl.yaml"
    path = tmp_path / "theirs.yaml"
    path.write_text(shipped.read_text() + "\nfp16: false\nbf16: false\nbatch_size: 1\nmax_output_length: 30\n")
    assert load(EDITORS[name].hparams, path) == load(EDITORS[name].hparams, shipped)


def test_a_key_given_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, "layers: [1]\nrate: 1\nlayers: [1]\nrate: 1").layers == (1,)
    (notice,) = caplog.messages
    assert notice.endswith("given twice, with the same value: layers, rate")
    with pytest.raises(UserError, match="the key 'rate' stands twice, with two values"):
        read(tmp_path, "layers: [1]\nrate: 1\nrate: 2")


@pytest.mark.parametrize("given", EDITORS)
@pytest.mark.parametrize("method", EDITORS)
def test_settings_of_another_method_are_recognised(method: str, given: str) -> None:
    """One method's may do for another that has the same keys and more; where they do not, the message says whose."""
    path = ROOT / f"hparams/{given}/smollm2-135m.yaml"
    keys, fields = set(yaml.safe_load(path.read_text())), dataclasses.fields(EDITORS[method].hparams)
    needed = {field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING}
    if method == given or (needed <= keys <= {field.name for field in fields} and "FT-" not in given):
        load(EDITORS[method].hparams, path)
    else:
        with pytest.raises(UserError, match=f"(key|objective_optimization).*; these look like settings of {given}$"):
            load(EDITORS[method].hparams, path)


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Settings that other projects' files have under other names, and among keys that play no part."""

    READ_PAST = ("kl_factor", "dropout")
    SPELLED: ClassVar[dict[str, str]] = {"lora_r": "rank"}

    rank: int
    bound: Literal[False] | float = False


def test_what_a_method_reads_past_and_spells_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "theirs.json"
    path.write_text('{\n\t"lora_r": 8,\n\t"kl_factor": 0, "dropout": 0.1, "bound": 5e-5\n}')
    assert load(Foreign, path) == Foreign(8, 5e-5)
    (notice,) = caplog.messages
    assert notice.endswith(
        "not from here: kl_factor, dropout; dropout 0.1: there is none, the model stays in evaluation mode"
    )
    for text, bound in (("false", False), ("0", False), ("1e-3", 1e-3), ("2", 2.0)):
        path.write_text(f"rank: 1\nbound: {text}")
        assert load(Foreign, path).bound == bound and type(load(Foreign, path).bound) is type(bound)
    for text, message in (
        ("rank: 1\nbound: true", "bound: expected float, found True"),
        ("rank: 1\nlora_r: 2", "lora_r and rank are one setting, with two values here"),
        ("rank: 1\nSPELLED: {}", "unknown key 'SPELLED'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load(Foreign, path)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Settings of an editor that trains one weight, under names of its own."""

    at: Layer
    also: tuple[Layer, ...] | None = None
    weights: tuple[Weight, ...] = ()
    steps: int = 3


def test_a_settings_type_says_that_it_is_a_layer() -> None:
    assert (named(Tuning, Layer), named(Tuning, Weight)) == (["at", "also"], ["weights"])
    lm = tiny("gpt2")
    check(Tuning(3, (0, 1), (f"{lm.mlp_out(1)}.weight",)), lm)
    for hp, message in (
        (Tuning(4), "at: 4: 'tiny-gpt2' has layers 0 to 3; --hparams names other settings"),
        (Tuning(0, (1, -1)), "also: -1: 'tiny-gpt2' has layers 0 to 3"),
        (Tuning(0, weights=("x.weight",)), "weights: 'tiny-gpt2' has no weight 'x.weight'"),
    ):
        with pytest.raises(UserError, match=message):
            check(hp, lm)


NONSENSE = (
    ("KN", {"adaptive_threshold": 1.5}, "adaptive_threshold: expected a share of the largest score, from 0 to below 1"),
    (
        "ROME",
        {"context_template_length_params": [[0, 5]]},
        "context_template_length_params: expected pairs of a length",
    ),
    ("MEMIT", {"context_template_length_params": [[5, -1]]}, "context_template_length_params: expected pairs of a len"),
    ("MEND", {"lr": 0}, "lr and grad_clip: expected more than 0; lr_lr: 0 or more"),
    ("MEND", {"lr_lr": -1e-4}, "lr and grad_clip: expected more than 0; lr_lr: 0 or more"),
    ("MEND", {"grad_clip": 0}, "lr and grad_clip: expected more than 0; lr_lr: 0 or more"),
)


@pytest.mark.parametrize(("method", "values", "message"), NONSENSE)
def test_values_that_make_no_sense(method: str, values: dict[str, Any], message: str, tmp_path: Path) -> None:
    shipped = yaml.safe_load((ROOT / f"hparams/{method}/gpt2-xl.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(shipped | values), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")):
        load(EDITORS[method].hparams, path)


@dataclasses.dataclass(frozen=True)
class Grown:
    """Settings that were given another one since results were made with them."""

    rate: float = 1.0
    memory: bool = added(False)


def test_a_setting_that_came_later_is_recorded_where_it_differs() -> None:
    """So that a result made before there was one has the settings of a run with its default."""
    assert recorded(Grown()) == recorded(build(Grown, {"memory": False}, "here")) == {"rate": 1.0}
    assert recorded(Grown(2.0, memory=True)) == {"rate": 2.0, "memory": True}
    before = dataclasses.asdict(load(EDITORS["MEMIT"].hparams, ROOT / "hparams/MEMIT/smollm2-135m.yaml"))
    assert recorded(EDITORS["MEMIT"].hparams(**before)).keys() == before.keys() - {
        "cache",
        "update_norm_lambda",
        "v_stop_after",
        "v_norm",
        "v_norm_limit",
    }


# --- the files of the repository -----------------------------------------------------------------------------------


def test_the_released_models_have_settings_for_every_method() -> None:
    """Those of the paper for its four methods, the embedded one for all."""
    names = {"gpt2-xl", "gpt-j-6B", "llama-7b", "llama2-7b", "llama2-13b"}
    for name in EDITORS:
        own = {path.stem for editor, path in FILES if editor.name == name}
        assert own >= (names if name in ("ROME", "MEMIT", "KN", "MEND") else set()) | {"smollm2-135m"}, name


@pytest.mark.parametrize(("editor", "path"), FILES, ids=[f"{e.name}-{p.stem}" for e, p in FILES])
def test_every_file_loads_without_a_notice(editor: Any, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hp = load(editor.hparams, path)
    assert caplog.messages == []
    assert set(yaml.safe_load(path.read_text())) <= {field.name for field in dataclasses.fields(hp)}


ROME = {
    "gpt2-xl": ((17,), 20, 0.5, 47, 0.5),
    "gpt-j-6B": ((5,), 20, 0.5, 27, 0.5),
    "llama-7b": ((5,), 20, 0.1, 31, 1e-3),
    "llama2-7b": ((5,), 25, 0.5, 31, 1e-3),
}


@pytest.mark.parametrize("model", ROME)
def test_rome_has_the_released_values(model: str) -> None:
    hp = load(EDITORS["ROME"].hparams, ROOT / f"hparams/ROME/{model}.yaml")
    assert (hp.layers, hp.v_num_grad_steps, hp.v_lr, hp.v_loss_layer, hp.v_weight_decay) == ROME[model]
    assert (hp.clamp_norm_factor, hp.kl_factor, hp.mom2_adjustment, hp.key) == (4, 0.0625, False, "prompt")
    assert hp.context_template_length_params == ((5, 10), (10, 10))
    assert (hp.mom2_dataset, hp.mom2_n_samples) == ("wikipedia", 100000)


# --- files as the authors released them -----------------------------------------------------------------------------

OPTIMISED = """
fact_token: "subject_last"
v_num_grad_steps: 20
v_lr: 5e-1
v_loss_layer: 47
v_weight_decay: 5e-1
kl_factor: 0.0625
rewrite_module_tmp: "transformer.h.{}.mlp.c_proj"
layer_module_tmp: "transformer.h.{}"
mlp_module_tmp: "transformer.h.{}.mlp"
attn_module_tmp: "transformer.h.{}.attn"
ln_f_module: "transformer.ln_f"
lm_head_module: "transformer.wte"
mom2_dataset: "wikipedia"
mom2_n_samples: 100000
mom2_dtype: "float32"
stats_dir: "./data/stats"
"""
NETWORK = """
model_class: GPT2LMHeadModel
tokenizer_class: GPT2Tokenizer
tokenizer_name: ./hugging_cache/gpt2-xl
inner_params:
- transformer.h.45.mlp.c_proj.weight
- transformer.h.45.mlp.c_fc.weight
- transformer.h.46.mlp.c_proj.weight
- transformer.h.46.mlp.c_fc.weight
- transformer.h.47.mlp.c_proj.weight
- transformer.h.47.mlp.c_fc.weight
alg: MEND
lr: 1e-6
edit_lr: 1e-4
lr_lr: 1e-4
seed: 42
cedit: 0.1
cloc: 1.0
cbase: 1.0
dropout: 0.0
train_base: False
no_grad_layers: null
one_sided: False
n_hidden: 1
hidden_dim: null
init: id
norm: True
combine: True
x_only: False
delta_only: False
act: relu
rank: 1920
mlp_class: IDMLP
shared: True
results_dir: ./results
"""
TRAINING = """
batch_size: 1
val_batch_size: 5
accumulate_bs: 10
opt: Adam
grad_clip: 100.
max_iters: 100000
val_interval: 1000
val_steps: 500
early_stop_patience: 20000
early_stop_key: "loss/total_edit_val"
log_interval: 1000
eval_log_interval: 1000
final_eval: True
model_save_pt: 5000
silent: False
verbose: True
debug: False
save: False
eval_only: False
half: False
"""
MODULES = ("rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module")
CLASSES = ("model_class", "tokenizer_class", "tokenizer_name", "alg", "results_dir")
RELEASED: dict[str, tuple[str, tuple[str, ...]]] = {
    "ROME": (
        "layers: [17]\nclamp_norm_factor: 4\nmom2_adjustment: false\n"
        f"context_template_length_params: [[5, 10], [10, 10]]{OPTIMISED}",
        (*MODULES, "lm_head_module"),
    ),
    "MEMIT": (
        "layers: [13, 14, 15, 16, 17]\nclamp_norm_factor: 0.75\nlayer_selection: all\nmom2_adjustment: true\n"
        f"mom2_update_weight: 20000{OPTIMISED}",
        (*MODULES, "lm_head_module", "layer_selection"),
    ),
    "KN": (
        "lr_scale: 1.0\nn_toks: 10\nrefine: false\nbatch_size: 20\nsteps: 20\nadaptive_threshold: 0.2\np: 0.4\n",
        (),
    ),
    "MEND": (f"archive: ./results/models/MEND/gpt2-xl{NETWORK}max_length: 40\n", (*CLASSES, "archive", "max_length")),
    "TRAINING/MEND": (f"archive: null{NETWORK}{TRAINING}", (*CLASSES, "archive")),
}
"""Per file of gpt2-xl its text as released, and the keys that are taken from elsewhere."""


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_file_loads_as_the_shipped_one(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text, elsewhere = RELEASED[name]
    method = name.removeprefix("TRAINING/")
    path = tmp_path / "gpt2-xl.yaml"
    common = f'alg_name: "{method}"\nmodel_name: "./hugging_cache/gpt2-xl"\ndevice: 0\nmodel_parallel: false\n'
    path.write_text(common + text)
    found = load(EDITORS[method].hparams, path)
    if hasattr(found, "stats_dir"):
        assert Path(found.stats_dir) == Path("data/stats")
        found = dataclasses.replace(found, stats_dir="data/stats")
    assert found == load(EDITORS[method].hparams, ROOT / f"hparams/{name}/gpt2-xl.yaml")
    (notice,) = caplog.messages
    told = notice.removeprefix(f"{path}: ").split(": ")[1].split(", ")
    assert set(told) == {"alg_name", "model_name", "device", "model_parallel", *elsewhere}
