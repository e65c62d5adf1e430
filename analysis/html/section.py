"""One model on one kind of data: the summary, one figure of all tasks, the trade-off, and folded away the details."""

from collections.abc import Mapping, Sequence
from functools import partial

from analysis import words
from analysis.collect import Setting
from analysis.findings import Findings
from analysis.harm import rule_of
from analysis.html import harms, quotes, tables
from analysis.html.blocks import Folded, Page, Paragraph, Quotes
from analysis.html.summary import summary
from analysis.html.tables import Names
from analysis.plots import edits as plot_edits
from analysis.plots import harm as plot_harm
from analysis.plots import overview as plot_overview
from analysis.plots import retention as plot_retention
from analysis.plots import scores as plot_scores
from analysis.plots import style
from analysis.plots.overview import Overview
from analysis.plots.style import Curve, Looks
from analysis.retention import cohorts
from analysis.study import CHOICE, HEADLINE, PROBABILITY, REFERENCE, RELEASED, TEXT, Point, Study
from analysis.tradeoff import Trade, trades, usable

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
CHANGES = {
    REFERENCE: "log p of the reference answer",
    TEXT: "log p of the prompt's own text",
    PROBABILITY: "probability of the right label word among the label words",
}
FEW = 10
"""Rows of a table that is not folded away."""


def section(page: Page, study: Study, found: Sequence[Findings]) -> None:
    """All blocks of a study."""
    page.heading(2, words.study(study))
    page.add(summary(study, found))
    page.add(Paragraph(NOTES.get(study.kind, study.kind), f"note {study.kind}"))
    curves = style.curves(name for f in found for name in f.names.values())
    looks = {setting: curves[name] for f in found for setting, name in f.names.items()}
    if found:
        overview(page, study, found, looks)
    points, lacking = trades(study)
    weighed = [f for f in found if f.balance.rules] or [f for f in found if f.balance.spots]
    if weighed:
        equal_success(page, study, weighed, looks)
    elif points:
        page.heading(3, "What is left against what took")
        trade_off(page, study, looks, points, lacking)
    if found:
        page.heading(3, "Details")
    with page.folded("The unedited model", "part"):
        page.add(tables.unedited(study) or Paragraph("There is no result of the unedited model."))
    for f in found:
        with page.folded(f.title, "part"):
            method(page, f, {setting: looks[setting] for setting in f.names})
    if weighed and points:
        with page.folded("What is left against what took", "part"):
            trade_off(page, study, looks, points, lacking)


def overview(page: Page, study: Study, found: Sequence[Findings], looks: Looks) -> None:
    """A figure of all tasks for each measure, and after how many edits harm is shown."""
    for wanted, shown in overviews(found).items():
        likely = f"How much the {CHANGES[wanted]} differs from the unedited model's" if wanted in CHANGES else ""
        title = f"{likely or 'Headline scores'}, by number of edits; bands are 95 % intervals."
        name = f"{study.model.name} {study.kind} overview {words.metric(wanted).split()[-1]}"
        page.figure(name, partial(plot_overview.draw, shown, looks), title)
    table = harms.first_harm(found)
    page.add(table if len(table.rows) <= FEW else Folded("First harm shown", [table]))


def overviews(found: Sequence[Findings]) -> dict[str, Overview]:
    """What is drawn of each method: the likelihoods that every task has, or (older results) the headline scores."""
    rows: dict[str, dict[str, Sequence[Point]]] = {REFERENCE: {}, TEXT: {}, HEADLINE: {}}
    for f in found:
        for wanted in [name for name in (REFERENCE, TEXT) if name in f.likelihoods] or [HEADLINE]:
            rows[wanted][_row(f)] = f.families[wanted]
    return {wanted: Overview(mine, _axis(wanted)) for wanted, mine in rows.items() if mine}


def _axis(wanted: str) -> str:
    """What the changes are of; "" for scores."""
    unit = f" ({words.NATS})" if words.unit(wanted) else ""
    return "" if wanted == HEADLINE else f"change of {words.metric(wanted)}{unit}"


def _row(f: Findings) -> str:
    """A method at the side of a narrow panel."""
    method, mode, batch = f.group
    return f"{method}\n" + (f"{batch} per update" if batch else mode)


def equal_success(page: Page, study: Study, found: Sequence[Findings], looks: Looks) -> None:
    """Harm against the facts that hold."""
    page.heading(3, "Harm at equal success")
    title = (
        "Harm against the number of facts that hold: of each regulariser over its settings and numbers of edits, and "
        "of editing less (no regulariser after fewer edits, or SCALE). Hollow: another point of it holds more facts "
        "with less harm."
    )
    balances = {f.group: f.balance for f in found}
    draw = partial(plot_harm.draw, balances, _of_rules(found, looks))
    page.figure(f"{study.model.name} {study.kind} equal success", draw, title)
    page.add(harms.equal_success(found))
    for f in found:
        each = [table for measure in f.balance.spots if (table := harms.at_each(f, measure))]
        lacking = (
            f" ({words.counted(f.balance.lacking, 'point')} left out for lack of some tasks)"
            if f.balance.lacking
            else ""
        )
        page.add(Folded(f"In numbers: {f.title}{lacking}", [harms.spots(f), *each]))


def _of_rules(found: Sequence[Findings], looks: Looks) -> Mapping[Setting, Curve]:
    """A look for each regulariser: that of its first setting."""
    rules: dict[Setting, Curve] = {}
    for f in found:
        names = f.rule_names
        for setting in f.names:
            look, rule = looks[setting], rule_of(setting)
            rules.setdefault(rule, Curve(names[rule], look.colour, look.marker, look.line))
    return rules


