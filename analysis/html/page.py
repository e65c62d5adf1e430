"""The page: one HTML file with its pictures and its style inside. It loads nothing and runs nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis import GENERATOR, words
from analysis.compare import RESAMPLES
from analysis.html import quotes, tables
from analysis.html.made_of import made_of
from analysis.html.tables import Names, Table
from analysis.plots import edits as plot_edits
from analysis.plots import scores as plot_scores
from analysis.plots import style
from analysis.plots.style import Draw, Looks, Picture
from analysis.study import CHOICE, HEADLINE, RELEASED, Group, Point, Study, family, regularised
from analysis.tradeoff import trades, usable

TEMPLATES = Path(__file__).with_name("templates")
NOTES = {
    "official": "Official data: the sets the paper uses.",
    "sample": "Sample data: small sets written for this repository. Their intervals are wide, and their scores are not "
    "those of the official sets.",
    "custom": "Custom data, given with --data. Where they are from is not known here; each result holds their SHA-256.",
}
SCORES = {
    HEADLINE: "scores by number of edits",
    CHOICE: "choice accuracy (the likeliest of the label words), the ability without the format",
    RELEASED: "scored as the released code does, beside the published scores of the whole official sets",
}
"""Which scores are shown, and how they are called."""


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
    blocks: Sequence[Table]


@dataclass(frozen=True)
class Finding:
    """What was found of a study, or of one of its methods: the sentences of the top of the page."""

    level: int
    title: str
    anchor: str
    """Of the part of the page with its figures and tables."""
    lines: Sequence[str] = ()
    tests: Sequence[str] = ()
    """What p is corrected for, and what could not be shown."""


Block = Heading | Paragraph | Shown | Folded | Table


class Page:
    """The blocks of the page as they are made, and the pictures in it by name."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.findings: list[Finding] = []
        self.pictures: dict[str, Picture] = {}

    def add(self, *blocks: Block | None) -> None:
        self.blocks += [block for block in blocks if block]

    def heading(self, level: int, title: str) -> str:
        """Add one; returns its anchor."""
        anchor = f"s{sum(isinstance(block, Heading) for block in self.blocks) + 1}"
        self.add(Heading(level, title, anchor))
        return anchor

    def figure(self, name: str, draw: Draw, title: str, lines: Sequence[str]) -> None:
        number = len(self.pictures) + 1
        name = f"{number:02d}-{slug(name)}"
        picture = self.pictures[name] = style.render(draw)
        self.add(Shown(number, name, title, lines, picture))


def slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def build(studies: Sequence[Study], title: str, copies: int) -> tuple[str, dict[str, Picture]]:
    """The whole page, and the pictures in it by name."""
    page = Page()
    for study in studies:
        section(page, study)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_typographic,
    )
    environment.filters["inline"] = _inline
    html = environment.get_template("page.html").render(
        page=page,
        title=title,
        generator=GENERATOR,
        facts=made_of(studies, copies),
        resamples=f"{RESAMPLES:,}",
        smallest=f"{2 / (RESAMPLES + 1):.4f}",
    )
    return html, page.pictures


def _typographic(value: Any) -> Any:
    """Text with typographic apostrophes; what is HTML already stays as it is."""
    return value.replace("'", "\u2019") if type(value) is str else value


def _inline(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def section(page: Page, study: Study) -> None:
    """One model on one kind of data."""
    anchor = page.heading(2, words.study(study))
    only = () if study.settings else ["Only the unedited model was measured: there is nothing to compare it with."]
    page.findings.append(Finding(3, words.study(study), anchor, only))
    page.add(Paragraph(NOTES.get(study.kind, study.kind) + part_of(study), f"note {study.kind}"))
    page.add(tables.unedited(study) or Paragraph("There is no result of the unedited model."))
    settings = {group: [s for s in study.settings if s.group == group] for group in study.groups}
    labels = {s: label for mine in settings.values() for s, label in words.labels(mine).items()}
    curves = style.curves(labels.values())
    looks = {setting: curves[label] for setting, label in labels.items()}
    for group, mine in settings.items():
        method(page, study, group, {setting: looks[setting] for setting in mine})
    if settings:
        both(page, study, looks)


def part_of(study: Study) -> str:
    return f" Only the first {words.counted(study.limit, 'record')} of each task." if study.limit else ""


def method(page: Page, study: Study, group: Group, looks: Looks) -> None:
    """One method in one mode: scores, ability without the format, quality of the edits."""
    title = words.group(group)
    anchor = page.heading(3, title)
    names = {setting: curve.label for setting, curve in looks.items()}
    slugs = f"{study.model.name} {study.kind} {title}"
    for wanted, what in SCORES.items():
        points = family(study.panels, group, wanted)
        if points and (wanted != RELEASED or plot_scores.published(study, group)):
            draw = partial(plot_scores.abilities, points, looks, wanted)
            page.figure(f"{slugs} {wanted}", draw, f"{title}: {what}.", said(points, names, wanted))
            numbers, differences = tables.scores(points, names), tables.differences(points, names)
            if wanted == HEADLINE:
                page.findings.append(Finding(4, title, anchor, *found(study, points, names)))
                page.add(numbers, Folded("Differences to the unedited model", [differences]))
                page.add(regularisers(study, group, names))
            else:
                page.add(Folded("In numbers", [numbers, differences]))
    what = f"{title}: quality of the edits, change of the weights, and size of each update, by number of edits."
    draw = partial(plot_edits.edit_quality, study, looks)
    page.figure(f"{slugs} edits", draw, what, quotes.edit_quality(study, names))
    page.add(Folded("In numbers", [tables.edit_quality(study, names)]))
    page.add(tables.refused(study, names))


def found(study: Study, points: Sequence[Point], names: Names) -> tuple[list[str], list[str]]:
    """A few sentences on each setting and on what could not be shown; and what their p are corrected for."""
    lines = [quotes.finding(study, points, setting, name) for setting, name in names.items()]
    return [*lines, *quotes.limits(points)], [quotes.tests(points)]


def said(points: Sequence[Point], names: Names, wanted: str) -> list[str]:
    """The sentences under a figure of scores; those on the headline scores stand at the top of the page."""
    lines = [] if wanted == HEADLINE else quotes.abilities(points, names)
    return [*lines, *quotes.limits(points), quotes.tests(points)]


def regularisers(study: Study, group: Group, names: Names) -> Folded | None:
    """What each regulariser makes of the same edits; None if there are no such pairs of runs."""
    points = regularised(study.panels, group, HEADLINE)
    table = tables.differences(points, names, "that of the same edits with no regulariser")
    return Folded("Differences to no regulariser", [table]) if points else None


def both(page: Page, study: Study, looks: Looks) -> None:
    """Ability against edit success."""
    page.heading(3, "What is left against what took")
    points, lacking = trades(study)
    counted = words.listed([panel.title for panel in usable(study)]) or "none"
    rule = f"Tasks that count, because their unedited score is reliably above zero: {counted}."
    if lacking:
        rule += f" {words.counted(lacking, 'point')} left out for lack of some of these tasks."
    page.add(Paragraph(rule))
    if points:
        names = {setting: curve.label for setting, curve in looks.items()}
        title = "Mean relative ability against reliability after the last edit, a panel per method."
        draw = partial(plot_edits.trade_off, points, looks)
        page.figure(f"{study.model.name} {study.kind} trade-off", draw, title, quotes.trade_off(points, names))
        page.add(Folded("In numbers", [tables.trade_off(points, names)]))
