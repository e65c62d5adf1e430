"""The page: one HTML file with its pictures and its style inside. It loads nothing and runs nothing."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from analysis import figures, quotes, tables, words
from analysis.compare import RESAMPLES
from analysis.figures import Looks, Picture
from analysis.plots import edits as plot_edits
from analysis.plots import scores as plot_scores
from analysis.study import CHOICE, HEADLINE, RELEASED, Group, Study, family, regularised
from analysis.tables import Names, tag, text
from analysis.tradeoff import trades, usable
from core.provenance import PACKAGES

GENERATOR = "report of model-editing-ability"
STYLE = Path(__file__).with_name("page.css")
NOTES = {
    "official": "Official data: the sets the paper uses.",
    "sample": "Sample data: small sets written for this repository. Their intervals are wide, and their scores are not "
    "those of the official sets.",
    "custom": "Custom data, given with --data. Where they are from is not known here; each result holds their SHA-256.",
}
READING = (
    "Each panel is one task. On the left stands the model before any edit (black square), to the right of it the score "
    "after more and more edits. The dashed line, trivial, is the best constant answer: a score at its level shows no "
    "ability.",
    "Bars and brackets are 95 % intervals over the records of a task. Where a point is the mean of several runs, with "
    "other edits, other draws of them or another seed, both records and runs are resampled (pigeonhole bootstrap, Owen "
    "2007); with two or three runs such an interval is rough, and rather too narrow.",
    "A filled marker in a figure, ▼ or ▲ in a table: the score differs significantly from the unedited model's on the "
    "same records. A hollow marker does not say that it is the same.",
    "Read abilities together with the quality of the edits: a method that edits nothing harms nothing.",
)
TESTS = (
    "Differences are paired by record. For one run of a task that scores each record right or wrong, p is McNemar's "
    "exact test; otherwise (ROUGE, F1, the mean of several runs) it comes from a paired bootstrap of "
    f"{RESAMPLES:,} resamples (seed 0), whose smallest p is {2 / (RESAMPLES + 1):.4f}. All p are two-sided, and "
    "corrected by Holm's method for the number of comparisons in their figure or table. Intervals of differences are "
    "percentiles of the same bootstrap, and are not corrected.",
    "Relative ability is the mean over tasks of score / unedited score. It counts the tasks whose unedited score is "
    "reliably above zero (its interval does not reach 0), and a setting only where it was measured on all of them. A "
    "score at the level of a constant answer counts as any other. The frontier joins the settings that no other one "
    "beats on one count and equals or beats on the other; it takes no account of the intervals.",
    "Reliability: greedy decoding gives the target, right after an edit's own update (own) or after the last update "
    "(last). Generalisation: the same for the rephrased prompt. Locality: an unrelated answer is still the unedited "
    "model's. Both are taken after the last update. The change of the weights is the Frobenius norm over all edited "
    "matrices, relative to their norm before any edit; the size of an update is the norm of what it added, shown for "
    "the longest run of each setting.",
    "Published scores were read off the authors' figures (±0.01). They were made by the released scorer on the whole "
    "official sets, and come without intervals.",
)
SCORES = {
    HEADLINE: "scores by number of edits",
    CHOICE: "choice accuracy (the likeliest of the label words), the ability without the format",
    RELEASED: "scored as the released code does, beside the published scores of the whole official sets",
}
"""Which scores are shown, and how they are called."""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{generator}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


class Page:
    """Parts of the page as they are made, and the pictures in it."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.contents: list[str] = []
        self.pictures: dict[str, Picture] = {}

    def add(self, *parts: str) -> None:
        self.parts += parts

    def heading(self, level: int, title: str) -> None:
        anchor = f"s{len(self.contents) + 1}"
        self.contents.append(tag("li", tag("a", text(title), href=f"#{anchor}"), class_=f"l{level}"))
        self.add(tag(f"h{level}", text(title), id=anchor))

    def figure(self, name: str, draw: figures.Draw, title: str, lines: Sequence[str]) -> None:
        """A picture, what it shows, and what can be said of it."""
        number = len(self.pictures) + 1
        name = f"{number:02d}-{slug(name)}"
        picture = self.pictures[name] = figures.render(draw)
        image = f'<img src="{inline(picture.svg)}" alt="{text(title)} The numbers are in the table below.">'
        source = f'<source media="screen and (max-width: 640px)" srcset="{inline(picture.narrow)}">'
        links = " ".join(tag("a", kind.upper(), href=f"figures/{name}.{kind}") for kind in ("svg", "png"))
        said = tag("ul", "".join(tag("li", text(line)) for line in lines), class_="quotes")
        caption = tag("p", f"{tag('strong', f'Figure {number}.')} {text(title)} {links}")
        whole = tag("picture", source + image) + tag("figcaption", said + caption)
        self.add(tag("figure", whole, style=f"--width: {picture.width:.0f}px"))


def slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def inline(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def build(studies: Sequence[Study], title: str, copies: int) -> tuple[str, dict[str, Picture]]:
    """The whole page, and the pictures in it by name."""
    page = Page()
    for study in studies:
        section(page, study)
    lines = ("".join(tag("p", text(line)) for line in part) for part in (READING, TESTS))
    reading, tests = (tag("div", part, class_="prose") for part in lines)
    body = [
        tag("header", tag("h1", text(title)) + made_of(studies, copies)),
        tag("nav", tag("ul", "".join(page.contents)), aria_label="contents"),
        tag("section", tag("h2", "How to read it") + reading),
        *page.parts,
        tag("footer", tag("h2", "How the numbers are made", id="made") + tests),
    ]
    style = STYLE.read_text(encoding="utf-8")
    html = PAGE.format(generator=GENERATOR, title=text(title), style=style, body="\n".join(body))
    return html, page.pictures


def made_of(studies: Sequence[Study], copies: int) -> str:
    """What the report is made of: models, data, results, device, code, versions."""
    found = [result for study in studies for result in study.results()]
    edited = sum(result.edit is not None for result in found)
    count = f"{words.counted(len(found), 'result')}: {len(found) - edited} of unedited models, {edited} after edits"
    if copies:
        count += f"; {words.counted(copies, 'further result')} made with the same settings left out"
    environments = [result.content["environment"] for result in found]
    versions = {name: each(str(e[name]) for e in environments if name in e) for name in ("python", *PACKAGES)}
    rows = {
        "Results": count,
        "Models": each(f"{s.model.name}, {s.model.dtype}, SHA-256 {s.model.sha256[:12]}" for s in studies),
        "Data": each(f"{s.kind}{words.limit(s)}" for s in studies),
        "Device": each(str(e.get("device", "unknown")) for e in environments),
        "Commit": each(commit(e) for e in environments),
        "Versions": ", ".join(f"{name} {value}" for name, value in versions.items() if value),
    }
    lede = tag("p", text("What is left of a language model's abilities after its knowledge was edited."), class_="lede")
    return lede + tag("dl", "".join(tag("dt", name) + tag("dd", text(value)) for name, value in rows.items()))


def each(values: Iterable[str]) -> str:
    """The different values, in the order they occur."""
    return "; ".join(dict.fromkeys(values))


def commit(environment: Mapping[str, Any]) -> str:
    return str(environment.get("commit") or "unknown")[:12] + (" with changes" if environment.get("dirty") else "")


def section(page: Page, study: Study) -> None:
    """One model on one kind of data."""
    page.heading(2, words.study(study))
    page.add(tag("p", text(NOTES.get(study.kind, study.kind) + part_of(study)), class_=f"note {study.kind}"))
    page.add(tables.unedited(study))
    settings = {group: [s for s in study.settings if s.group == group] for group in study.groups}
    labels = {s: label for mine in settings.values() for s, label in words.labels(mine).items()}
    curves = figures.curves(labels.values())
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
    page.heading(3, title)
    names = {setting: curve.label for setting, curve in looks.items()}
    slugs = f"{study.model.name} {study.kind} {title}"
    for wanted, what in SCORES.items():
        points = family(study.panels, group, wanted)
        if points and (wanted != RELEASED or plot_scores.published(study, group)):
            draw = partial(plot_scores.abilities, points, looks, wanted)
            page.figure(f"{slugs} {wanted}", draw, f"{title}: {what}.", quotes.abilities(points, names))
            numbers, differences = tables.scores(points, names), tables.differences(points, names)
            if wanted == HEADLINE:
                page.add(numbers, folded("Differences to the unedited model", differences))
                page.add(regularisers(study, group, names))
            else:
                page.add(folded("In numbers", numbers + differences))
    what = f"{title}: quality of the edits, change of the weights, and size of each update, by number of edits."
    page.figure(
        f"{slugs} edits", partial(plot_edits.edit_quality, study, looks), what, quotes.edit_quality(study, names)
    )
    page.add(folded("In numbers", tables.edit_quality(study, names)))
    degenerate = tables.degenerate(study, group, names)
    page.add(folded("Degenerate completions", degenerate) if degenerate else "", tables.refused(study, names))


def regularisers(study: Study, group: Group, names: Names) -> str:
    """What each regulariser makes of the same edits; "" if there are no such pairs of runs."""
    points = regularised(study.panels, group, HEADLINE)
    table = tables.differences(points, names, "that of the same edits with no regulariser")
    return folded("Differences to no regulariser", table) if points else ""


def folded(summary: str, inside: str) -> str:
    return tag("details", tag("summary", text(summary)) + inside)


def both(page: Page, study: Study, looks: Looks) -> None:
    """Ability against edit success."""
    page.heading(3, "What is left against what took")
    found, lacking = trades(study)
    counted = words.listed([panel.title for panel in usable(study)]) or "none"
    rule = f"Tasks that count, because their unedited score is reliably above zero: {counted}."
    if lacking:
        rule += f" {words.counted(lacking, 'point')} left out for lack of some of these tasks."
    page.add(tag("p", text(rule)))
    if found:
        names = {setting: curve.label for setting, curve in looks.items()}
        title = "Mean relative ability against reliability after the last edit, a panel per number of edits."
        draw = partial(plot_edits.trade_off, found, looks)
        page.figure(f"{study.model.name} {study.kind} trade-off", draw, title, quotes.trade_off(found, names))
        page.add(folded("In numbers", tables.trade_off(found, names)))
