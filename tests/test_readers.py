"""core.readers: every reader on small files, on malformed ones, and on the official files where they are."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import readers
from core.disk.digest import sha256
from core.errors import UserError
from core.types import Sample
from edit_sets.zsre import EDIT_SET
from inputs import check

OFFICIAL = Path(__file__).parents[2] / "shared" / "realdata" / "data"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"the official data is not at {OFFICIAL}")

RECORD = {
    "subject": "Ada Lovelace",
    "src": "Who taught Ada Lovelace?",
    "pred": "Babbage",
    "rephrase": "By whom was Ada Lovelace taught?",
    "alt": "Somerville",
    "answers": ["De Morgan"],
    "loc": "nq question: who wrote emma",
    "loc_ans": "Jane Austen",
    "cond": "x",
}


def write(path: Path, content: str | bytes | Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zsre(folder: Path, *changes: dict[str, Any]) -> Path:
    return write(folder / "zsre.json", [{**RECORD, **change} for change in changes])


# --- readers -------------------------------------------------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\ufeff{"a": 1}\r\n\r\n{"a": "x\u2028y"}\n')
    assert list(readers.jsonl(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": "x\u2028y"})]


def test_json_list(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"a": 1}, {}])
    assert list(readers.json_list(path)) == [(f"{path}: record 0", {"a": 1}), (f"{path}: record 1", {})]


def test_tsv_is_not_quoted_and_may_have_more_columns_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'label\tmore\tsentence\n1\t\t"it \'s fine \n0\t-\tbad "\n')
    rows = [row for _, row in readers.tsv(path, ["sentence", "label"])]
    assert rows == [
        {"sentence": "\"it 's fine ", "label": "1", "more": ""},
        {"sentence": 'bad "', "label": "0", "more": "-"},
    ]


def test_conll(tmp_path: Path) -> None:
    text = (
        "-DOCSTART- -X- -X- O\n\n\nAda X X B-PER\nLovelace X X I-PER\nsmiled X X O\n"
        "-DOCSTART- -X- -X- O\nParis X X B-LOC\nRome X X B-LOC"
    )
    path = write(tmp_path / "a.txt", text)
    assert list(readers.conll(path, ["PER", "LOC"])) == [
        (f"{path}:4", ["Ada", "Lovelace", "smiled"], ["B-PER", "I-PER", "O"]),
        (f"{path}:8", ["Paris", "Rome"], ["B-LOC", "B-LOC"]),
    ]


def test_dialogues_come_in_numeric_order_as_json_or_python(tmp_path: Path) -> None:
    write(tmp_path / "dev_10.txt", "{'article': \"m : it 's me\", 'id': None}\n")
    write(tmp_path / "dev_9.txt", '{"article": "x", "id": null}')
    write(tmp_path / "notes.txt", "ignored")
    assert [(path.name, record["article"]) for path, record in readers.dialogues(tmp_path)] == [
        ("dev_9.txt", "x"),
        ("dev_10.txt", "m : it 's me"),
    ]


def test_a_dialogue_is_never_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write(tmp_path / "dev_1.txt", f"{{'article': open({str(mark)!r}, 'w')}}")
    with pytest.raises(UserError, match="Python literal"):
        list(readers.dialogues(tmp_path))
    assert not mark.exists()


def all_of(read: Callable[[Path], Iterator[Any]]) -> Callable[[Path], list[Any]]:
    return lambda path: list(read(path))


JSONL = all_of(readers.jsonl)
JSON = all_of(readers.json_list)
TSV = all_of(lambda path: readers.tsv(path, ["sentence", "label"]))
CONLL = all_of(lambda path: readers.conll(path, ["PER"]))


@pytest.mark.parametrize("read", [JSONL, JSON, TSV, CONLL, EDIT_SET.records, EDIT_SET.training])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "{path}: no such file"),
        ("", "{path}: expected records, the file is empty"),
        (" \n\n", "{path}: expected records, the file is empty"),
        (b"ok\n\xff\xfe\n", "{path}:2: expected UTF-8 text"),
    ],
)
def test_unreadable_files(tmp_path: Path, read: Callable[[Path], Any], content: Any, message: str) -> None:
    path = tmp_path / "file" if content is None else write(tmp_path / "file", content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value) == message.format(path=path)


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        readers.read_text(tmp_path)


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (JSONL, '{"a": 1}\n{"a": \n', "{path}:2: expected JSON (Expecting value at column 7)"),
        (JSONL, '{"a": 1}\n[1]\n', "{path}:2: expected an object with keys, got [1]"),
        (JSONL, "[" * 100_000, "{path}:1: expected JSON ("),
        (JSON, '[\n{"a": 1},\n{"a" 2}]', "{path}:3: expected JSON (Expecting ':' delimiter at column 6)"),
        (JSON, "{}", "{path}: expected a list of records, got {{}}"),
        (JSON, "[]", "{path}: expected a list of records, got []"),
        (JSON, '[{"a": 1}, 3]', "{path}: record 1: expected an object with keys, got 3"),
        (TSV, "sentence\nfine\n", "{path}:1: expected a header with column 'label', got 'sentence'"),
        (TSV, "fine\t1\n", "{path}:1: expected a header with column 'sentence', got 'fine\\t1'"),
        (TSV, "sentence\tlabel\nfine\t1\nbad\n", "{path}:3: expected 2 tab-separated columns, got 1"),
        (TSV, "sentence\tlabel\na\tb\t1\n", "{path}:2: expected 2 tab-separated columns, got 3"),
        (TSV, "sentence\tlabel\n\n", "{path}: expected records below the header"),
        (CONLL, "Ada X B-PER\n", "{path}:1: expected 4 columns (token, part of speech, chunk, entity), got 3"),
        (CONLL, "\nAda X X B-XYZ\n", "{path}:2: expected the entity tag O, B-X or I-X with X in PER, got 'B-XYZ'"),
        (CONLL, "Ada X X E-PER\n", "{path}:1: expected the entity tag"),
        (CONLL, "Ada X X PER\n", "{path}:1: expected the entity tag"),
        (
            CONLL,
            "a X X O\nAda X X I-PER\n",
            "{path}:2: expected IOB2, where I-PER follows B-PER or I-PER, got it after O",
        ),
        (CONLL, "a X X B-PER\n\nb X X I-PER\n", "{path}:3: expected IOB2"),
        (CONLL, "-DOCSTART- -X- -X- O\n\n", "{path}: expected sentences, found none"),
    ],
)
def test_malformed_files(tmp_path: Path, read: Callable[[Path], Any], content: str, message: str) -> None:
    path = write(tmp_path / "file", content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["{'a': 1", "{'a': f()}", "{" * 5000, "{**{}}", "{[]: 1}", "-" * 50_000 + "1", "\0"],
)
def test_malformed_dialogues(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "dev_1.txt", content)
    with pytest.raises(UserError) as caught:
        list(readers.dialogues(tmp_path))
    assert str(caught.value).startswith(f"{path}: expected one dict as JSON or as a Python literal")


def test_dialogue_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        list(readers.dialogues(tmp_path / "none"))
    with pytest.raises(UserError, match=r"expected files dev_<i>.txt, found none"):
        list(readers.dialogues(tmp_path))
    path = write(tmp_path / "dev_1.txt", "['a']")
    with pytest.raises(UserError, match=r"dev_1.txt: expected an object with keys"):
        list(readers.dialogues(tmp_path))
    write(path, "'" + "x" * readers.LITERAL_LIMIT + "'")
    with pytest.raises(UserError, match=r"dev_1.txt: expected at most 100000 characters"):
        list(readers.dialogues(tmp_path))


# --- one field of a record -----------------------------------------------------------------------------------------


def test_field() -> None:
    assert readers.field({"a": False}, "a", bool, "f:1") is False
    for record, message in [
        ({}, "f:1: expected the key 'a'"),
        ({"a": "yes"}, "f:1: expected true or false in 'a', got 'yes'"),
        ({"a": 1}, "f:1: expected true or false in 'a', got 1"),
        ({"a": ["x" * 99]}, f"f:1: expected true or false in 'a', got ['{'x' * 55}..."),
    ]:
        with pytest.raises(UserError) as caught:
            readers.field(record, "a", bool, "f:1")
        assert str(caught.value) == message


def test_strings() -> None:
    assert readers.strings({"a": ["x"]}, "a", "f:1") == ["x"]
    assert readers.strings({"a": ["x", "y"]}, "a", "f:1", count=2) == ["x", "y"]
    for value in ([], [1], ["x", None]):
        with pytest.raises(UserError, match="f:1: expected a list of one or more strings in 'a', got"):
            readers.strings({"a": value}, "a", "f:1")
    with pytest.raises(UserError, match="f:1: expected a list of 4 strings in 'a', got"):
        readers.strings({"a": ["x"]}, "a", "f:1", count=4)


def test_label_and_id() -> None:
    assert readers.label("1", {"1": "positive"}, "f:1") == "positive"
    with pytest.raises(UserError, match="f:2: expected a label among 0, 1, got '2'"):
        readers.label("2", {"0": "n", "1": "p"}, "f:2")
    seen: set[str] = set()
    assert readers.sample_id("a/b", seen, "f:1") == "a_b"
    for value in ("a/b", ""):
        with pytest.raises(UserError, match="f:2: expected an id of its own"):
            readers.sample_id(value, seen, "f:2")


# --- digests and the whole folder ----------------------------------------------------------------------------------


def test_sha256(tmp_path: Path) -> None:
    file = write(tmp_path / "a", "abc")
    assert sha256(file) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(UserError, match="no such file or folder"):
        sha256(tmp_path / "none")


def test_sha256_of_a_folder_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    names = ("dev_2.txt", "dev_10.txt")
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, order in ((one, names), (two, names[::-1])):
        for name in order:
            write(folder / name, name)
    write(two / ".DS_Store", "x")
    assert sha256(one) == sha256(two)
    write(two / "dev_2.txt", "else")
    assert sha256(one) != sha256(two)
    (one / "dev_2.txt").rename(one / "dev_3.txt")
    assert sha256(one) != sha256(two)


class Lines:
    """A task of one sample a line, two samples a group."""

    name, file, max_new_tokens, choices = "Lines", "test-Lines.txt", 1, ()

    def samples(self, data_: Path) -> Iterator[Sample]:
        for index, (_, line) in enumerate(readers.lines(data_)):
            yield Sample(f"{index // 2}/{index}", line, "")


def test_check(tmp_path: Path) -> None:
    zsre(tmp_path / "edited-data", {}, {})
    train = zsre(tmp_path, {}, {"alt": ""})
    for name in ("train", "eval"):
        write(tmp_path / f"training-data/zsre_mend_{name}.json", train.read_bytes())
    write(tmp_path / "task-data/test-Lines.txt", "a\nb\nc")
    assert list(check.check(tmp_path, [Lines()], [EDIT_SET])) == [  # type: ignore[list-item]
        "zsre.json: 2 records ok",
        "zsre_mend_train.json: 1 records ok, 1 without a target skipped",
        "zsre_mend_eval.json: 1 records ok, 1 without a target skipped",
        "test-Lines.txt: 2 records ok",
    ]
    (tmp_path / "task-data/test-Lines.txt").unlink()
    assert list(check.check(tmp_path, [Lines()], [EDIT_SET]))[3:] == ["test-Lines.txt: absent"]  # type: ignore[list-item]
