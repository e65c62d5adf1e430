"""Completions already made, a line each, so that a long evaluation goes on where it was stopped."""

import json
from collections import UserDict
from dataclasses import astuple
from pathlib import Path

from core.errors import UserError
from core.types import Completion


class Journal(UserDict[int, Completion]):
    """Index of a sample -> its completion, kept in `file` as it grows.

    The first line holds `key`; a file with another key, from a run with other settings or other code, is started anew.
    A last line that a kill has torn is cut off: the file grows by lines, so it is not written as a whole.
    """

    def __init__(self, file: Path, key: str) -> None:
        super().__init__()
        self.file = file
        head = json.dumps(key).encode() + b"\n"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.stream = file.open("ab+")
            self.stream.seek(0)
            if self.stream.readline() == head:
                self.stream.truncate(self._read(len(head)))
            else:
                self.stream.truncate(0)
                self._append(head)
        except OSError as error:
            raise self._unwritable(error) from error

    def __setitem__(self, index: int, completion: Completion) -> None:
        super().__setitem__(index, completion)
        try:
            self._append(json.dumps([index, *astuple(completion)]).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def remove(self) -> None:
        """The result is written: nothing to go on with."""
        self.stream.close()
        self.file.unlink(missing_ok=True)

    def _read(self, end: int) -> int:
        """Take in the lines; returns where the last whole one ends."""
        for line in self.stream:
            try:
                index, *parts = json.loads(line)
                completion = Completion(*parts)
            except (ValueError, TypeError):
                break
            if not isinstance(index, int) or not line.endswith(b"\n"):
                break
            self.data[index] = completion
            end += len(line)
        return end

    def _append(self, line: bytes) -> None:
        self.stream.write(line)
        self.stream.flush()

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.file}: {error.strerror}; --results DIR names another place")
