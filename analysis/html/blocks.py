"""What a page is made of: blocks, in their order, and the pictures among them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from analysis.html.tables import Table
from analysis.plots import style
from analysis.plots.style import Draw, Picture


@dataclass(frozen=True)
class Heading:
    kind: ClassVar = "heading"
    level: int
    title: str
    anchor: str


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar = "paragraph"
    text: str
    style: str = ""


@dataclass(frozen=True)
class Quotes:
    """Sentences that stand on their own, and in small print what was tested."""

    kind: ClassVar = "quotes"
    lines: Sequence[str]
    tests: Sequence[str] = ()


@dataclass(frozen=True)
class Shown:
    """A picture, what it shows, and what can be said of it."""

    kind: ClassVar = "figure"
    number: int
    name: str
    """Of its files, without the ending."""
    title: str
    lines: Sequence[str]
    picture: Picture


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

    kind: ClassVar = "folded"
    summary: str
    blocks: Sequence["Block"]
    style: str = ""


Block = Heading | Paragraph | Quotes | Shown | Folded | Table


class Page:
    """The blocks of the page as they are made, and the pictures in it by name."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.headings: list[Heading] = []
        self.pictures: dict[str, Picture] = {}

    def add(self, *blocks: Block | None) -> None:
        self.blocks += [block for block in blocks if block]

    def heading(self, level: int, title: str) -> None:
        self.headings.append(Heading(level, title, f"s{len(self.headings) + 1}"))
        self.add(self.headings[-1])

    def figure(self, name: str, draw: Draw, title: str, lines: Sequence[str] = ()) -> None:
        number = len(self.pictures) + 1
        name = f"{number:02d}-{slug(name)}"
        picture = self.pictures[name] = style.render(draw)
        self.add(Shown(number, name, title, lines, picture))

    @contextmanager
    def folded(self, summary: str, style: str = "") -> Iterator[None]:
        """What is added in the block is folded away behind a line."""
        outside, self.blocks = self.blocks, []
        try:
            yield
        finally:
            inside, self.blocks = self.blocks, outside
        if inside:
            self.add(Folded(summary, inside, style))


def slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())
