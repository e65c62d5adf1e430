"""AlphaEdit's pickled data as JSON, without running what a pickle may ask to be run."""

import io
import json
import pickle
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from core.messages import short

EXAMPLES, TESTS = 10, 100
"""Rows that are kept for examples there, and those behind them that are asked about."""


class Plain(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; refuses every name of a class or function, so that nothing is called."""

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(
            f"expected a pickle of lists, dicts, texts and numbers, it asks for {short(f'{module}.{name}')}"
        )


def plain(content: bytes) -> Any:
    """What is pickled. UserError if that is damaged or anything else than plain data."""
    try:
        return Plain(io.BytesIO(content)).load()
    except UserError:
        raise
    except Exception as error:  # of a damaged pickle it may be almost any
        raise UserError(
            f"expected a pickle, it cannot be read ({short(f'{type(error).__name__}: {error}')})"
        ) from error


@dataclass(frozen=True, slots=True)
class GluePickle:
    """Of a pickled list of records the `TESTS` behind the first `EXAMPLES`, these keys of each: one JSON object a line.

    UserError for what is none; the values are the task's own reader's business.
    """

    keys: tuple[str, ...]

    def __call__(self, content: bytes) -> str:
        records = plain(content)
        if not isinstance(records, list) or len(records) < EXAMPLES + TESTS:
            size = f"one of {len(records)}" if isinstance(records, list) else short(records)
            raise UserError(f"expected a pickled list of at least {EXAMPLES + TESTS} records, got {size}")
        return "".join(self._line(i, records[i]) for i in range(EXAMPLES, EXAMPLES + TESTS))

    def _line(self, index: int, record: Any) -> str:
        if not isinstance(record, dict):
            raise UserError(f"record {index}: expected an object with keys, got {short(record)}")
        if missing := [key for key in self.keys if key not in record]:
            raise UserError(f"record {index}: expected the key {missing[0]!r}")
        values = {key: record[key] for key in self.keys}
        if bad := [key for key, value in values.items() if not _plain(value)]:
            raise UserError(f"record {index}: expected a text, a number or a list of texts in {bad[0]!r}")
        return json.dumps(values) + "\n"


def _plain(value: Any) -> bool:
    """As JSON holds it, and not something that holds itself or grows without end."""
    number = isinstance(value, int) and abs(value) < 1 << 63
    return (
        number
        or isinstance(value, str)
        or (isinstance(value, list) and len(value) <= 100 and all(isinstance(one, str) for one in value))
    )
