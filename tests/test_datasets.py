"""The official data: converters on rows written here and, where present, of the released files; the hub; the web."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import ROOT, project
from fake_hub import FakeHub, Remote, serving

from core import readers
from core.disk.digest import sha256
from core.errors import UserError
from core.registry import discover
from inputs import converters, official
from inputs import datasets as gathering
from inputs.download import download, fits
from inputs.official import FACTS, SETS, DataSet, Hub, Web
from tasks import EIGHT

OFFICIAL = ROOT.parent / "shared/realdata/data"
SAMPLE = ROOT / "data/sample"
TASKS = discover("tasks", "TASK")
EDIT_SETS = discover("edit_sets", "EDIT_SET")
POS = ["NNP", "CD", ":", ".", "NN", '"', "''", "#", "$", "(", ")", ",", "IN", "VB", "VBD", "JJ", "DT", "O", "-X-"]


def source_of(name: str) -> Hub:
    found = next(dataset.source for dataset in SETS if dataset.name == name)
    assert isinstance(found, Hub)
    return found


def labels(column: str, rows: list[dict[str, Any]]) -> Any:
    """How the hub stores a column of labels: numbers, with the names beside them."""
    if column == "label" and rows[0]["label"] in ("entailment", "not_entailment"):
        return datasets.ClassLabel(names=["entailment", "not_entailment"])
    if column == "label":
        return datasets.ClassLabel(names=["negative", "positive"])
    names = {tag: 0 for row in rows for tag in row[column]}
    return datasets.List(datasets.ClassLabel(names=list(names)))


def parquet(rows: list[dict[str, Any]], path: Path) -> Path:
    """The rows as a parquet file of a data set on the hub."""
    table = datasets.Dataset.from_list(rows)
    for column in {"label", "pos_tags", "chunk_tags", "ner_tags"} & set(rows[0]):
        table = table.cast_column(column, labels(column, rows)) if column == "label" else _tagged(table, column, rows)
    table.to_parquet(path)
    return path


def _tagged(table: Any, column: str, rows: list[dict[str, Any]]) -> Any:
    feature = labels(column, rows)
    numbers = [[feature.feature.str2int(tag) for tag in row[column]] for row in rows]
    return table.remove_columns(column).add_column(column, numbers, feature=feature)


def converted(name: str, rows: list[dict[str, Any]], folder: Path) -> str:
    """Rows -> parquet -> datasets -> text of the file format, as `prepare.py data` goes."""
    source = source_of(name)
    file = str(parquet(rows, folder / f"{name}.parquet"))
    table = datasets.load_dataset("parquet", data_files=file, split="train", cache_dir=str(folder / "cache"))
    return source.convert(gathering.rows(table, source))


WRITTEN: dict[str, tuple[list[dict[str, Any]], str]] = {
    "reasoning": (
        [{"question": "What’s 1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}],
        '{"question": "What\\u2019s 1+1?", "answer": "It is <<1+1=2>>2.\\n#### 2"}\n',
    ),
    "ClosedDomainQA": (
        [{"question": "is é a letter", "answer": True, "passage": 'Yes, "é" is.'}],
        '{"question": "is é a letter", "answer": true, "passage": "Yes, \\"é\\" is."}\n',
    ),
    "NLI": (
        [
            {"sentence1": 'He said "no.', "sentence2": "He spoke.", "label": "entailment", "idx": 0},
            {"sentence1": "This row", "sentence2": "is left out.", "label": "entailment", "idx": 2164},
            {"sentence1": "It rains.", "sentence2": "It snows.", "label": "not_entailment", "idx": 2165},
        ],
        'index\tsentence1\tsentence2\tlabel\n0\tHe said "no.\tHe spoke.\tentailment\n'
        "2165\tIt rains.\tIt snows.\tnot_entailment\n",
    ),
    "SentimentAnalysis": (
        [{"sentence": "a joy . ", "label": 1, "idx": 0}, {"sentence": "dull ", "label": 0, "idx": 1}],
        "sentence\tlabel\na joy . \t1\ndull \t0\n",
    ),
    "summarization": (
        [{"id": "13-1", "dialogue": "A: Hé\r\nB: Hi", "summary": "They greet."}],
        '[\n  {\n    "id": "13-1",\n    "summary": "They greet.",\n    "dialogue": "A: Hé\\r\\nB: Hi"\n  }\n]',
    ),
    "NER": (
        [
            {
                "tokens": ["Anna", "Bell", "left", "."],
                "pos_tags": ["NNP", "NNP", "VBD", "."],
                "chunk_tags": ["B-NP", "I-NP", "B-VP", "O"],
                "ner_tags": ["B-PER", "I-PER", "O", "O"],
            },
            {"tokens": ["Rome"], "pos_tags": ["NNP"], "chunk_tags": ["B-NP"], "ner_tags": ["B-LOC"]},
        ],
        "Anna NNP B-NP B-PER\nBell NNP I-NP I-PER\nleft VBD B-VP O\n. . O O\n\nRome NNP B-NP B-LOC\n\n",
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_converters_on_rows_written_here(name: str, tmp_path: Path) -> None:
    rows, text = WRITTEN[name]
    assert converted(name, rows, tmp_path) == text


def released_rows(name: str) -> list[dict[str, Any]]:
    """The hub's rows, reconstructed from the released file."""
    path = OFFICIAL / "task-data" / TASKS[name].file
    if name in ("reasoning", "ClosedDomainQA"):
        return [record for _, record in readers.jsonl(path)]
    if name == "summarization":
        return [record for _, record in readers.json_list(path)]
    if name == "NLI":
        rows = [row for _, row in readers.tsv(path, ("index",))]
        return [{k: v for k, v in row.items() if k != "index"} | {"idx": int(row["index"])} for row in rows]
    if name == "SentimentAnalysis":
        return [{**row, "label": int(row["label"])} for _, row in readers.tsv(path, ("label",))]
    blocks = [block.split("\n") for block in path.read_text(encoding="utf-8").strip("\n").split("\n\n")]
    sentences = [[line.split(" ") for line in block] for block in blocks if not block[0].startswith("-DOCSTART-")]
    names = ("tokens", "pos_tags", "chunk_tags", "ner_tags")
    return [dict(zip(names, map(list, zip(*lines, strict=True)), strict=True)) for lines in sentences]


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"the official data is not at {OFFICIAL}")
@pytest.mark.parametrize("name", WRITTEN)
def test_converters_give_the_released_files_back(name: str, tmp_path: Path) -> None:
    """All rows, byte for byte; BoolQ without its titles and CoNLL without -DOCSTART- lines, which the hub lacks."""
    rows = released_rows(name)
    expected = (OFFICIAL / "task-data" / TASKS[name].file).read_bytes().decode("utf-8")
    if name == "ClosedDomainQA":
        assert converters.closed_domain_qa(rows) == expected  # with titles, as the original file has them
        expected = "".join(
            json.dumps({k: v for k, v in row.items() if k != "title"}, ensure_ascii=False) + "\n" for row in rows
        )
    if name == "NER":
        expected = expected.replace("-DOCSTART- -X- -X- O\n\n", "")
    assert converted(name, rows, tmp_path) == expected


