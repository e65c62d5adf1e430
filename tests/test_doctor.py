"""prepare.py doctor: it says what is there, names damage with the command that mends it, and exits with 1 for it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, settle, tiny

from core import folders
from core.disk import lock
from core.disk.digest import sha256
from core.disk.whole import leftovers
from core.errors import UserError
from core.lm.model import hash_folder
from core.script import script
from edit_sets.zsre import EDIT_SET
from editors.mend import archive as archive
from editors.mend.factors import shapes_of
from editors.mend.network import seeded
from editors.mend.settings import MENDSettings
from inputs import cli, doctor, embedded
from inputs.doctor import Doctor

ZSRE = EDIT_SET.file
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """`prepare.py doctor ...` in a folder of its own with a model (tiny) and the sample data: (exit code, stdout)."""
    shutil.copytree(tiny_folder, tmp_path / "hugging_cache/tiny")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sample").symlink_to(ROOT / "data/sample")
    settle(tmp_path, monkeypatch)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["prepare.py", "doctor", *words])
        with pytest.raises(SystemExit) as caught:
            script(cli.main)
        return int(caught.value.code or 0), capsys.readouterr().out

    return run


def test_all_is_well(ask: Ask) -> None:
    code, out = ask()
    assert code == 0
    assert f"torch {torch.__version__}" in out
    digest = hash_folder(Path("hugging_cache/tiny"))
    assert re.search(rf"tiny: gpt2, 0 M parameters, F32, [0-9.]+ MB, no hashes to compare with, SHA-256 {digest}", out)
    assert "task-data/test-NER.txt: sample, 48 records" in out
    assert f"{ZSRE}: sample, 513 records, SHA-256 {sha256(Path('data/sample') / ZSRE)[:12]}..." in out
    assert "\n- gpt2-xl is not in hugging_cache/: without --model the small embedded model is used" in out
    assert "\n- 17 of 17 data files are the small sample: `python prepare.py data` fetches" in out
    assert "\n- no trained MEND network: `python train_MEND.py`" in out
    assert ("\n- no CUDA device" in out) == (not torch.cuda.is_available())
    assert out.endswith("nothing is damaged\n")


def hashed(folder: Path) -> None:
    lines = [f"{sha256(path)}  {path.name}" for path in sorted(folder.iterdir())]
    (folder / "ORIGIN.txt").write_text("From somewhere.\n\n" + "\n".join(lines) + "\n")


def test_files_are_compared_with_their_origin(ask: Ask) -> None:
    folder = Path("hugging_cache/tiny")
    files = len(list(folder.iterdir()))
    hashed(folder)
    code, out = ask("--model", "tiny")
    assert code == 0 and f"{files} files as ORIGIN.txt says" in out
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    code, out = ask()
    assert code == 1
    assert (
        "DAMAGED\n- hugging_cache/tiny: config.json is not what ORIGIN.txt says; `python prepare.py model tiny" in out
    )
    (folder / "config.json").unlink()
    assert ask("--model", "tiny")[0] == 1


@pytest.mark.parametrize("damage", ["cut", "no weights", "no JSON", "deep", "no family"])
def test_damaged_models(ask: Ask, damage: str) -> None:
    folder = Path("hugging_cache/tiny")
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no weights":
        weights.unlink()
    else:
        (folder / "config.json").write_text({"no JSON": "{", "deep": "[" * 99999, "no family": "{}"}[damage])
    code, out = ask()
    assert code == 1
    assert "  tiny: damaged\n" in out
    assert "\nDAMAGED\n- hugging_cache/tiny: " in out
    assert "`python prepare.py model tiny --overwrite`" in out


def test_official_data_are_compared_with_their_sources(ask: Ask) -> None:
    file = Path("data/task-data/test-NLI.tsv")
    file.parent.mkdir()
    shutil.copy(Path("data/sample/task-data/test-NLI.tsv"), file)
    sources = Path("data/SOURCES.json")
    sources.write_text(json.dumps({"task-data/test-NLI.tsv": {"sha256": sha256(file)}}))
    code, out = ask()
    assert code == 0 and "task-data/test-NLI.tsv: official, 48 records" in out and "16 of 17 data files" in out
    file.write_text(file.read_text().replace("entailment", "entailment", 1) + "999\ta\tb\tentailment\n")
    code, out = ask()
    assert code == 1 and "data/task-data/test-NLI.tsv is not the file that data/SOURCES.json says was fetched" in out
    file.write_text("nonsense\n")
    code, out = ask()
    assert code == 1 and "test-NLI.tsv:1: expected a header with column 'index'" in out
    sources.write_text("[" * 9999)
    assert "data/SOURCES.json cannot be read" in ask()[1]


def test_a_data_folder_of_ones_own(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "mine/edited-data").mkdir(parents=True)
    shutil.copy(Path("data/sample") / ZSRE, tmp_path / "mine/edited-data")
    code, out = ask("--data", "mine")
    assert code == 0
    assert f"{ZSRE}: custom, 513 records" in out
    assert "- mine lacks training-data/zsre_mend_train.json, " in out
    assert "counterfact" not in out
    shutil.copy(Path("data/sample/edited-data/counterfact.json"), tmp_path / "mine/edited-data")
    assert "edited-data/counterfact.json: custom, 200 records" in ask("--data", "mine")[1]


def test_archives_and_second_moments(ask: Ask) -> None:
    lm = tiny("gpt2")
    hp = MENDSettings(inner_params=("transformer.h.3.mlp.c_fc.weight",), rank=2)
    shapes = shapes_of(lm, hp.inner_params)
    path = folders.TRAINED / "MEND/tiny/best.safetensors"
    archive.save(path, seeded(shapes, hp).state_dict(), archive.header(lm, hp, shapes))
    stats = folders.STATS / "tiny/x_stats/y.npz"
    stats.parent.mkdir(parents=True)
    np.savez(stats, **{"mom2.mom2": np.eye(2), "mom2.count": np.array(3)})
    code, out = ask()
    assert code == 0
    assert f"MEND network: {path}, for 'tiny-gpt2'" in out and "second moments: 1 files in data/stats/" in out
    assert f"- {path} is for other weights than tiny has: `python train_MEND.py --model tiny`" in out
    path.write_bytes(b"x")
    np.savez(stats, **{"mom2.mom2": np.full((2, 2), np.nan), "mom2.count": np.array(3)})
    code, out = ask()
    assert code == 1
    assert f"- {path}: not a MEND archive, or a damaged one" in out
    assert f"- {stats} is not a file of second moments: delete it" in out


def harm(folder: Path, kind: str) -> None:
    if kind == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif kind == "quantised":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    else:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        number = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|endoftext|>")
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [number], "tokens": ["<|endoftext|>"]}},
        }
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("adapter", "- the model at hugging_cache/tiny has an adapter (adapter_config.json) beside its weights"),
        ("quantised", "- the weights of the model at hugging_cache/tiny are quantised ('fp8')"),
        ("end token", "- tiny: its tokenizer puts an end token behind every text; prompts go without it"),
    ],
)
def test_what_a_run_would_refuse_or_mend_in_a_model(ask: Ask, kind: str, note: str) -> None:
    assert note not in ask("--model", "tiny")[1]
    harm(Path("hugging_cache/tiny"), kind)
    code, out = ask("--model", "tiny")
    assert code == 0 and note in out


def test_what_would_go_wrong(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions that are not the pins, too little memory, an unknown family, a results folder that is a file."""
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "4.0" if name == "transformers" else real(name))
    memory = SimpleNamespace(total=100_000, available=50_000)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(doctor.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    config = Path("hugging_cache/tiny/config.json")
    config.write_text(config.read_text().replace('"gpt2"', '"bloom"'))
    code, out = ask()
    assert code == 0
    assert "transformers 4.0 (pinned: ==" in out and "- transformers is 4.0, tested is ==" in out
    assert "- tiny is of the family 'bloom', which has no row in core/lm/model.py" in out
    assert "- tiny takes 0.35 MB in float32, cpu has 0.10 MB: use --dtype bfloat16\n" in out
    assert "- test-result cannot be written (Read-only file system): --results DIR names another place" in out
    monkeypatch.setattr(doctor, "version", missing)
    code, out = ask()
    assert code == 1 and "- torch is not installed: `pip install -r requirements.txt`" in out


def refuse(**_: object) -> None:
    raise OSError(30, os.strerror(30))


def missing(name: str) -> str:
    raise doctor.PackageNotFoundError(name)


def test_what_killed_runs_left_is_named_and_the_next_one_removes_its_own(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SIGKILL in the middle of a preparation, for real; then another preparation of the same model."""
    code = (
        "import os, signal; from pathlib import Path; from inputs import embedded\n"
        "half = lambda work: (work / 'half').write_bytes(bytes(1000))\n"
        "embedded._download = lambda work: half(work) and os.kill(os.getpid(), signal.SIGKILL)\n"
        "embedded.prepare_embedded(Path('hugging_cache/small').absolute())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False).returncode == -9
    )
    (left,) = [path for path in Path("hugging_cache").iterdir() if path.is_dir() and path.name.startswith(".small-")]
    Path("hugging_cache/.other-abcdefgh").mkdir()
    Path("hugging_cache/.partial/gpt2-xl").mkdir(parents=True)
    Path("test-result/test-NER/.result-abc_1234").mkdir(parents=True)
    assert Path("hugging_cache/.other-abcdefgh") in dict(leftovers(Path("hugging_cache")))
    assert dict(leftovers(Path("hugging_cache")))[left] == 1000
    told = ask()
    assert told[0] == 0
    assert f"- {left} (0.00 MB) was left by a run that was killed, unless one is under way: `rm -r {left}`" in told[1]
    assert "- test-result/test-NER/.result-abc_1234 (0.00 MB) was left" in told[1]
    assert "- hugging_cache/.partial (0.00 MB) is what was fetched of models so far" in told[1]
    monkeypatch.setattr(embedded, "_download", lambda work: work / "x.gguf")
    monkeypatch.setattr(
        embedded, "_convert", lambda gguf, folder: folder.mkdir() or (folder / "config.json").write_text("{}")
    )
    embedded.prepare_embedded(Path("hugging_cache/small"))
    assert sorted(path.name for path in Path("hugging_cache").iterdir()) == [
        ".other-abcdefgh",
        ".partial",
        "small",
        "tiny",
    ]
    assert (
        f"{sha256(Path('hugging_cache/small/config.json'))}  config.json\n"
        in Path("hugging_cache/small/ORIGIN.txt").read_text()
    )
    with lock.held([Path("hugging_cache/.small.lock")]), pytest.raises(UserError, match=f"process {os.getpid()} on"):
        embedded.prepare_embedded(Path("hugging_cache/small"))


def test_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in dict(
        device_count=1, mem_get_info=(10**9, 3 * 10**9), get_device_name="Some GPU", is_available=True
    ).items():
        monkeypatch.setattr(doctor.torch.cuda, name, lambda *_, value=value: value)
    patient = Doctor({}, {}, {})
    assert "cuda:0: Some GPU, memory 3.00 GB, 1.00 GB free" in list(patient.machine())
    assert patient.notes == [] and patient.memory["cuda:0"] == 3 * 10**9


class Trained:
    """An editor that needs training, of no name that the doctor could know."""

    name, trained_by = "Other", "train_other.py"

    @classmethod
    def archives(cls) -> Iterator[Path]:
        yield from sorted(Path("networks").glob("*/net"))

    @classmethod
    def trained_for(cls, path: Path) -> tuple[str, str]:
        if path.read_text() == "damaged":
            raise UserError(f"{path}: damaged; train it again")
        return "tiny", path.read_text()


def test_editors_are_asked_what_they_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    patient = Doctor({}, {}, {}, hashes={"tiny": "abc"})
    assert list(patient.archives(Trained)) == []  # type: ignore[arg-type]
    assert patient.notes.pop() == "no trained Other network: `python train_other.py` before METHOD is Other"
    for name, text in (("tiny", "abc"), ("elsewhere", "xyz"), ("torn", "damaged")):
        (tmp_path / "networks" / name).mkdir(parents=True)
        (tmp_path / "networks" / name / "net").write_text(text)
    lines = list(patient.archives(Trained))  # type: ignore[arg-type]
    assert lines[1] == "Other network: networks/tiny/net, for 'tiny', 0.00 MB" and len(lines) == 2
    assert (patient.notes, patient.broken) == ([], ["networks/torn/net: damaged; train it again"])
    patient.hashes["tiny"] = "def"
    list(patient.archives(Trained))  # type: ignore[arg-type]
    assert patient.notes == [
        "networks/tiny/net is for other weights than tiny has: `python train_other.py --model tiny`"
    ]