def method(page: Page, f: Findings, looks: Looks) -> None:
    """One method in one mode: scores, ability without the format, likelihoods, quality of the edits, retention."""
    slugs = f"{f.study.model.name} {f.study.kind} {f.title}"
    headline = f.families[HEADLINE]
    page.add(Quotes([quotes.finding(f.study, headline, setting, name) for setting, name in f.names.items()]))
    for wanted, what in SCORES.items():
        points = f.families.get(wanted, ())
        if points and (wanted != RELEASED or plot_scores.published(f.study, f.group)):
            draw = partial(plot_scores.abilities, points, looks, wanted)
            lines = [] if wanted == HEADLINE else quotes.abilities(points, f.names)
            lines += [*quotes.limits(points), quotes.tests(points)]
            page.figure(f"{slugs} {wanted}", draw, f"{f.title}: {what}.", lines)
            numbers(page, points, f.names, wanted == HEADLINE)
            if wanted == HEADLINE:
                page.add(rescued(f, HEADLINE))
    likelihood(page, f, looks, slugs)
    quality(page, f, looks, slugs)


def numbers(page: Page, points: Sequence[Point], names: Names, open_: bool) -> None:
    """The scores of a figure and their differences, as tables."""
    scores, differences = tables.scores(points, names), tables.differences(points, names)
    if open_:
        page.add(scores, Folded("Differences to the unedited model", [differences]))
    else:
        page.add(Folded("In numbers", [scores, differences]))


def rescued(f: Findings, wanted: str) -> Folded | None:
    """What each regulariser makes of the same edits; None if there are no such pairs of runs."""
    points = f.rescued.get(wanted, ())
    table = tables.differences(points, f.names, "that of the same edits with no regulariser")
    return Folded("Differences to no regulariser", [table]) if points else None


def likelihood(page: Page, f: Findings, looks: Looks, slugs: str) -> None:
    """Every measure of likelihood: a figure of their changes, sentences and tables."""
    rows = {words.metric(wanted).replace(" of ", "\nof "): f.families[wanted] for wanted in f.likelihoods}
    rows |= {"drift": f.drift} if f.drift else {}
    if not rows:
        return
    known = words.listed([CHANGES[wanted] for wanted in f.likelihoods])
    drift = "drift, the KL divergence of the edited model's predictions from the unedited one's"
    parts = [*([f"how the {known} changes"] if known else []), *([drift] if f.drift else [])]
    lines = [line for wanted in f.likelihoods for line in quotes.abilities(f.families[wanted], f.names)]
    shown = Overview(rows, f"change ({words.NATS}; of a probability)")
    title = f"{f.title}: {'; '.join(parts)}; by number of edits."
    page.figure(f"{slugs} likelihood", partial(plot_overview.draw, shown, looks), title, [*lines, *_within(f)])
    for wanted in f.likelihoods:
        page.add(
            Folded(
                f"In numbers: {CHANGES[wanted]}",
                [tables.scores(f.families[wanted], f.names), tables.differences(f.families[wanted], f.names)],
            )
        )
        page.add(rescued(f, wanted))
    if f.drift:
        page.add(Folded("In numbers: drift", [tables.scores(f.drift, f.names)]))


def _within(f: Findings) -> list[str]:
    """What p is corrected for, and that of drift there is none."""
    sizes = words.listed([f"{len(quotes.tested(f.families[wanted])):,}" for wanted in f.likelihoods])
    corrected = f"p is corrected by Holm's method for the {sizes} comparisons of each measure"
    untested = "A drift is above 0 once any weight has changed: its size says something, not that it is there."
    return [*([f"{corrected}; significant means {quotes.BELOW}."] if sizes else []), *([untested] if f.drift else [])]


def quality(page: Page, f: Findings, looks: Looks, slugs: str) -> None:
    """How the edits took, and which of them are left."""
    what = f"{f.title}: quality of the edits, change of the weights, and size of each update, by number of edits."
    draw = partial(plot_edits.edit_quality, f.study, looks)
    page.figure(f"{slugs} edits", draw, what, quotes.edit_quality(f.study, f.names))
    page.add(Folded("In numbers", [tables.edit_quality(f.study, f.names)]))
    rows = {setting: table for setting in f.names if (table := cohorts(f.study, setting))}
    if rows:
        what = f"{f.title}: the share of edits that hold, by when they were made."
        page.figure(
            f"{slugs} retention", partial(plot_retention.draw, rows, looks), what, quotes.retention(rows, f.names)
        )
        page.add(Folded("In numbers", [harms.retention(rows, f.names)]))
    page.add(tables.refused(f.study, f.names))


def trade_off(page: Page, study: Study, looks: Looks, points: Sequence[Trade], lacking: int) -> None:
    """Ability against edit success."""
    counted = words.listed([panel.title for panel in usable(study)]) or "none"
    rule = f"Tasks that count, because their unedited score is reliably above zero: {counted}."
    if lacking:
        rule += f" {words.counted(lacking, 'point')} left out for lack of some of these tasks."
    page.add(Paragraph(rule))
    names = {setting: curve.label for setting, curve in looks.items()}
    title = "Mean relative ability against reliability after the last edit, a panel per method."
    draw = partial(plot_edits.trade_off, points, looks)
    page.figure(f"{study.model.name} {study.kind} trade-off", draw, title, quotes.trade_off(points, names))
    page.add(Folded("In numbers", [tables.trade_off(points, names)]))