@pytest.mark.parametrize("name", WRITTEN)
def test_the_readers_read_what_the_converters_write(name: str, tmp_path: Path) -> None:
    rows, text = WRITTEN[name]
    (tmp_path / TASKS[name].file).write_text(text, encoding="utf-8", newline="\n")
    samples = list(TASKS[name].samples(tmp_path / TASKS[name].file))
    assert len({sample.record for sample in samples}) == len(rows) - (name == "NLI")


def test_rows_that_the_format_cannot_hold() -> None:
    with pytest.raises(UserError, match="row 0: a tab or line break inside a cell"):
        converters.sentiment([{"sentence": "a\tb", "label": 1}])
    row = {"tokens": ["a", "b"], "pos_tags": ["O"], "chunk_tags": ["O", "O"], "ner_tags": ["O", "O"]}
    with pytest.raises(UserError, match="sentence 0: expected as many tags as tokens"):
        converters.ner([row])


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list([{"query": "a", "answer": "b"}])
    with pytest.raises(UserError, match="openai/gsm8k has no column 'question', but query, answer"):
        list(gathering.rows(table, source_of("reasoning")))
    table = datasets.Dataset.from_list([{"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}])
    with pytest.raises(UserError, match="expected label names in column 'label'"):
        list(gathering.rows(table, source_of("NLI")))
    table = datasets.Dataset.from_list([{"sentence1": "a", "sentence2": "b", "label": "entailment", "idx": 0}])
    assert next(gathering.rows(table, source_of("NLI")))["label"] == "entailment"  # names already
    hidden = {"sentence1": ["a"], "sentence2": ["b"], "label": [-1], "idx": [0]}
    table = datasets.Dataset.from_dict(hidden).cast_column("label", datasets.ClassLabel(names=["yes", "no"]))
    with pytest.raises(UserError, match="expected the number of a label among yes, no, got -1"):
        list(gathering.rows(table, source_of("NLI")))


def test_the_table() -> None:
    """Every task once, with the file that its reader reads, and three ZsRE files; every web source is pinned."""
    assert sorted(dataset.name for dataset in SETS) == sorted([*EIGHT, "ZsRE", "ZsRE", "ZsRE"])
    for dataset in SETS:
        if dataset.name in TASKS:
            assert dataset.file == f"task-data/{TASKS[dataset.name].file}"
        if isinstance(dataset.source, Web):
            assert all(url.startswith("https://") for url in dataset.source.urls)
            assert dataset.source.pin.startswith(("sha256:", "git:", "folder:"))
    assert {source_of(name).split for name in ("NLI", "NER", "summarization")} == {"train", "validation", "test"}


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"the official data is not at {OFFICIAL}")
def test_the_pins_are_those_of_the_released_files() -> None:
    for dataset in SETS:
        if isinstance(dataset.source, Web) and not dataset.file.startswith("training-data"):
            assert dataset.source.pin.split(":")[1] == sha256(OFFICIAL / dataset.file), dataset.file


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serving(FakeHub()) as fake:
        yield fake


def archive(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return content.getvalue()


def web_sets(server: FakeHub) -> list[DataSet]:
    """The sets without a hub home, from the server: sample files of the same formats."""
    sets = [dataset for dataset in SETS if isinstance(dataset.source, Web)]
    made = []
    for dataset in sets:
        path, members = SAMPLE / dataset.file, dataset.source.members
        if members:
            files = {f"MuTual-b90cecad/data/mutual/dev/{p.name}": p.read_bytes() for p in path.glob("dev_*.txt")}
            files |= {"MuTual-b90cecad/data/mutual_plus/dev/dev_1.txt": b"not wanted", "MuTual-b90cecad/x.md": b""}
            server.plain["archive.zip"] = archive(files)
            source = Web((f"{server.url}/gone.zip", f"{server.url}/archive.zip"), "folder:" + sha256(path), members)
        else:
            server.plain[path.name] = path.read_bytes()
            source = Web((f"{server.url}/{path.name}",), "sha256:" + sha256(path))
        made.append(replace(dataset, source=source))
    return made


def test_files_from_the_web(server: FakeHub, tmp_path: Path) -> None:
    sets = web_sets(server)
    out = "\n".join(gathering.Gatherer(tmp_path, TASKS, EDIT_SETS).gather(sets))
    notes = json.loads((tmp_path / "SOURCES.json").read_text(encoding="utf-8"))
    assert len(notes) == len(sets) == 5
    for dataset in sets:
        assert sha256(tmp_path / dataset.file) == sha256(SAMPLE / dataset.file) == notes[dataset.file]["sha256"]
    assert notes["task-data/test-dialogue"]["origin"] == f"{server.url}/archive.zip"  # the first of its two has it not
    assert notes["task-data/test-dialogue"]["n"] == 24
    assert notes["task-data/test-dialogue"]["n_released"] == 886
    assert not list(tmp_path.glob(".*"))
    assert "test-dialogue: 24 records (the released file has 886; see inputs/official.py)" in out
    server.requests.clear()
    again = list(gathering.Gatherer(tmp_path, TASKS, EDIT_SETS).gather(sets))
    assert again == [f"{tmp_path / dataset.file} is already there" for dataset in sets]
    assert server.requests == []
    list(gathering.Gatherer(tmp_path, TASKS, EDIT_SETS, overwrite=True).gather(sets))
    assert server.requests


def test_what_is_not_available_is_named_and_the_rest_is_done(
    server: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = web_sets(server)
    server.plain["zsre.json"] = b"[]"  # not the file of the pin
    server.plain["archive.zip"] = b"no archive"
    server.spoil["zsre_mend_eval.json"] = "cut"
    with pytest.raises(UserError, match=r"^3 of 5 are missing: task-data/test-dialogue, edited-data/zsre.json, tr"):
        list(gathering.Gatherer(tmp_path, TASKS, EDIT_SETS).gather(sets))
    err = caplog.messages
    assert len(err) == 3
    assert "gone.zip: the server answers 404" in err[0]
    assert "archive.zip is not a readable zip archive" in err[0]
    assert "zsre.json: is not the file expected, sha256:" in err[1]
    assert "zsre_mend_eval.json: cannot be fetched" in err[2]
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {"SOURCES.json", "task-data/test-OpenDomainQA.jsonl", "training-data/zsre_mend_train.json"}


def test_a_malformed_file_is_not_moved_into_place(
    server: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = b'{"question": "q"}\n'
    server.plain["test-OpenDomainQA.jsonl"] = bad
    url, pin = f"{server.url}/test-OpenDomainQA.jsonl", "sha256:" + hashlib.sha256(bad).hexdigest()
    dataset = DataSet("OpenDomainQA", "task-data/test-OpenDomainQA.jsonl", 1, Web((url,), pin))
    with pytest.raises(UserError, match="1 of 1 are missing"):
        list(gathering.Gatherer(tmp_path, TASKS, EDIT_SETS).gather([dataset]))
    assert "expected the key" in caplog.text
    assert not (tmp_path / dataset.file).exists()


def test_only() -> None:
    assert [dataset.file for dataset in gathering.chosen(SETS, ["ZsRE", "NER"])] == [
        "task-data/test-NER.txt",
        "edited-data/zsre.json",
        "training-data/zsre_mend_train.json",
        "training-data/zsre_mend_eval.json",
    ]
    assert gathering.chosen(SETS, []) == list(SETS)
    with pytest.raises(UserError, match="--only ner: expected names among reasoning, NLI"):
        gathering.chosen(SETS, ["ner"])


def test_download(server: FakeHub, tmp_path: Path) -> None:
    server.plain["f"] = b"content"
    download(f"{server.url}/f", tmp_path / "new/f", "git:" + hashlib.sha1(b"blob 7\0content").hexdigest()[:8])
    assert (tmp_path / "new/f").read_bytes() == b"content"
    assert not fits(tmp_path / "new/f", "sha256:" + "0" * 64)
    for url, message in (
        (f"{server.url}/none", "the server answers 404"),
        ("http://127.0.0.1:9/f", "cannot be fetched"),
        ("no url", "cannot be fetched"),
    ):
        with pytest.raises(UserError, match=message) as error:
            download(url, tmp_path / "g")
        assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def hub_repositories(folder: Path) -> dict[str, Remote]:
    """The table's repositories, holding the rows written above in the layouts they have on the hub."""

    def content(name: str) -> bytes:
        return parquet(WRITTEN[name][0], folder / f"{name}.parquet").read_bytes()

    def card(configs: dict[str, str]) -> bytes:
        lines = [
            f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}/{split}-*"
            for name, split in configs.items()
        ]
        return ("---\nconfigs:\n" + "\n".join(lines) + "\n---\n# A card\n").encode()

    part = "00000-of-00001.parquet"
    chats = "id,dialogue,summary\n" + '13-1,"A: Hé\r\nB: Hi",They greet.\n'
    return {
        "openai/gsm8k": Remote({"README.md": card({"main": "test"}), f"main/test-{part}": content("reasoning")}),
        "nyu-mll/glue": Remote(
            {
                "README.md": card({"rte": "train", "sst2": "validation"}),
                f"rte/train-{part}": content("NLI"),
                f"sst2/validation-{part}": content("SentimentAnalysis"),
            }
        ),
        "google/boolq": Remote({f"data/validation-{part}": content("ClosedDomainQA")}),
        "knkarthick/samsum": Remote({"README.md": b"# No configurations\n", "test.csv": chats.encode()}),
        "lhoestq/conll2003": Remote({f"data/validation-{part}": content("NER")}),
    }


def test_as_a_command_against_a_hub(server: FakeHub, tmp_path: Path) -> None:
    """datasets.load_dataset over the hub's API; what needs the rest of the web is missing, which exit code 2 says."""
    server.datasets = hub_repositories(tmp_path)
    environment = {
        **os.environ,
        **{"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        **{
            "https_proxy": "http://127.0.0.1:9",
            "no_proxy": "127.0.0.1,localhost",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        },
    }
    command = [sys.executable, "prepare.py", "data", "--only", *WRITTEN, "OpenDomainQA"]
    run = subprocess.run(
        command, cwd=project(tmp_path), env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 2, run.stdout + run.stderr
    error = run.stderr.splitlines()
    assert error[-1].startswith("error: 1 of 7 are missing: task-data/test-OpenDomainQA.jsonl; run this again"), error
    assert len(error) == 2, run.stderr
    assert error[0].startswith(f"OpenDomainQA: {official.RAW}/task-data/test-OpenDomainQA.jsonl: cannot be fetched")
    notes = json.loads((tmp_path / "data/SOURCES.json").read_text(encoding="utf-8"))
    for name, (_, text) in WRITTEN.items():
        path = tmp_path / "data/task-data" / TASKS[name].file
        assert path.read_bytes().decode("utf-8") == text, name
        note = notes[f"task-data/{TASKS[name].file}"]
        source = source_of(name)
        assert note["origin"] == f"{server.url}/datasets/{source.repo}"
        assert note["revision"] == server.datasets[source.repo].commit
        assert (note["config"], note["split"]) == (source.config, source.split)
        assert note["sha256"] == sha256(path)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["SOURCES.json", "task-data"]


def test_a_data_set_that_is_gone(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(UserError, match="no dataset 'openai/gsm8k' at"):
        gathering.from_hub(source_of("reasoning"), tmp_path / "f")


def test_facts_that_others_edit(server: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only where they are named; a file of no edit set's name is recognised; what is no edit is told of and kept."""
    names = [dataset.name for dataset in FACTS]
    assert not {*names} & {dataset.name for dataset in SETS} and len({*names}) == len(names)
    found = gathering.chosen(SETS, ["counterfact", "multi_counterfact"], FACTS)
    assert [(one.file, one.n) for one in found] == [
        ("edited-data/counterfact.json", 21919),
        ("edited-data/multi_counterfact.json", 20877),
    ]
    assert gathering.chosen(SETS, [], FACTS) == list(SETS)
    for dataset in FACTS:
        assert isinstance(dataset.source, Web) and all(url.startswith("https://") for url in dataset.source.urls)
    good = (SAMPLE / "edited-data/counterfact.json").read_bytes()
    records = json.loads(good)[:3]
    records[2]["requested_rewrite"]["target_new"]["str"] = " "
    server.plain["counterfact.json"], server.plain["multi.json"] = good, json.dumps(records).encode()
    sources = (
        Web((f"{server.url}/counterfact.json",), None, noted=hashlib.sha256(good).hexdigest()),
        Web((f"{server.url}/gone.json", f"{server.url}/multi.json"), None, noted="0" * 64),
    )
    sets = [replace(one, source=source) for one, source in zip(found, sources, strict=True)]
    lines = list(gathering.Gatherer(tmp_path, TASKS, EDIT_SETS).gather(sets))
    assert "counterfact.json: 200 records" in lines[0] and "multi_counterfact.json: 3 records" in lines[1]
    told = caplog.messages
    assert len(told) == 2
    assert "record 2: expected a new answer in 'requested_rewrite.target_new.str', it is empty: no run can" in told[0]
    assert "multi_counterfact.json: its SHA-256 is not 0000" in told[1]
    notes = json.loads((tmp_path / "SOURCES.json").read_text(encoding="utf-8"))
    assert notes["edited-data/multi_counterfact.json"]["n"] == 3
    server.plain["counterfact.json"] = b'[{"requested_rewrite": {}}]'
    with pytest.raises(UserError, match="1 of 1 are missing"):
        list(gathering.Gatherer(tmp_path / "other", TASKS, EDIT_SETS).gather(sets[:1]))
    assert "record 0: expected the key 'requested_rewrite.prompt'" in caplog.text
