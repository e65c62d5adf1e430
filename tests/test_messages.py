"""core.messages: any value on one line, at a bounded cost."""

import hostile as h

from core.messages import first_line, short


def test_short() -> None:
    assert short("a\nb\u2028") == "'a\\nb\\u2028'"
    assert short([1, {"a": None}]) == "[1, {'a': None}]"
    assert short("x" * 99, 20) == "'" + "x" * 16 + "..."
    assert short(10**9000) == "a number of thousands of digits"
    assert len(short({i: "x" * 999 for i in range(999)})) == 60


def test_first_line() -> None:
    assert first_line(ValueError("\n  no such key \nand more")) == "no such key"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 999)) == "x" * 297 + "..."


def test_what_doubles_at_every_level_and_what_holds_itself() -> None:
    bomb: list[object] = []
    for _ in range(60):
        bomb = [bomb, bomb]
    loop: list[object] = []
    loop.append(loop)
    with h.soon():
        assert short(bomb).startswith("[[[")
        assert short(loop)[:5] == "[[[[["
