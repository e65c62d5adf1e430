"""benchmarks.gpu runs, shrunken, on the CPU; the formula of benchmarks.memory holds against what autograd keeps."""

import csv
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from conftest import ROOT, in_soak, saved, tiny
from tiny_settings import TARGET, corpus
from torch import Tensor

from benchmarks import (
    _flops,
    _peak,
    _random,
    alike,
    attention,
    gpu,
    long,
    masks,
    memory,
    mend_batches,
    peers,
    pieces,
    products,
)
from benchmarks.__main__ import arguments
from benchmarks._common import printed
from benchmarks._flops import bare, counted, share
from core import folders
from core.errors import UserError
from core.lm.forward import resume
from core.lm.generate import complete
from core.lm.load import load
from core.lm.model import LM
from core.lm.tokens import encode, pad
from core.registry import discover
from editors.mend.network import seeded


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_benchmark_that_is_not_there() -> None:
    assert arguments(["rome", "gpu"]).names == ["rome", "gpu"]
    with pytest.raises(UserError, match="no benchmark is called rone: choose of products, evaluation"):
        arguments(["rome", "rone"])


@pytest.mark.parametrize(
    ("module", "words", "says"),
    [
        (alike, "--limit -3", "--limit: expected 1 or more, got -3"),
        (alike, "--limit few", "--limit: expected 1 or more, got few"),
        (attention, "--rows 0", "--rows: expected 1 or more, got 0"),
        (attention, "--device tpu", "--device: torch finds no device tpu here"),
        (attention, "--device meta", "--device: torch finds no device meta here"),
        (gpu, "--out /nowhere/x.json", "--out: /nowhere: no such folder"),
        (masks, "--table /nowhere/x.csv", "--table: /nowhere: no such folder"),
        (gpu, "--width 63", "--width: expected a multiple of 16, got 63"),
        (gpu, "--layers 1", "--layers: expected 2 or more"),
        (gpu, "--repeats 0", "--repeats: expected 1 or more, got 0"),
        (long, "--batch 0", "--batch: expected 1 or more, got 0"),
        (long, "--edits 100", "--edits: a course has several updates, and 100 edits are one of 100"),
        (masks, "--limits 3", "unknown flag --limits: did you mean '--limit'?"),
        (mend_batches, "--sizes 0", "--sizes: expected 1 or more, got 0"),
        (pieces, "--width 8", "--width: expected a multiple of 16, got 8"),
        (peers, "--batches 16 many", "--batches: expected a number of records or auto, got many"),
    ],
)
def test_flags_that_make_no_sense(module: ModuleType, words: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as error:
        module.arguments(words.split())
    assert f"`python -m {module.__name__} --help` lists all arguments" in str(error.value)


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def lines() -> Iterator[str]:
        yield "first"
        raise UserError("no such file")

    with pytest.raises(SystemExit) as stop:
        printed(lines)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("first\n", "error: no such file\n")
    monkeypatch.setattr(sys, "argv", ["rome.py", "--edits"])
    with pytest.raises(SystemExit) as stop:
        printed(lines, flagless="rome")
    assert stop.value.code == 2
    says = "error: unknown flag --edits; `python -m benchmarks.rome --help` lists all arguments\n"
    assert capsys.readouterr() == ("", says)


REST = ("gpt-j-6B", "llama-7b")
SMALL = ["--device", "cpu", "--dtype", "float32", "--layers", "4", "--width", "32", "--edits", "2"]


@pytest.mark.parametrize("model", ["gpt2-xl", *in_soak(*REST)])
def test_every_measurement_can_be_made(model: str, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    tasks = ["NLI", "summarization"]
    lines = list(gpu.measure(gpu.arguments(["--models", model, *SMALL, "--tasks", *tasks, "--out", str(file)])))
    rows = json.loads(file.read_text())
    assert [row["what"].split(":")[0] for row in rows] == [*tasks, "ROME", "ROME", "KN", "MEMIT", "MEMIT", "MEND"]
    assert len(lines) == len(rows) + 2 and len({line.count("|") for line in lines}) == 1
    for row in rows:
        assert row["model"] == model and row["value"] > 0 and row["peak_gb"] > 0
        assert row["utilisation"] is None  # of a CPU no peak is known
    assert [row["unit"] for row in rows] == ["samples/s"] * 2 + ["s"] * 5 + ["steps/s"]


def test_flops_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 x the blocks' parameters x the tokens run: 3 rows of 5 tokens."""
    bench = gpu.Bench(gpu.arguments(SMALL), "gpt2-xl")
    monkeypatch.setattr(gpu, "peak_flops", lambda device, dtype: 1e12)

    def work() -> float:
        bench.lm.model(torch.ones(3, 5, dtype=torch.long))
        return 3

    row = bench.row("x", "samples/s", work)
    blocks = sum(p.numel() for layer in range(4) for p in bench.lm.module(bench.lm.block(layer)).parameters())
    assert bench.flops == 2 * blocks * 15
    assert row["utilisation"] == pytest.approx(bench.flops * row["value"] / 3 / 1e12)


@pytest.mark.parametrize(
    ("device", "half", "full"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A10", 125e12, 31.2e12),
        ("NVIDIA GeForce RTX 4090", 165e12, 82.6e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("Some Card 9000", None, None),
    ],
)
def test_peaks_by_name(device: str, half: float | None, full: float | None) -> None:
    assert (_peak.named_peak(device, "bfloat16"), _peak.named_peak(device, "float32")) == (half, full)
    assert _peak.peak_flops("cpu", "float32") is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gpt2-xl", 1_557_611_200), ("llama-7b", 6_738_415_616), ("llama2-13b", 13_015_864_320)],
)
def test_the_sizes_are_the_published_ones(name: str, parameters: int) -> None:
    """GPT-2's released checkpoint and the papers of LLaMA say 1.5, 6.7 and 13.0 billion."""
    assert sum(p.numel() for p in _random.skeleton(name).model.parameters()) == parameters


@pytest.mark.parametrize("vocabulary", [1000, 32000, 60000])
def test_the_stand_in_stays_below_the_vocabulary(vocabulary: int) -> None:
    tokenizer = _random.stand_in(vocabulary)
    text = "The mother tongue of Zoë in 1234 is\n\nFrench."
    ids = tokenizer(text)["input_ids"]
    assert max(ids) < vocabulary and tokenizer.decode(ids) == text and tokenizer.eos_token_id < vocabulary


@pytest.mark.parametrize("dtype", ["float32", *in_soak("bfloat16")])
@pytest.mark.parametrize("name", ["gpt2-xl", *REST])
def test_what_autograd_keeps_of_a_block(name: str, dtype: str) -> None:
    """The difference of two and four blocks, so that what else is kept does not count. Never more than the formula,
    and not so much less that the table would be of no use."""

    def kept(layers: int) -> int:
        lm = _random.random_lm(name, _random.config(name, layers + 1, 128), "cpu", dtype)
        tokens = pad(lm, [[5] * 20] * 2)
        point = resume(lm, tokens, range(1, 2), 0)[0][1]
        point = dataclasses.replace(point, hidden=point.hidden.clone().requires_grad_())
        weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
        found: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if (at := tensor.untyped_storage().data_ptr()) not in weights:
                found[at] = tensor
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            point.run()
        need = memory.Need(lm, dtype)
        return sum(t.untyped_storage().nbytes() for t in found.values()) - layers * 40 * need.block

    more = kept(4) - kept(2)  # of two blocks, beyond the formula
    block = (9 * 128 + 4 * 512) * memory.BYTES[dtype]
    assert -0.35 * 80 * block < more <= 0


def test_memory_by_hand() -> None:
    """llama2-7b, bfloat16: L 32, d 4096, f 11008, V 32000, ROME at layer 5 with 21 templates and the KL row."""
    need = memory.Need(_random.skeleton("llama2-7b"), "bfloat16")
    assert need.sizes == (32, 4096, 11008, 32000)
    model, block, cache = 2 * 6_738_415_616, 2 * (9 * 4096 + 4 * 11008), 2 * 2 * 32 * 4096
    rows, logits = 22, 14 * 32000
    rome = model + rows * 40 * (27 * block + cache) + (rows * 4 + 1) * logits + 4 * 4 * 4096 * 11008
    assert need.of("ROME") == rome < 24e9
    assert need.host == 6 * 11008**2 * 8
    assert memory.Need(_random.skeleton("llama2-13b"), "bfloat16").of("ROME") < 48e9


def test_memory_of_mends_network() -> None:
    """As many parameters as a real network has; four copies of it in training, one for an edit."""
    need = memory.Need(_random.skeleton("gpt2-xl"), "float32")
    hp = need._settings("TRAINING/MEND")
    assert type(hp) is discover("editors", "EDITOR")["MEND"].hparams
    dim = 1600 + 6400  # of both shapes of weights; each with m = 3 weights: U, V, b, scale and shift per layer
    network = 4 * (2 * 2 * (2 * dim * 1920 + dim + 6 * dim) + 6)
    assert need.of("MEND train") - need.model > 4 * network
    small = seeded({"w": (3, 2)}, dataclasses.replace(hp, rank=2, inner_params=("w",)))
    assert sum(p.numel() for p in small.parameters()) == 2 * (2 * 5 * 2 + 5 + 2 * 5) + 1


def test_the_table_of_the_documentation_is_this_one() -> None:
    text = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    for line in memory.table():
        assert line in text


# --- shares of the machine -------------------------------------------------------------------------------------------


def test_flops_and_products_are_counted_by_hand() -> None:
    """2 (rows x in x out) of each product, under inference_mode too, where a linear layer is one operation."""
    layer, rows = torch.nn.Linear(5, 7), torch.ones(3, 5)

    def work() -> None:
        with torch.inference_mode():
            layer(rows).relu() @ torch.ones(7, 2)

    count = counted(lambda: (work(), work()))
    assert count.flops == 2 * (2 * 3 * 5 * 7 + 2 * 3 * 7 * 2)
    assert sorted(count.products.values()) == [2, 2]
    flops, took = bare(count, budget=0.001)
    assert flops == count.flops and 0 < took < 1


def test_a_share_is_of_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows are pads, and ours takes twice the time of the products: medians of three turns."""
    full, half, w = torch.ones(64, 32), torch.ones(32, 32), torch.ones(32, 32)
    times, alone = iter((9.0, 2.0, 1.0)), iter((1.0, 0.5, 7.0))
    monkeypatch.setattr(_flops, "seconds", lambda work: next(times))
    monkeypatch.setattr(_flops, "bare", lambda count: (count.flops, next(alone)))
    line = share(lambda: full @ w, lambda: half @ w)
    assert line == "0 GFLOP needed, 0 GFLOP/s, 25% of the 0 that bare products of these shapes reach"


# --- attention -------------------------------------------------------------------------------------------------------


def test_attention_is_compared_with_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CALLS", 1)
    words = ["--rows", "2", "--columns", "8", "--device", "cpu", "--dtype", "float32"]
    lines = [*attention.run(attention.arguments(words))]
    assert [line.split(",")[0] for line in lines] == [*attention.SHAPES]
    assert all(float(line.split("; ")[1].split()[0]) < 1e-5 for line in lines)


# --- peers -----------------------------------------------------------------------------------------------------------


class OutOfMemory:
    def __call__(self) -> list[str]:
        raise torch.cuda.OutOfMemoryError


def test_peers_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of prompts that fit the tiny model: what does not loses other tokens there than here."""
    pytest.importorskip("lm_eval")
    (data := tmp_path / "task-data").mkdir()
    sentences = "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(["so dull", "a joy to see", "it never ends"]))
    (data / "test-SentimentAnalysis.tsv").write_text(f"sentence\tlabel\n{sentences}")
    (data / "test-NER.txt").write_text((ROOT / "data/sample/task-data/test-NER.txt").read_text())
    folder = saved(tiny("llama"), tmp_path / "tiny-llama")
    monkeypatch.setattr(peers, "load", lambda *args, **kwargs: load(folder, "tiny-llama", "cpu"))
    lines = list(
        peers.run(
            peers.arguments(
                ["--tasks", "SentimentAnalysis", "NER", "--limit", "3", "--batches", "1", "2", "--data", str(tmp_path)]
            )
        )
    )
    heads = [line for line in lines if not line.startswith(" ")]
    assert [line.split(":")[0] for line in heads] == ["SentimentAnalysis", "NER"]
    for line in heads:
        assert (bound := re.search(r": [\d.]+x, ([\d.]+)x at most \(3 records", line)) and float(bound[1]) > 0
    others = [line for line in lines if line.startswith("  ") and not line.startswith("  ours")]
    assert [line.split()[0] for line in others] == ["generate_until,", "loglikelihood,"] * 2 + ["generate_until,"] * 2
    lm, task = load(folder, "tiny-llama", "cpu"), discover("tasks", "TASK")["SentimentAnalysis"]
    prompts = [sample.prompt for sample in task.samples(data / task.file)]
    first = [completion.choice for completion in complete(lm, prompts, 1, task.choices)]
    same = sum(map(str.__eq__, first, weighed(lm, prompts, task.choices)))
    for line in others:
        assert line.endswith(f"{same if 'loglikelihood' in line else 3} of 3 as ours")


def weighed(lm: LM, prompts: Sequence[str], words: Sequence[str]) -> list[str]:
    """The likeliest word of each prompt: all its tokens count, of which the tiny tokenizer needs several."""
    found = []
    for prompt in prompts:
        logps = []
        for word in words:
            ids, start = encode(lm, f"{prompt} {word}"), len(encode(lm, prompt))
            with torch.no_grad():
                logp = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            logps.append(sum(float(logp[at - 1, ids[at]]) for at in range(start, len(ids))))
        found.append(words[logps.index(max(logps))])
    return found


def test_a_peer_out_of_memory_is_said() -> None:
    peer = peers.Peer("HFLM", OutOfMemory(), "text")
    peer.call()
    peer.call()
    assert peer.failed == "out of memory" and len(peer.times) == 1


# --- what is shared, products --------------------------------------------------------------------------------------


def test_prompts_that_start_alike_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "embedded", lambda: tiny("llama"))
    monkeypatch.setitem(alike.pieces.PIECE, "cpu", 24)
    (line,) = alike.run(alike.arguments(["--tasks", "NER", "--limit", "6"]))
    assert line.startswith("NER ") and line.endswith("x; 6 of 6 completions the same")


def test_pieces_of_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--tasks", "NER", "NLI", "--limit", "2", "--sizes", "8", "64"]
    monkeypatch.setattr(pieces, "embedded", lambda: tiny("llama"))
    for more in ([], ["--width", "32", "--layers", "2"]):
        lines = [*pieces.run(pieces.arguments([*words, *more]))]
        assert [line.split(",")[0] for line in lines] == ["NER", "NLI"]  # tests have one thread
        assert all(
            re.search(r"threads: 1; records/s at pieces of 8: \d+\.\d\d, 64: \d+\.\d\d$", line) for line in lines
        )


def test_products_have_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    if products.ONEDNN is None:
        assert list(products.run()) == ["torch's own are used here: no oneDNN, or a CPU without AVX-512"]
        monkeypatch.setattr(products, "ONEDNN", "as if")
    monkeypatch.setattr(products, "SHAPES", {"queries": (8, 4)})
    monkeypatch.setattr(products, "CACHES", 1 << 10)
    lines = list(products.run())
    assert len(lines) == len(products.ROWS)
    assert all(re.fullmatch(r"queries +\d+ rows: +\d+ GFLOP/s, torch's +\d+: \d+\.\d\dx", line) for line in lines)


# --- a long course ---------------------------------------------------------------------------------------------------


def test_a_long_course_is_killed_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, settings = saved(tiny("llama"), tmp_path / "tiny-llama"), tmp_path / "MEMIT.yaml"
    values = TARGET | corpus(tmp_path) | dict(layers=[1, 2], mom2_adjustment=True, mom2_update_weight=10.0)
    settings.write_text(yaml.safe_dump(values))
    monkeypatch.setattr(long, "embedded", lambda: load(folder, "tiny-llama", "cpu"))
    monkeypatch.setattr(long, "hparams_file", lambda method: settings)
    words = ["--methods", "MEMIT", "--edits", "5", "--batch", "2"]
    grown, again = long.run(long.arguments(words))
    assert grown.startswith("MEMIT with past keys: 3 updates of 2, the first ")
    assert re.fullmatch(r"MEMIT with past keys: killed after 2 updates, given again it edits on after \d+\.\d s", again)
    with pytest.raises(RuntimeError, match="ended before 1 of 2 updates were in: error: "):
        long.until([sys.executable, "test-task-after.py", "NLI", "Batch"], 1, 2)


# --- masks -----------------------------------------------------------------------------------------------------------


def test_what_a_mask_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaled update has the ratio of the whole one and writes its square."""
    lm, values = tiny("llama"), dict(layers=(1, 2), mom2_adjustment=True, mom2_update_weight=10.0, **TARGET)
    settings = tmp_path / "MEMIT.yaml"
    settings.write_text(yaml.safe_dump(values | corpus(tmp_path) | {"layers": [1, 2], "context_templates": ["{}"]}))
    monkeypatch.setattr(masks, "embedded", lambda: lm)
    monkeypatch.setattr(masks, "hparams_file", lambda method: settings)
    monkeypatch.setattr("experiment.notebook.settings_file", lambda *args: settings)
    words = ["--edits", "0", "2", "--batch", "2", "--tasks", "NER", "--limit", "2", "--rules", "none", "scale:keep=0.5"]
    words += ["--data", str(folders.SAMPLE)]
    table = tmp_path / "it.csv"
    lines = list(masks.run(masks.arguments([*words, "--table", str(table)])))
    assert len(lines) == 3
    whole, half = ([float(value) for value in re.findall(r"\d+\.\d+", line.split("ratio")[1])] for line in lines[1:3])
    assert half[:2] == whole[:2] and len(whole) == 4
    assert half[2:] == pytest.approx([value / 4 for value in whole[2:]], abs=0.011)
    rows = list(csv.DictReader(table.open()))
    assert [(row["measure"], row["of"]) for row in rows if row["rule"] == "none"] == [
        ("reliability", "edits"),
        *(("ratio", "1"), ("ratio", "2"), ("written", "1"), ("written", "2"), ("drift", "NER")),
    ]
    assert [f"{float(row['value']):.2f}" for row in rows[1:5]] == [f"{value:.2f}" for value in whole]
