"""Settings files of EasyEdit, AlphaEdit and the authors of methods load unchanged: their keys, as they write them.

Per file what it holds besides what comes from the model, the values expected of it, and what the one notice must say.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.hparams import load
from core.registry import discover

EDITORS = discover("editors", "EDITOR")

MODULES = """rewrite_module_tmp: "model.layers.{}.mlp.down_proj"
layer_module_tmp: "model.layers.{}"
mlp_module_tmp: "model.layers.{}.mlp"
attn_module_tmp: "model.layers.{}.self_attn"
ln_f_module: "model.norm"
lm_head_module: "lm_head"
"""
SEARCH = """stats_dir: "./data/stats"
device: 0
fact_token: "subject_last"
v_num_grad_steps: 25
v_lr: 5e-1
v_loss_layer: 27
v_weight_decay: 1e-3
kl_factor: 0.0625
mom2_dataset: "wikipedia"
mom2_n_samples: 100000
mom2_dtype: "float32"
"""
ROME = f"""alg_name: "ROME"
model_name: "./hugging_cache/Qwen2.5-7B"
layers: [5]
clamp_norm_factor: 4
mom2_adjustment: false
context_template_length_params: [[5, 10], [10, 10]]
model_parallel: false
{SEARCH}{MODULES}"""
MEMIT = f"""alg_name: "MEMIT"
model_name: "./hugging_cache/Qwen2.5-7B"
layers: [4, 5, 6, 7, 8]
clamp_norm_factor: 0.75
layer_selection: "all"
mom2_adjustment: true
mom2_update_weight: 15000
{SEARCH}{MODULES}"""
FT = f"""alg_name: "FT"
model_name: "./hugging_cache/llama-3-8b"
device: 0
layers: [21]
num_steps: 25
batch_size: 1
max_length: 40
lr: 5e-4
weight_decay: 0
kl_factor: 0
norm_constraint: false
model_parallel: false
{MODULES.replace("down_proj", "down_proj.weight")}"""
LORA = """alg_name: "LoRA"
model_name: "./hugging_cache/llama-3-8b-instruct"
device: 0
lora_type: "adalora"
layers: []
num_steps: 70
batch_size: 1
max_length: 50
lr: 5e-3
weight_decay: 0
kl_factor: 0
rank: 8
lora_alpha: 32
lora_dropout: 0.1
norm_constraint: false
target_modules: ["q_proj", "v_proj"]  #["up_proj", "down_proj"]
model_parallel: false
"""
QWEN_LORA = """alg_name: "LoRA"
model_name: "./Models/Qwen2.5-7B"
device: 0
lora_type: "lora"
lora_r: 8
lora_alpha: 32
lora_dropout: 0.1
target_modules: ["q_proj", "v_proj"]
num_steps: 1
batch_size: 1
max_length: 30
lr: 5e-3
weight_decay: 0.0
model_parallel: True
"""
ULTRA = """alg_name: "ULTRAEDIT"
device: 0
model_name: your/path/mistral-7b-v0.3
class_name: AutoModelForCausalLM
tokenizer_class: AutoTokenizer
tokenizer_name: your/path/mistral-7b-v0.3

inner_params:
# zsre wikibigedit
- model.layers.29.mlp.down_proj
- model.layers.30.mlp.down_proj

