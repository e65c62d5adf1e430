"""The same command gives the same bytes; neither batches nor the order of samples change a score."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_settings
import yaml
from conftest import EMBEDDED, ROOT, project, tiny
from safetensors.torch import load_file
from torch import equal

from core.metrics import summarize
from core.registry import discover
from experiment.asked import task_names
from experiment.scoring import score_model

needs_embedded = pytest.mark.skipif(
    not (EMBEDDED / "config.json").is_file(),
    reason=f"the embedded model is not at {EMBEDDED}: python prepare.py model smollm2-135m",
)
TASKS = discover("tasks", "TASK")
MOMENTS = dict(mom2_adjustment=True, mom2_dataset="self-generated", mom2_n_samples=2, stats_dir="stats")
TARGET = {**tiny_settings.TARGET, **MOMENTS, "context_templates": None, "context_template_length_params": [[3, 5]]}
MEND = """
inner_params: [transformer.h.2.mlp.c_proj.weight, transformer.h.3.mlp.c_fc.weight]
archive_dir: archive
rank: 4
max_iters: 4
accumulate_bs: 2
val_interval: 4
val_batch_size: 2
val_steps: 1
final_eval: false
"""
SETTINGS = {
    "ROME": yaml.safe_dump({**TARGET, "layers": [1]}),
    "MEMIT": yaml.safe_dump({**TARGET, "layers": [0, 1], "mom2_update_weight": 10, "cache": True}),
    "KN": "steps: 4\nbatch_size: 4\nadaptive_threshold: 0.2\n",
    "MEND": MEND,
}
COMMANDS = (
    "test-task.py all --limit 2",
    "test-task-after.py NER Instance-Sequential ROME 200 202 1 --limit 2 --hparams ROME.yaml",
    "test-task-after.py NLI Instance-Sequential ROME 200 202 1 --limit 2 --hparams ROME.yaml --regularizer random",
    "test-task-after.py summarization Batch-Sequential MEMIT 200 203 1 2 --limit 2 --hparams MEMIT.yaml "
    "--regularizer rect:keep=0.5,feedback=true",
    "test-task-after.py OpenDomainQA Instance-Sequential KN 200 202 1 --limit 2 --hparams KN.yaml",
    "train_MEND.py --hparams MEND.yaml",
    "test-task-after.py reasoning Batch-Single MEND 200 202 1 --limit 2 --hparams MEND.yaml",
)
AGAIN = [f"{COMMANDS[i]} --results again" for i in (2, 3)]
"""A random mask, and past keys with what a mask dropped: once more in the same process."""
DRIVER = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, words
"""


def run(folder: Path, model: Path, hash_seed: str) -> None:
    """Every command in one new process, in a folder of its own."""
    project(folder)
    for name, text in SETTINGS.items():
        (folder / f"{name}.yaml").write_text(text)
    lines = [command.split() for command in (*COMMANDS, *AGAIN)]
    commands = [
        [*line, "--model", str(model), "--device", "cpu", "--data", str(ROOT / "data/sample")] for line in lines
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", DRIVER, json.dumps(commands)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def timeless(value: Any) -> Any:
    """Without what may differ from run to run: times and the environment."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in ("seconds", "environment")}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def told(file: Path) -> str:
    """What a result file says, but for what may differ from run to run."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        return text
    found = timeless(json.loads(text))
    assert "metrics" in found and "settings" in found
    return json.dumps(found)


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    """In two processes whose hashes (and so the order of sets) differ: results, second moments, MEND's network.

    And twice in one process.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, tiny_folder, "1")
    run(two, tiny_folder, "2")
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    results = [name for name in names if name.parts[0] == "test-result" and name.suffix != ".npz"]
    assert len(results) == 2 * (len(task_names(("all",))) + 5)
    for name in results:
        assert told(one / name) == told(two / name), name
    twice = [name.relative_to("again") for name in names if name.parts[0] == "again" and name.suffix != ".npz"]
    assert len(twice) == 2 * len(AGAIN)
    for name in twice:
        assert told(one / "again" / name) == told(one / "test-result" / name), name
    for name in names:
        if name.suffix == ".safetensors":
            tensors = [load_file(folder / name) for folder in (one, two)]
            assert tensors[0].keys() == tensors[1].keys()
            assert all(equal(tensors[0][key], tensors[1][key]) for key in tensors[0]), name
    assert {name.suffix for name in names} >= {".npz", ".safetensors", ".json", ".jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_neither_batches_nor_order_change_a_score(family: str) -> None:
    """Every task: alone, two token budgets, shuffled. `as_released` of OpenDomainQA alone depends on the order."""
    lm, draw = tiny(family), random.Random(0)
    for name, task in TASKS.items():
        samples = list(task.samples(ROOT / "data/sample/task-data" / task.file))[:8]
        wanted = {sample.id: (completion, score) for sample, completion, score in score_model(lm, task, samples)}
        metrics = summarize(task, score_model(lm, task, samples))
        for budget in (1, 300, 700):
            mixed = draw.sample(samples, len(samples))
            scored = score_model(lm, task, mixed, budget)
            assert [sample for sample, _, _ in scored] == mixed
            assert {sample.id: (completion, score) for sample, completion, score in scored} == wanted, (name, budget)
            found = summarize(task, scored)
            for metric in metrics:
                if (name, metric) != ("OpenDomainQA", "as_released"):
                    assert found[metric].value == pytest.approx(metrics[metric].value, abs=1e-12), (name, metric)


@pytest.mark.slow
@needs_embedded
def test_the_number_of_threads_does_not_change_the_templates() -> None:
    """Those of the embedded model; the ones its settings ship are those of seed 0."""
    code = f"""
import json
from pathlib import Path
from core.lm.load import load
from editors._templates import context_templates
lm = load(Path({str(EMBEDDED)!r}), "smollm2-135m", "cpu")
shapes = {{"ROME": (1, ((5, 5), (10, 5))), "MEMIT": (3, ((10, 5),))}}
drawn = {{name: [context_templates(lm, shape, s) for s in range(seeds)] for name, (seeds, shape) in shapes.items()}}
print(json.dumps(drawn))
"""
    found = []
    for threads in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    for name, drawn in found[0].items():
        shipped = yaml.safe_load((ROOT / f"hparams/{name}/smollm2-135m.yaml").read_text(encoding="utf-8"))
        assert shipped["context_templates"] == drawn[0]
        assert len({template for templates in drawn for template in templates[1:]}) == len(drawn) * len(drawn[0][1:])
