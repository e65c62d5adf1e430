"""The page's figures, drawn from its tables."""

import itertools
from collections.abc import Mapping
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
from docs.reproduction.masks import Masks
from docs.reproduction.tables import CONTROL, LONG, RULES, SETS, Draws, Tables

GREY: dict[str, Any] = dict(color="#bdbdbd", lw=2, zorder=1)
"""Editing less."""
FILLS, LINES = (dict(zip("123", looks, strict=True)) for looks in (("full", "none", "left"), ("-", "--", ":")))
"""How the draws of facts are told apart."""
LABELS = {
    "drift": "drift",
    "text_logprob": "fall of log p of the text",
    "reference_logprob": "fall of log p of the reference",
}
LOOKS = dict(zip(RULES, zip((INK, *COLOURS, "#a65628"), ("o", *MARKERS[1:], "*"), strict=False), strict=False))
"""Rule -> colour and marker."""


def draw(t: Tables, masks: Masks, folder: Path) -> None:
    """All figures, as PNG."""
    with mpl.rc_context(STYLE):
        for name, figure in (("growth", growth(t)), ("less", less(t)), ("long", long(t)), ("masks", masked(masks))):
            with whole(folder / f"{name}.png") as file:
                figure.savefig(file, format="png", dpi=200, metadata={"Software": None})


def growth(t: Tables) -> Figure:
    """What the text of each task loses by 10 and by 30 edits, a point for each draw."""
    figure = Figure(figsize=(7.6, 3), layout="constrained")
    for ax, method in zip(figure.subplots(1, 2, sharey=True), ("ROME", "MEMIT"), strict=True):
        for edits, shift, colour in ((10, -0.17, COLOURS[5]), (30, 0.17, COLOURS[0])):
            for at in t.at(method, "none", edits).each:
                of, fill = at.of_tasks("text_logprob"), FILLS[at.draw]
                ax.plot([*of.values()], [i + shift for i in range(len(of))], "o", color=colour, fillstyle=fill, ms=4.5)
        ax.set_yticks(range(len(of)), [*of])
        ax.axvline(0, color=INK, lw=0.8, zorder=1)
        ax.grid(axis="x")
        ax.set_title(method)
    figure.axes[0].invert_yaxis()
    figure.supxlabel("change of log p of the text, nats a token", fontsize=7.5, color=SOFT)
    dots = [_dot(f"{edits} edits", colour, "o") for edits, colour in ((10, COLOURS[5]), (30, COLOURS[0]))]
    figure.legend(handles=[*dots, *_draws(t)], loc="outside upper left", ncols=5)
    return figure


def less(t: Tables) -> Figure:
    """Harm over facts that hold after 30 edits: a point for each rule and draw, a line for `scale` in each."""
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    rules = [rule for rule in RULES if t.made("MEMIT", rule, 30) or t.made("ROME", rule, 30)]
    for row, method in zip(figure.subplots(2, 3), ("ROME", "MEMIT"), strict=True):
        for ax, measure in zip(row, LABELS, strict=True):
            for of_draw, spots in t.spots(method, CONTROL, measure).items():
                ax.plot(*zip(*bends(spots), strict=True), ls=LINES[of_draw], **GREY)
            for rule in (rule for rule in rules if t.made(method, rule, 30)):
                _points(ax, t.at(method, rule, 30), measure, *LOOKS[rule])
            ax.axhline(0, color=INK, lw=0.8, zorder=0)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_title(f"{method}: {LABELS[measure]}")
    figure.supxlabel("facts that hold, of 30", fontsize=7.5, color=SOFT)
    figure.supylabel("nats a token", fontsize=7.5, color=SOFT)
    handles = [_dot(_name(rule), *LOOKS[rule]) for rule in rules]
    lines = [Line2D([], [], label="scale", **GREY), *_draws(t)]
    figure.legend(handles=[*handles, *lines], loc="outside upper left", ncols=6)
    return figure


def long(t: Tables) -> Figure:
    """Harm over facts that hold after 200 edits: colours are rules, markers methods, fills sets of facts."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    markers = dict(zip((name for name, _, _ in LONG), "os^", strict=True))
    fills = dict(zip(SETS, FILLS.values(), strict=True))
    found = t.long()
    for ax, measure in zip(figure.subplots(1, 3), LABELS, strict=True):
        for (method, rule), at in found.items():
            _points(ax, at, measure, LOOKS[rule][0], markers[method], fills)
        for method, draw in itertools.product(markers, SETS):
            ends = [
                of.spot(measure) for rule in ("none", "scale 0.8") for of in found[method, rule].each if of.draw == draw
            ]
            ax.plot([spot.held for spot in ends], [spot.harm for spot in ends], **GREY)
        ax.axhline(0, color=INK, lw=0.8, zorder=0)
        ax.set_title(LABELS[measure])
    figure.supxlabel("facts that hold, of 200", fontsize=7.5, color=SOFT)
    figure.supylabel("nats a token", fontsize=7.5, color=SOFT)
    handles = [_dot(method, SOFT, marker, "none") for method, marker in markers.items()]
    handles += [_dot(name, SOFT, "o", fills[draw]) for draw, name in SETS.items()]
    rules = dict.fromkeys(rule for _, rule in found)
    handles += [Line2D([], [], color=LOOKS[rule][0], lw=4, label=_name(rule)) for rule in rules]
    handles.append(Line2D([], [], label="none to scale", **GREY))
    figure.legend(handles=handles, loc="outside upper left", ncols=6)
    return figure


def masked(masks: Masks) -> Figure:
    """Drift over how much of an update meets ordinary tokens, and over what it writes for them."""
    figure = Figure(figsize=(7.6, 3.1), layout="constrained")
    ways = {
        "ratio": "tr(DCD\u1d40) / |D|\u00b2: the overlap with ordinary tokens",
        "written": "tr(DCD\u1d40): what is written for them",
    }
    for ax, (measure, label) in zip(figure.subplots(1, 2, sharey=True), ways.items(), strict=True):
        places = {rule: (masks.mean(rule, measure), masks.mean(rule, "drift")) for rule in masks.rules}
        for rule, place in places.items():
            ax.plot(*place, LOOKS[rule][1], color=LOOKS[rule][0], ms=5.5)
        ax.plot(*zip(*sorted(places[rule] for rule in ("none", *CONTROL)), strict=True), **GREY)
        ax.set_xlabel(label)
        ax.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("drift, nats a token")
    handles = [
        _dot(f"{_name(rule)}: {30 * masks.mean(rule, 'reliability'):.0f} facts", *LOOKS[rule]) for rule in masks.rules
    ]
    handles.append(Line2D([], [], label="editing less", **GREY))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def _points(ax: Axes, at: Draws, measure: str, colour: str, marker: str, fills: Mapping[str, Any] = FILLS) -> None:
    """One for each draw."""
    for of_one in at.each:
        spot = of_one.spot(measure)
        ax.plot(spot.held, spot.harm, marker, color=colour, fillstyle=fills[of_one.draw], ms=5.5, mew=1, zorder=3)


def _draws(t: Tables) -> list[Line2D]:
    """How the draws are told apart."""
    return [_dot(f"draw {at.draw}", SOFT, "o", FILLS[at.draw]) for at in t.at("MEMIT", "none", 30).each]


def _name(rule: str) -> str:
    return "no regulariser" if rule == "none" else rule


def _dot(label: str, colour: str, marker: str, fill: Any = "full") -> Line2D:
    return Line2D([], [], ls="none", label=label, color=colour, marker=marker, fillstyle=fill)
