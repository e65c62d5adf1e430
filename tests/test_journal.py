"""experiment.stopped.journal: completions that outlive the run that made them."""

import json
from pathlib import Path

import pytest

from core.errors import UserError
from core.types import Completion
from experiment.stopped.journal import Journal

MADE = {
    3: Completion("a\nb\u2028", "yes", False),
    0: Completion("", None, True, False),
    12: Completion("é", None, False, ended=True, full="é</s>"),
}


def written(file: Path, key: str = "key") -> bytes:
    journal = Journal(file, key)
    journal.update(MADE)
    journal.stream.close()
    return file.read_bytes()


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    written(tmp_path / "new/folder/j")
    assert dict(Journal(tmp_path / "new/folder/j", "key")) == MADE


def test_lines_of_older_versions_are_read(tmp_path: Path) -> None:
    """They do not say how a completion ended."""
    (tmp_path / "j").write_text('"key"\n[3, " a", "yes", false, true]\n')
    assert dict(Journal(tmp_path / "j", "key")) == {3: Completion(" a", "yes")}


def test_another_key_starts_anew(tmp_path: Path) -> None:
    file = tmp_path / "j"
    written(file)
    other = Journal(file, "other")
    assert dict(other) == {}
    other[5] = Completion("x", None, False)
    other.stream.close()
    assert dict(Journal(file, "other")) == {5: Completion("x", None, False)}
    assert dict(Journal(file, "key")) == {}


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """A kill may tear the file anywhere: whole lines stay, and the next completion follows them."""
    file = tmp_path / "j"
    whole = written(file)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        journal = Journal(file, "key")
        kept = max(0, sum(end <= length for end in ends) - 1)
        assert dict(journal) == dict(list(MADE.items())[:kept])
        journal[7] = Completion("next", None, False)
        journal.stream.close()
        assert dict(Journal(file, "key")) == {**dict(list(MADE.items())[:kept]), 7: Completion("next", None, False)}


@pytest.mark.parametrize(
    "line", [b"garbage\n", b"[]\n", b"[1]\n", b"7\n", b'{"a": 1}\n', b"\xff\xfe\n", b"[[], 1, 2, 3]\n"]
)
def test_a_line_that_is_none_ends_it(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "j"
    whole = written(file)
    end = whole.index(b"\n", whole.index(b"\n") + 1) + 1  # of the first completion
    file.write_bytes(whole[:end] + line + whole[end:])
    assert dict(Journal(file, "key")) == {3: MADE[3]}
    assert file.read_bytes() == whole[:end]


def test_removed_when_the_result_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "key")
    journal[0] = MADE[0]
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_lines_are_on_the_disk_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "key")
    for number in range(3):
        journal[number] = MADE[0]
        assert len((tmp_path / "j").read_bytes().splitlines()) == number + 2
    assert json.loads((tmp_path / "j").read_bytes().splitlines()[0]) == "key"


def test_no_room(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*/file/j: File exists; --results DIR names another place"):
        Journal(tmp_path / "file/j", "key")
    journal = Journal(tmp_path / "j", "key")
    journal.stream = Path("/dev/full").open("ab+")  # noqa: SIM115
    with pytest.raises(UserError, match="No space left on device"):
        journal[0] = MADE[0]