dropout: 0.0
no_grad_layers: null
lr: 1e-6
token: mask
batch_size: 100
batch_size_once: 10
editor_batch_size: 1024
silent: False
half: true
model_parallel: false
results_dir: ./results
"""
KN = """alg_name: "KN"
model_name: "./hugging_cache/llama-3-8b"
device: 0
model_parallel: false
lr_scale: 1.0
n_toks: 10
refine: false
batch_size: 1
steps: 1
adaptive_threshold: 0.2
p: 0.4
"""
MEND = """archive: ./results/models/MEND/llama-3-8b-ZsRE
alg_name: "MEND"
device: 1
model_name: ./hugging_cache/llama-3-8b
model_class: LlamaForCausalLM
tokenizer_class: LlamaTokenizer
tokenizer_name: ./hugging_cache/llama-3-8b
model_parallel: false
inner_params:
- model.layers.30.mlp.down_proj.weight
- model.layers.31.mlp.down_proj.weight
lr: 1e-6
edit_lr: 1e-4
lr_lr: 1e-4
lr_scale: 1.0
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
batch_size: 1
model_save_pt: 5000
silent: False
max_iters: 100000
eval_only: True
half: False
debug: False
save: False
verbose: True
val_batch_size: 5
opt: Adam
grad_clip: 100.
results_dir: ./results
"""
JSON = """{
    "model_name": "Llama3-8B",
    "layers": [4, 5, 6, 7, 8],
    "clamp_norm_factor": 0.75,
    "layer_selection": "all",
    "fact_token": "subject_last",
    "v_num_grad_steps": 25,
    "v_lr": 1e-1,
    "v_loss_layer": 31,
    "v_weight_decay": 0.5,
    "kl_factor": 0.0625,
    "mom2_adjustment": true,
    "mom2_update_weight": 15000,
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
    "lm_head_module": "lm_head",
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 100000,
    "mom2_dtype": "float32"
}"""
OF_ALPHAEDIT = JSON.replace('"float32"\n', '"float32",\n    "nullspace_threshold":2e-2,\n    "L2":10\n')
FT_JSON = """{
\t"layers": [
\t\t21
\t],
\t"num_steps": 25,
\t"lr": 5e-4,
\t"weight_decay": 0,
\t"kl_factor": 0,
\t"norm_constraint": false,
\t"rewrite_module_tmp": "model.layers.{}.mlp.down_proj.weight"
}"""
LOCFT = """model_name_or_path: "mistralai/Mistral-7B-v0.1"
data_path: "./data/zsre/zsre_3k.json"
save_model_dir: "./saves/mistral_zsre3k"
layer: 23
rewrite_module: "model.layers.{}"
lr: 5.0e-5
batch_size: 100
num_steps: 25
device: 0
"""

FILES: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "ROME.yaml": ("ROME", f"{ROME}fp16: true\n", {"key": "prompt", "v_lr": 0.5}, ("fp16 True: use --dtype float16",)),
    "ROME-more.yaml": ("ROME", f"{ROME}fp16: false\nbf16: true\nbatch_size: 1\nmax_output_length: 30\n", {},
                       ("bf16 True: use --dtype bfloat16",)),
    "R-ROME.yaml": ("ROME", ROME.replace('"ROME"', '"R-ROME"') + "fp16: false\n", {"key": "mean"}, ()),
    "MEMIT.yaml": ("MEMIT", f"{MEMIT}model_parallel: False\n", {"mom2_update_weight": 15000, "v_lr": 0.5}, ()),
    "MEMIT-batch.yaml": ("MEMIT", f"{MEMIT}batch_size: 10\n", {}, ("batch_size 10: BATCH_SIZE of the command line",)),
    "Llama3-8B.json": ("MEMIT", JSON, {"layers": (4, 5, 6, 7, 8), "v_lr": 0.1, "v_loss_layer": 31}, ()),
    "KN.yaml": ("KN", KN, {"steps": 1, "batch_size": 1, "adaptive_threshold": 0.2}, ()),
    "MEND.yaml": ("MEND", MEND, {"rank": 1920, "lr": 1e-6, "half": False}, ()),
    "AlphaEdit.yaml": ("AlphaEdit", f'{MEMIT}P_loc: "./null_space_project.pt"\nnullspace_threshold: 2e-2\nL2: 10\n',
                       {"nullspace_threshold": 0.02, "L2": 10.0}, ("P_loc",)),
    "AlphaEdit.json": ("AlphaEdit", OF_ALPHAEDIT, {"nullspace_threshold": 0.02, "L2": 10.0, "v_lr": 0.1}, ()),
    "EMMET.yaml": ("EMMET", f"{MEMIT}update_norm_lambda: 0\nemmet_lambda: 0.1\n", {"emmet_lambda": 0.1}, ()),
    "FT-L.yaml": ("FT-L", f'{FT}objective_optimization: "prompt_last"\n',
                  {"layers": (21,), "lr": 5e-4, "norm_constraint": False, "batch_size": 1}, ("kl_factor",)),
    "FT-M.yaml": ("FT-M", f'{FT}objective_optimization: "target_new"\n', {"num_steps": 25}, ()),
    "FT-old.yaml": ("FT-L", FT.replace("false\nmodel_p", "5e-5\nmodel_p"), {"norm_constraint": 5e-5}, ()),
    "FT.json": ("FT-L", FT_JSON, {"layers": (21,), "batch_size": 64, "norm_constraint": False}, ("kl_factor",)),
    "LoRA.yaml": ("LoRA", LORA, {"lora_type": "adalora", "rank": 8, "layers": (), "lr": 5e-3}, ("kl_factor",)),
    "LoRA-qwen.yaml": ("LoRA", QWEN_LORA, {"lora_type": "lora", "rank": 8, "layers": ()}, ("max_length",)),
    "UltraEdit.yaml": ("UltraEdit", ULTRA, {"token": "mask", "batch_size_once": 10, "lr": 1e-6},
                       ("half True: use --dtype bfloat16", "batch_size 100: BATCH_SIZE of the command line")),
    "LocFT-BF.yaml": ("LocFT-BF", LOCFT, {"rewrite_module": "model.layers.{}", "batch_size": 100, "lr": 5e-5}, ()),
}  # fmt: skip
"""Name of a file -> the method here, its text, some of its values, words of the notice."""


@pytest.mark.parametrize("name", FILES)
def test_a_file_loads_with_one_notice(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "core")
    method, text, values, told = FILES[name]
    if method not in EDITORS:
        pytest.skip(f"{method} is no method here")
    path = tmp_path / name
    path.write_text(text)
    hp = load(EDITORS[method].hparams, path)
    assert {key: getattr(hp, key) for key in values} == values
    (notice,) = caplog.messages
    assert all(word in notice for word in told)
    assert notice.count("; ") == sum(": " in word for word in told)  # nothing else would change numbers
    kept = {field.name for field in dataclasses.fields(hp)}
    passed = notice.partition("not from here: ")[2].partition(";")[0].split(", ")
    assert passed and not kept & set(passed)


def test_modules_of_ultraedit_are_their_weights(tmp_path: Path) -> None:
    """As EasyEdit names them, and as the authors do."""
    found = []
    for key in ("inner_params", "edit_modules"):
        path = tmp_path / "u.yaml"
        path.write_text(ULTRA.replace("inner_params", key))
        found.append(load(EDITORS["UltraEdit"].hparams, path))
    assert found[0] == found[1]
    assert found[0].inner_params == ("model.layers.29.mlp.down_proj.weight", "model.layers.30.mlp.down_proj.weight")


@pytest.mark.parametrize(("name", "other"), [("FT-L.yaml", "FT-M"), ("FT-M.yaml", "FT-L")])
def test_the_objective_says_which_of_the_two_it_is(name: str, other: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FILES[name][1])
    message = f"objective_optimization: expected one of .*; these look like settings of {name.removesuffix('.yaml')}$"
    with pytest.raises(UserError, match=message):
        load(EDITORS[other].hparams, path)


def test_a_key_that_is_given_goes_before_the_name_of_the_variant(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(ROME.replace('"ROME"', '"R-ROME"') + "key: bare\n")
    assert load(EDITORS["ROME"].hparams, path).key == "bare"
