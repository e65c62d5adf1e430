"""What the property tests throw at readers and scorers, and how many times.

HOSTILE_CASES is the number of cases in total: 2,000 unless the environment says otherwise. The standing number is the
same cases every time; a larger one draws new ones at each run and prints how to repeat a failing one.
"""

import functools
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import UserError

STANDING = 2_000
TOTAL = int(os.environ.get("HOSTILE_CASES", STANDING))
PROPERTIES = 63
"""Property tests there are (test_hostile_data.py counts them). One is left out where the embedded model is not."""
CASES = -(-TOTAL // (PROPERTIES - 1))
SECONDS = 20

SETTINGS = settings(
    max_examples=CASES,
    derandomize=TOTAL == STANDING,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

NASTY = (
    *("", "\0", "\ufeff", "\u2028", "\x85", "\r", "\t", "\n\n", " \u00a0\u3000", "\x1b[2J", "\U0001f600", "e\u0301"),
    *("\ud800", "\udfff", "\\ud800", '"\\ud83d"', "'\\ud800'", "\\u0000", "NaN", "-Infinity", "1e999", "null", "{}"),
    *(
        "[" * 20_000,
        '{"a":' * 20_000,
        "(" * 3000,
        "-" * 5_000 + "1",
        "1+" * 9_000 + "1",
        "9" * 5000,
        "0x" + "f" * 6000,
    ),
    *("x" * 50_000, "1," * 5_000, "word " * 1000, "'" * 999, '{"a": 1, "a": 2}', "{'a': open('x', 'w')}", "{1: {2}}"),
    *("<|im_end|>", "<|endoftext|>", "</s>", "<s>", "<unk>", "[INST]", "../../escape", "/etc/passwd", "C:\\x", "~"),
    *("-DOCSTART- -X- -X- O", "a X X B-PER", "b X X I-LOC", "#### 12", "yes", "TRUE.", "(A)", "٣", "²", "1,000.5.7"),
)
texts = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(), max_size=40), st.lists(st.sampled_from(NASTY[:30])).map("".join)
)
"""Any text: lone surrogates, control characters, special tokens, kilobytes."""
clean = texts.map(lambda text: text.encode(errors="ignore").decode())
"""As a tokenizer decodes it: never half of a character."""
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.just(10**4000))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def written(value: Any) -> bytes:
    """As JSON, which escapes what UTF-8 cannot hold."""
    return json.dumps(value).encode()


def put(folder: Path, name: str, content: bytes) -> Path:
    """Write a file, its folders too."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files(valid: bytes, *more: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Contents of a file: any bytes, any text, `valid` with a piece of it replaced, and `more`."""
    junk = st.binary(max_size=60) | texts.map(lambda text: text.encode(errors="surrogatepass"))
    places = st.tuples(st.integers(0, len(valid)), st.integers(0, 30), junk)
    spliced = places.map(lambda p: valid[: p[0]] + p[2] + valid[p[0] + p[1] :])
    return st.one_of(junk, spliced, spliced, *more)


def records(*good: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of `good` records, of such with a value replaced or a key missing, and of anything."""
    keys = st.sampled_from(sorted({key for record in good for key in record}))
    one = st.sampled_from(good)
    changed = st.builds(
        lambda record, key, value: {**record, key: value}, one, keys, values | st.lists(texts, max_size=4)
    )
    poorer = st.builds(lambda record, key: {k: v for k, v in record.items() if k != key}, one, keys)
    return st.lists(st.one_of(one, changed, changed, poorer, values), min_size=1, max_size=4)


@contextmanager
def soon() -> Iterator[None]:
    """TimeoutError if the block takes longer than SECONDS: nothing may hang."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def hostile(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a property test of CASES cases; that as many were run is checked."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        ran: list[int] = []

        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> None:
            ran.append(1)
            with soon():
                test(*args, **kwargs)

        run = SETTINGS(given(**strategies)(counted))

        @functools.wraps(run)
        def checked(*args: Any, **kwargs: Any) -> None:
            ran.clear()
            run(*args, **kwargs)
            assert len(ran) >= CASES, f"{len(ran)} cases, expected {CASES}"

        checked.hostile = True  # type: ignore[attr-defined]
        return checked

    return decorate


def read_or_refused(read: Callable[[], Iterable[Any] | None], *names: Path) -> list[Any] | None:
    """What is read, if it can be written to a result file; else None, after one UserError of one line with a name."""
    try:
        found = list(read() or ())
    except UserError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert len(message) < 1500, len(message)
        assert any(str(name) in message for name in names), message
        message.encode()
        return None
    return found
