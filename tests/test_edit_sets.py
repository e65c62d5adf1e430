"""Edit sets: which records are edits, in ranges and drawn; what every format promises; zsRE as it is released."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from conftest import ROOT

from core import readers
from core.errors import UserError
from core.registry import discover
from core.subject import place
from core.types import Edit
from edit_sets._select import Selecting
from edit_sets.zsre import EDIT_SET

OFFICIAL = ROOT.parent / "shared/realdata/data"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"the official data is not at {OFFICIAL}")
EDIT_SETS = discover("edit_sets", "EDIT_SET")

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


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def zsre(folder: Path, *changes: dict[str, Any]) -> Path:
    return write(folder / "zsre.json", [{**RECORD, **change} for change in changes])


def test_edits(tmp_path: Path) -> None:
    path = zsre(tmp_path, {}, {"alt": "Byron"}, {"rephrase": None, "loc": None}, {}, {})
    first, third = EDIT_SET.edits(path, 1, 5, 2)
    assert (first.prompt, first.subject, first.target, first.old) == (
        "Who taught Ada Lovelace?",
        "Ada Lovelace",
        "Byron",
        "Babbage",
    )
    assert (first.rephrase, first.locality, first.locality_answer) == (
        "By whom was Ada Lovelace taught?",
        "nq question: who wrote emma",
        "Jane Austen",
    )
    assert (first.index, third.index) == (1, 3)
    assert EDIT_SET.edits(path, 2, 3, 1)[0].rephrase is None
    assert [edit.index for edit in EDIT_SET.edits(path, 0, 5, 9)] == [0]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0, 1, 0), "SAMPLE_STEP: expected 1 or more, got 0"),
        ((-1, 1, 1), "SAMPLE_BEGIN: expected 0 or more, got -1"),
        ((2, 1, 1), "swapped or empty range: SAMPLE_BEGIN 2 is not below SAMPLE_END 1"),
        ((1, 1, 1), "swapped or empty range"),
        ((0, 4, 1), "zsre.json: has 3 records, SAMPLE_END can be 3 at most, got 4"),
    ],
)
def test_ranges(tmp_path: Path, bounds: tuple[int, int, int], message: str) -> None:
    path = zsre(tmp_path, {}, {}, {})
    with pytest.raises(UserError) as caught:
        EDIT_SET.edits(path, *bounds)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alt": " "}, "record 1: expected a new answer in 'alt', it is empty"),
        ({"subject": "Byron"}, "record 1: expected the subject 'Byron' in 'src' 'Who taught Ada Lovelace?'"),
        ({"subject": ""}, "record 1: expected the subject '' in 'src'"),
        ({"src": 3}, "record 1: expected a string in 'src', got 3"),
        ({"loc": ["x"]}, "record 1: expected a string in 'loc', got ['x']"),
    ],
)
def test_malformed_edits(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = zsre(tmp_path, {}, change)
    with pytest.raises(UserError) as caught:
        EDIT_SET.edits(path, 0, 2, 1)
    assert f"{path}: {message}" in str(caught.value)


def test_a_missing_key(tmp_path: Path) -> None:
    path = write(tmp_path / "zsre.json", [{key: value for key, value in RECORD.items() if key != "alt"}])
    with pytest.raises(UserError, match="record 0: expected the key 'alt'"):
        EDIT_SET.edits(path, 0, 1, 1)


def test_the_old_answer_may_be_missing(tmp_path: Path) -> None:
    """Only KN and tracing read it; KN says so (test_kn.py)."""
    path = write(tmp_path / "zsre.json", [{key: value for key, value in RECORD.items() if key != "pred"}])
    assert EDIT_SET.edits(path, 0, 1, 1)[0].old == ""


def test_white_space_around_subject_and_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = zsre(
        tmp_path,
        *({"alt": "French "}, {"alt": "French\r\n", "pred": "x\n"}, {"subject": "Ada Lovelace "}, {"alt": " French"}),
        {"alt": "  \tFrench"},
    )
    edits = EDIT_SET.edits(path, 0, 5, 1)
    assert [edit.target for edit in edits] == ["French", "French", "Somerville", " French", " French"]
    assert edits[1].old == "x" and edits[2].subject == "Ada Lovelace"
    (notice,) = caplog.messages
    assert notice.startswith(f"{path}: record 0, 1, 2, 4: white space around subject or answer is left out")
    assert {edit.target for edit in EDIT_SET.training(path)} == {"French", "Somerville", " French"}
    caplog.clear()
    assert EDIT_SET.edits(path, 3, 4, 1, draw=1)[0].index in (3, 4)
    assert EDIT_SET.edits(path, 3, 4, 1)[0].target == " French"  # one blank is in the data as released
    assert len(caplog.messages) <= 1


def test_a_subject_in_another_unicode_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nfc, nfd = (normalize(form, "José Édu") for form in ("NFC", "NFD"))
    assert nfc != nfd
    path = zsre(tmp_path, {"subject": nfd, "src": f"Who is {nfc}?"}, {"subject": nfc, "src": f"Who is {nfd}?"})
    assert [edit.subject for edit in EDIT_SET.edits(path, 0, 2, 1)] == [nfc, nfd]
    assert "record 0, 1: " in caplog.text
    path = zsre(tmp_path, {"subject": nfc, "src": f"Who is {nfc[:4]}{nfd[5:]}?"})
    with pytest.raises(UserError, match=r"another Unicode form, write both in one \(NFC\)"):
        EDIT_SET.edits(path, 0, 1, 1)


def test_a_subject_inside_another_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = zsre(
        tmp_path, {"subject": "Niger", "src": "Is Niger in Nigeria?"}, {"subject": "It", "src": "Is Italy big?"}
    )
    EDIT_SET.edits(path, 0, 2, 1)
    (notice,) = caplog.messages
    assert notice == f"{path}: record 1: the subject is only a part of a word of its prompt"


@pytest.mark.parametrize(
    ("prompt", "subject", "at"),
    [
        ("Is Niger in Nigeria?", "Niger", 3),
        ("Is Nigeria in Niger?", "Niger", 14),
        ("Is Italy big?", "It", 3),
        ("Is Ann in Ann Arbor?", "Ann", 10),
        ("Ann's, or Joann's", "Ann", 0),
        ("Route 66 or 666", "66", 6),
        ("Jose or Jose\u0301", "Jose", 0),
        ("北京在北京市", "北京", 3),
        ("aaa", "aa", 1),
        ("none", "", -1),
        ("none", "x", -1),
    ],
)
def test_the_place_of_a_subject(prompt: str, subject: str, at: int) -> None:
    assert place(prompt, subject) == at


def test_training_skips_empty_targets_and_lets_a_subject_be_missing(tmp_path: Path) -> None:
    path = zsre(tmp_path, {}, {"alt": ""}, {"subject": "Byron"})
    assert [(edit.index, edit.subject) for edit in EDIT_SET.training(path)] == [(0, "Ada Lovelace"), (2, "Byron")]
    with pytest.raises(UserError, match="found none"):
        EDIT_SET.training(zsre(tmp_path, {"alt": " "}))


# --- what every format promises ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EDIT_SETS)
def test_an_edit_set_reads_its_files_of_the_sample(name: str) -> None:
    edit_set = EDIT_SETS[name]
    assert edit_set.name == name
    records = edit_set.records(ROOT / "data/sample" / edit_set.file)
    assert [edit.index for edit in records] == list(range(len(records)))
    assert edit_set.edits(ROOT / "data/sample" / edit_set.file, 0, len(records), 1) == records
    for file in edit_set.training_files:
        assert all(edit.target.strip() for edit in edit_set.training(ROOT / "data/sample" / file))
    assert {"prompt", "subject", "target"} <= edit_set.keys.keys()


class Lines(Selecting):
    """Another format, with other words: a JSON object a line."""

    name, file = "lines", "edited-data/lines.jsonl"
    keys: Mapping[str, str] = {"prompt": "question", "subject": "about", "target": "new", "old": "old"}

    def records(self, path: Path) -> list[Edit]:
        return [self.edit(record, i, where) for i, (where, record) in enumerate(readers.jsonl(path))]


def test_a_new_format_is_one_short_class(tmp_path: Path) -> None:
    """It gets ranges, draws and training, and errors in its own words."""
    records = [{"question": f"Where is {n}?", "about": n, "new": "Rome", "old": "Paris"} for n in "abcd"]
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    lines = Lines()
    assert [edit.subject for edit in lines.edits(path, 1, 4, 2)] == ["b", "d"]
    assert lines.edits(path, 0, 3, 1, draw=1) == lines.edits(path, 0, 4, 1, draw=1)[:3]
    assert lines.training(path)[3] == Edit("Where is d?", "d", "Rome", "Paris", index=3)
    for change, message in (
        ({"about": "z"}, "record 0: expected the subject 'z' in 'question' 'Where is a?'"),
        ({"new": ""}, "record 0: expected a new answer in 'new', it is empty"),
        ({"old": 3}, "lines.jsonl:1: expected a string in 'old', got 3"),
    ):
        path.write_text(json.dumps({**records[0], **change}), encoding="utf-8")
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            lines.edits(path, 0, 1, 1)


@needs_official
def test_official_edits_and_training_records() -> None:
    edits = EDIT_SET.edits(OFFICIAL / "edited-data/zsre.json", 0, 1037, 1)
    assert len(edits) == 1037
    assert edits[200].index == 200
    assert all(edit.rephrase and edit.locality and edit.locality_answer for edit in edits)
    assert len(EDIT_SET.training(OFFICIAL / "training-data/zsre_mend_train.json")) == 8969
    assert len(EDIT_SET.training(OFFICIAL / "training-data/zsre_mend_eval.json")) == 996
