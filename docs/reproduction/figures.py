"""The page's figures, drawn from its tables."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.harm import bends
from analysis.plots.style import COLOURS, INK, MARKERS, SOFT, STYLE
from core.disk.whole import whole
from docs.reproduction.tables import CONTROL, LONG, RULES, Draws, Masks, Tables

GREY: dict[str, Any] = dict(color="#bdbdbd", lw=2.5, zorder=1)
"""Editing less."""
TEXT, DRIFT = "text_logprob", "drift"
LABELS = {DRIFT: "drift, nats a token", TEXT: "fall of log p of the text, nats a token"}
LOOKS = dict(zip(RULES, zip((INK, *COLOURS, SOFT), ("o", *MARKERS[1:], "*"), strict=False), strict=False))
"""Rule -> colour and marker."""


def draw(t: Tables, masks: Masks, folder: Path) -> None:
    """All figures, as PNG."""
    with mpl.rc_context(STYLE):
        for name, figure in (("growth", growth(t)), ("less", less(t)), ("long", long(t)), ("masks", masked(masks))):
            with whole(folder / f"{name}.png") as file:
                figure.savefig(file, format="png", dpi=200, metadata={"Software": None})


def growth(t: Tables) -> Figure:
    """What the text of each task loses by 10 and by 30 edits, a point for each draw."""
    figure = Figure(figsize=(7.6, 2.9), layout="constrained")
    for ax, method in zip(figure.subplots(1, 2, sharey=True), ("ROME", "MEMIT"), strict=True):
        for edits, shift, fill in ((10, -0.17, "white"), (30, 0.17, LOOKS["none"][0])):
            for at in t.at(method, "none", edits).each:
                of = at.of_tasks(TEXT)
                ax.plot([*of.values()], [i + shift for i in range(len(of))], "o", color=INK, mfc=fill, ms=4, alpha=0.8)
        ax.set_yticks(range(len(of)), [*of])
        ax.axvline(0, color=INK, lw=0.8, zorder=1)
        ax.grid(axis="x")
        ax.set_title(method)
    figure.axes[0].invert_yaxis()
    figure.supxlabel("change of log p of the text, nats a token", fontsize=7.5, color=SOFT)
    dots = [_dot(f"{edits} edits", INK, "o", fill) for edits, fill in ((10, "white"), (30, INK))]
    figure.legend(handles=dots, loc="outside upper left", ncols=2)
    return figure


def less(t: Tables) -> Figure:
    """Harm over facts that hold after 30 edits: a point for each rule and draw, a line for editing less in each."""
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    used = []
    for row, measure in zip(figure.subplots(2, 2), (DRIFT, TEXT), strict=True):
        for ax, method in zip(row, ("ROME", "MEMIT"), strict=True):
            for spots in t.spots(method, CONTROL, measure).values():
                ax.plot(*zip(*bends(spots), strict=True), **GREY)
            for rule in (rule for rule in RULES if t.made(method, rule, 30)):
                used.append(rule)
                _points(ax, t.at(method, rule, 30), measure, *LOOKS[rule])
            ax.axhline(0, color=INK, lw=0.8, zorder=0)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_title(method)
        row[0].set_ylabel(LABELS[measure])
    figure.supxlabel("facts that hold, of 30", fontsize=7.5, color=SOFT)
    handles = [_dot(_name(rule), *LOOKS[rule]) for rule in dict.fromkeys(used)]
    figure.legend(handles=[*handles, Line2D([], [], label="editing less", **GREY)], loc="outside upper left", ncols=5)
    return figure


def long(t: Tables) -> Figure:
    """Harm over facts that hold after 200 edits: colours are rules, markers methods."""
    figure = Figure(figsize=(7.6, 2.9), layout="constrained")
    markers = dict(zip((name for name, _, _ in LONG), "os^", strict=True))
    for ax, measure in zip(figure.subplots(1, 2), (DRIFT, TEXT), strict=True):
        for method, rule, at in t.long():
            _points(ax, at, measure, LOOKS[rule][0], markers[method])
        ax.set_ylabel(LABELS[measure])
        ax.set_ylim(bottom=0)
    figure.supxlabel("facts that hold, of 200", fontsize=7.5, color=SOFT)
    rules = dict.fromkeys(rule for _, rule, _ in t.long())
    handles = [_dot(method, SOFT, marker) for method, marker in markers.items()]
    handles += [_dot(_name(rule), LOOKS[rule][0], "D") for rule in rules]
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def masked(masks: Masks) -> Figure:
    """Drift over how much of an update meets ordinary tokens, and over what it writes for them."""
    figure = Figure(figsize=(7.6, 3.1), layout="constrained")
    ways = {
        "ratio": "tr(DCD\u1d40) / |D|\u00b2: the share that meets ordinary tokens",
        "written": "tr(DCD\u1d40): what is written for them",
    }
    for ax, (measure, label) in zip(figure.subplots(1, 2, sharey=True), ways.items(), strict=True):
        places = {rule: (masks.mean(rule, measure), masks.mean(rule, "drift")) for rule in masks.rules}
        for rule, place in places.items():
            ax.plot(*place, LOOKS[rule][1], color=LOOKS[rule][0], ms=5.5)
        ax.plot(*zip(*sorted(places[rule] for rule in CONTROL), strict=True), **GREY)
        ax.set_xlabel(label)
        ax.set_ylim(bottom=0)
    figure.axes[0].set_ylabel(LABELS[DRIFT])
    handles = [
        _dot(f"{_name(rule)}: {30 * masks.mean(rule, 'reliability'):.0f} facts", *LOOKS[rule]) for rule in masks.rules
    ]
    handles.append(Line2D([], [], label="editing less", **GREY))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def _points(ax: Axes, at: Draws, measure: str, colour: str, marker: str) -> None:
    """One for each draw."""
    for spot in (of_one.spot(measure) for of_one in at.each):
        ax.plot(spot.held, spot.harm, marker, color=colour, ms=5.5, mew=0.8, mec="white", zorder=3)


def _name(rule: str) -> str:
    return "no regulariser" if rule == "none" else rule


def _dot(label: str, colour: str, marker: str, fill: str | None = None) -> Line2D:
    return Line2D([], [], ls="none", label=label, color=colour, marker=marker, mfc=fill or colour)
