"""Hostile models, MEND archives and second moments: read, or refused by one UserError of one line. Nothing is run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import hostile as h
import numpy as np
import pytest
import torch
from conftest import tiny
from hostile import put
from hypothesis import strategies as st
from safetensors.torch import save_file

from core import hparams, published, results
from core.errors import UserError
from core.lm.load import load
from core.lm.moments import Corpus, second_moments
from core.registry import discover
from core.types import Edit
from edit_sets.zsre import EDIT_SET
from editors import mend
from editors.mend import archive as archive
from editors.mend import log
from editors.mend.factors import shapes_of
from editors.mend.network import seeded
from editors.mend.settings import MENDSettings
from editors.mend.training import Records, Training
from inputs import moments

TASKS = discover("tasks", "TASK")
LM = tiny("gpt2")
MEND = MENDSettings(inner_params=("transformer.h.3.mlp.c_fc.weight",), rank=2)


SHAPES = shapes_of(LM, MEND.inner_params)
HEADER = archive.header(LM, MEND, SHAPES)


@h.hostile(draw=st.data())
def test_mend_archives(draw: Any, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    net = seeded(SHAPES, MEND)
    tensors = {
        **net.state_dict(),
        **draw.draw(st.sampled_from([{}, {"edit_lrs": torch.tensor([torch.nan])}, {"x": torch.ones(2)}])),
    }
    keys = st.sampled_from(["format", "model", "fingerprint", "shapes", "settings", "x"])
    head = json.dumps({**HEADER, **draw.draw(st.dictionaries(keys, h.values, max_size=2))})
    head = draw.draw(st.sampled_from([head, head, head, "[" * 9000, "9" * 5000, "[]"]))
    save_file(tensors, path, {"mend": head} if draw.draw(st.integers(0, 9)) else {"other": "1"})
    put(tmp_path, path.name, draw.draw(st.just(path.read_bytes()) | h.files(path.read_bytes())))
    assert h.read_or_refused(lambda: mend.opened(path, LM, MEND).parameters(), path, Path("inner_params")) is None


@h.hostile(
    content=h.files(
        b'{"iteration": 1}\n{"iteration": 2, "loss/edit": 0.5}\n', h.records({"iteration": 1}).map(h.written)
    )
)
def test_mend_metrics_of_a_killed_run(content: bytes, tmp_path: Path) -> None:
    """They are read up to the first line that is none."""
    for record in log._read(put(tmp_path, "metrics.jsonl", content)):
        int(record["iteration"])


def sums(**changes: Any) -> dict[str, Any]:
    whole = {"mom2.mom2": np.eye(128, dtype=np.float32), "mom2.count": np.array(7), "sample_size": np.array(5)}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


ARRAYS = st.sampled_from(
    [
        None,
        np.array(0),
        np.array(-1),
        np.array("x"),
        np.zeros((2, 3)),
        np.full((128, 128), np.nan),
        np.array([1 + 2j] * 3),
    ]
)


@h.hostile(draw=st.data())
def test_second_moments(draw: Any, tmp_path: Path) -> None:
    corpus = Corpus("x", 5, tmp_path)
    path = put(tmp_path, str(corpus.file(LM, 1).relative_to(tmp_path)), b"")
    np.savez(path, **sums(**draw.draw(st.dictionaries(st.sampled_from([*sums()]), ARRAYS, max_size=2))))
    path.write_bytes(draw.draw(st.just(path.read_bytes()) | h.files(path.read_bytes())))
    for found in h.read_or_refused(lambda: second_moments(LM, [1], corpus).values(), path) or ():
        assert found.isfinite().all()


CONFIG = LM.model.config.to_json_string().encode()


@h.hostile(content=h.files(CONFIG, h.records(json.loads(CONFIG)).map(lambda rows: h.written(rows[0]))))
def test_model_folders(content: bytes, tmp_path: Path) -> None:
    model_folder(content, tmp_path)


def test_a_name_that_fills_a_screen(tmp_path: Path) -> None:
    """Libraries repeat what they do not know, in full."""
    model_folder(json.dumps({**json.loads(CONFIG), "activation_function": "[" * 20_000}).encode(), tmp_path)


def model_folder(content: bytes, tmp_path: Path) -> None:
    put(tmp_path, "config.json", content)
    put(tmp_path, "model.safetensors", content)
    for read in (lambda: load(tmp_path, "m", "cpu"), lambda: moments.skeleton(tmp_path, "m")):
        h.read_or_refused(lambda read=read: [read()], tmp_path, Path("'m'"))


def test_nothing_in_a_model_folder_is_run(tmp_path: Path) -> None:
    """Neither code that config.json names nor a pickle in pytorch_model.bin."""
    mark = tmp_path / "mark"
    folder = tmp_path / "model"
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import GPT2Config as C, GPT2LMHeadModel as M\n"
    put(folder, "code.py", code.encode())
    LM.tokenizer.save_pretrained(folder)
    config = {**json.loads(CONFIG), "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}

    class Payload:
        def __reduce__(self) -> Any:
            return open, (str(mark), "w")

    for family in ("gpt2", "unheard-of"):
        put(folder, "config.json", h.written({**config, "model_type": family}))
        torch.save({"transformer.wte.weight": Payload()}, folder / "pytorch_model.bin")
        with pytest.raises(UserError) as caught:
            load(folder, "m", "cpu")
        assert len(str(caught.value).splitlines()) == 1
    assert not mark.exists()


MOMENTS = Corpus("x", 5, Path()).file(LM, 1).as_posix()
READERS: dict[str, tuple[str, Any]] = {
    **{name: (f"d/{t.file}", lambda p, t=t: t.samples(p)) for name, t in TASKS.items() if name != "dialogue"},
    "dialogue": ("d/dev_1.txt", lambda p: TASKS["dialogue"].samples(p.parent)),
    "edits": ("zsre.json", lambda p: EDIT_SET.edits(p, 0, 1, 1)),
    "training": ("zsre.json", EDIT_SET.training),
    "settings": ("s.yaml", lambda p: [hparams.load(MENDSettings, p)]),
    "result": ("r.json", lambda p: [results.existing(p.with_suffix(""), {}, False)]),
    "archive": ("a.safetensors", archive.load),
    "metrics": ("metrics.jsonl", log._read),
    "moments": (MOMENTS, lambda p: second_moments(LM, [1], Corpus("x", 5, p.parents[2]))),
    "model": ("m/config.json", lambda p: [load(p.parent, "m", "cpu")]),
}
PREFIXES = ("", '{"a": ', "layers: ")


@pytest.mark.parametrize("name", READERS)
def test_every_nasty_text_in_every_reader(name: str, tmp_path: Path) -> None:
    """Beside the drawn cases: each text of the list, alone and where a value is expected."""
    place, read = READERS[name]
    for text in h.NASTY:
        for prefix in PREFIXES:
            path = put(tmp_path, place, (prefix + text).encode(errors="surrogatepass"))
            with h.soon():
                h.read_or_refused(lambda path=path: read(path), path, path.parent)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "baseline: [1]", "baseline: {gpt2-xl: {NER: x}}", "[" * 9000, "!!int x", ""],
    ids=lambda t: t[:9],
)
def test_a_damaged_table_of_published_scores(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "FILE", put(tmp_path, "p.yaml", text.encode()))
    with pytest.raises(UserError, match=r"p\.yaml: not the table of published scores") as caught:
        print(published.figures("gpt2-xl", None, "NER"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"adam.0.step": None},
        {"adam.99.step": torch.zeros(())},
        {"adam.x.step": torch.zeros(())},
        {"adam.0.exp_avg": torch.zeros(1)},
        {"net.edit_lrs": torch.full((1,), torch.inf)},
        {"progress": {"iteration": 2, "surprise": 1}},
        {"progress": [1]},
        {"progress": {"iteration": "2"}},
        {"settings": None},
    ],
)
def test_a_damaged_checkpoint_is_not_resumed(change: dict[str, Any], tmp_path: Path) -> None:
    def training() -> Training:
        return Training(LM, hp, Records([fact], [fact]), tmp_path)

    hp = dataclasses.replace(MEND, accumulate_bs=2, silent=True)
    fact = Edit("Where was Tom Hill born?", "Tom Hill", "Rome or so", "Paris")
    whole = training()
    whole._step([[fact], [fact]])
    tensors, head = whole._state(), {**whole.header, "progress": {"iteration": 2}}
    archive.save(tmp_path / archive.LAST, tensors, head)
    training().resume()  # as it is, it can be
    both = {**tensors, **head, **change}
    kept = {name: t.contiguous() for name, t in both.items() if isinstance(t, torch.Tensor)}
    archive.save(tmp_path / archive.LAST, kept, {name: both[name] for name in head})
    with pytest.raises(UserError) as caught:
        training().resume()
    assert len(str(caught.value).splitlines()) == 1 and "last.safetensors" in str(caught.value)
