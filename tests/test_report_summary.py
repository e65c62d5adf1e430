"""What a report opens with: its first sentences, the figure of all tasks, and tables of harm."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_samples import Edited, make

from analysis import words
from analysis.collect import Setting, read_all
from analysis.compare import SMALLEST, Difference
from analysis.edits import collapse
from analysis.findings import Findings, findings, first_falls
from analysis.harm import HARMS
from analysis.html import harms, quotes
from analysis.html.section import overviews
from analysis.html.summary import summary
from analysis.plots import harm as plot_harm
from analysis.plots import overview, retention, scores, style
from analysis.plots.overview import Overview
from analysis.plots.slots import Slots
from analysis.retention import cohorts
from analysis.study import HEADLINE, REFERENCE, TEXT, Panel, Point, studies
from core.types import Measure

NB = words.NO_BREAK
TASKS = ("NLI", "dialogue")


def found(root: Path) -> list[Findings]:
    (study,) = studies(read_all(root)[0])
    return findings(study)


def said(root: Path) -> list[str]:
    (study,) = studies(read_all(root)[0])
    return [str(line) for line in summary(study, findings(study)).lines]


def runs(root: Path, rule: tuple[str, float] | None, harm: float | None, hold: float, skill: float = 0.8) -> None:
    """Two tasks after 10 and 20 MEMIT edits, the harm in proportion; without measures for None."""
    for task, count in itertools.product(TASKS, (10, 20)):
        edited = Edited(count, "MEMIT", "Batch-Sequential", rule, 10, hold=hold)
        make(root, task, skill, edited, **({} if harm is None else {"harm": harm * count}))


def unedited(root: Path, likely: bool = True) -> None:
    for task in TASKS:
        make(root, task, 0.8, **({"harm": 0.0} if likely else {}))


# --- sentences -----------------------------------------------------------------------------------------------------


def test_what_was_run_what_broke_and_what_saved_it(tmp_path: Path) -> None:
    """RECT does a tenth of the harm of none and holds as much; a random share does twice the harm and holds less."""
    unedited(tmp_path)
    runs(tmp_path, None, 0.05, 0.9)
    runs(tmp_path, ("scale", 0.5), 0.03, 0.5)
    runs(tmp_path, ("rect", 0.4), 0.005, 0.9)
    runs(tmp_path, ("random", 0.4), 0.1, 0.5)
    ran, broke, saved = said(tmp_path)
    assert ran == (
        "What was run: 2 tasks (the first 24 records of each), before any edit and after 10 and 20 edits by MEMIT, "
        "Batch-Sequential, 10 edits per update, with no regulariser, RANDOM 40 %, RECT 40 % and SCALE 50 %."
    )
    number = r"[\u2212+]?\d+\.\d+"
    assert re.fullmatch(
        rf"What MEMIT broke first, with no regulariser: (NLI|dialogue) \(log p of the reference\) fell after 10 edits, "
        rf"from {number} to {number} nats per token \(difference {number} \[{number},{NB}{number}\], "
        rf"p{NB}<{NB}0\.001, paired t-test\), and also in (NLI|dialogue); no headline score is shown to fall up to "
        rf"20 edits\. Of 20 edits, {number} \[{number},{NB}{number}\] hold after the last\.",
        broke,
    ), broke
    less, more = saved.removeprefix("What saved it from MEMIT: ").split("; ")
    assert less.startswith("RECT does less harm than editing less, fall of log p of the reference 0.")
    assert more.startswith("RANDOM does more harm than editing less, fall of log p of the reference ")
    assert "nats per token where 16 facts are held (difference \u2212" in less and f"p{NB}=" in less
    (mine,) = found(tmp_path)
    gaps = {(e.rule.regularizer, e.measure): e.difference for e in mine.equals}
    assert set(gaps) == {(name, measure) for name in ("rect", "random") for measure in HARMS}
    for (name, _), gap in gaps.items():
        assert gap and (gap.value < 0) == (name == "rect")
    assert all(e.p == pytest.approx(SMALLEST) and e.p_holm == pytest.approx(6 * SMALLEST) for e in mine.equals)


def test_no_regulariser_is_better_than_editing_less(tmp_path: Path) -> None:
    """RECT is what scale would be: half the edits, half the harm."""
    unedited(tmp_path)
    runs(tmp_path, None, 0.05, 0.9)
    runs(tmp_path, ("rect", 0.4), 0.05, 0.9)
    *_, saved = said(tmp_path)
    assert saved.startswith(
        "What saved it from MEMIT: none of the regularisers is shown to do less harm than editing less where as many "
        "facts hold; the best is RECT, fall of log p of the reference "
    )
    assert f"(difference 0.00 [0.00,{NB}0.00], p{NB}=" in saved
    runs(tmp_path, ("random", 0.4), 0.4, 0.2)
    runs(tmp_path, ("pca", 0.4), 0.3, 0.3)
    *_, saved = said(tmp_path)
    assert "facts hold; PCA and RANDOM do more harm than editing less, RANDOM with the largest difference, " in saved


def test_no_harm_is_shown(tmp_path: Path) -> None:
    unedited(tmp_path)
    runs(tmp_path, None, 0.0, 0.9)
    _, broke, bare = said(tmp_path)
    assert broke.startswith(
        "What MEMIT broke first, with no regulariser: no log p is shown to fall up to 20 edits; no headline score is "
    )
    assert bare == "No regulariser was tried with MEMIT."


def test_older_results(tmp_path: Path) -> None:
    """Headline scores: what broke, and what a regulariser keeps, with how many of the edits hold."""
    unedited(tmp_path, likely=False)
    runs(tmp_path, None, None, 0.5, skill=0.1)
    runs(tmp_path, ("rect", 0.4), None, 0.9, skill=0.75)
    _, broke, saved = said(tmp_path)
    assert re.match(
        r"What MEMIT broke first, with no regulariser: (NLI|dialogue) accuracy fell after 10 edits, ", broke
    )
    assert "exact McNemar" in broke and "log p" not in broke
    assert saved.startswith(
        "What saved it from MEMIT: 4 scores significantly higher in 4 comparisons with the same edits"
    )
    assert re.search(r"accuracy after \d0 edits with RECT 40 %, 0\.\d+ instead of 0\.\d+ \(difference \+0", saved)
    assert re.search(r"; of the edits 0\.\d\d hold instead of 0\.\d\d\.$", saved)
    (mine,) = found(tmp_path)
    assert mine.likelihoods == [] and mine.drift == [] and not mine.balance.spots


def test_a_regulariser_that_keeps_nothing(tmp_path: Path) -> None:
    unedited(tmp_path, likely=False)
    runs(tmp_path, None, None, 0.9)
    runs(tmp_path, ("rect", 0.4), None, 0.9)
    *_, saved = said(tmp_path)
    assert "none of the regularisers is shown to keep a score in 4 comparisons with the same edits without one" in saved


def test_nothing_to_compare_with(tmp_path: Path) -> None:
    runs(tmp_path, None, 0.1, 0.9)
    (study,) = studies(read_all(tmp_path)[0])
    opening = summary(study, findings(study))
    assert "scores are compared with nothing" in opening.tests[0]
    assert "no headline score is shown to fall" in opening.lines[1]


def test_what_p_is_corrected_for(tmp_path: Path) -> None:
    unedited(tmp_path)
    runs(tmp_path, None, 0.05, 0.9)
    runs(tmp_path, ("rect", 0.4), 0.02, 0.9)
    (study,) = studies(read_all(tmp_path)[0])
    (small,) = summary(study, findings(study)).tests
    assert "its settings, tasks and numbers of edits (log p of the reference 8; headline scores 8)" in small
    assert small.endswith("At equal success: for a method's regularisers by measures (3).")


def test_a_collapse_is_told(tmp_path: Path) -> None:
    """Since the first number of edits of any task; by the results' own word."""
    unedited(tmp_path)
    gone = "its logits are NaN or infinite"
    make(tmp_path, "NLI", 0.1, Edited(10), harm=0.2, collapsed=gone)
    make(tmp_path, "NLI", 0.1, Edited(20), harm=0.4, collapsed=gone)
    make(tmp_path, "dialogue", 0.1, Edited(20), harm=0.4)
    _, broke, _ = said(tmp_path)
    assert "The model has collapsed after 10 edits: its logits are NaN or infinite (NLI)." in broke
    (mine,) = found(tmp_path)
    (setting,) = mine.names
    finding = quotes.finding(mine.study, mine.families[HEADLINE], setting, "no regulariser")
    assert ", the model has collapsed since 10 edits: its logits are NaN or infinite. " in finding
    (row,) = harms.first_harm([mine]).rows
    assert row[0].small == ("collapsed after 10 edits",)
    looks = {setting: style.curves(["x"])["x"]}
    shown = Overview({"ROME": mine.families[REFERENCE]}, "change")
    for figure in (
        overview.draw(shown, looks, style.WIDE),
        scores.abilities(mine.families[HEADLINE], looks, HEADLINE, style.WIDE),
    ):
        nli, dialogue = figure.axes
        assert [text.get_text() for text in nli.texts] == ["\u2020"] and not dialogue.texts
        assert nli.texts[0].xy[0] == pytest.approx(1), "at 10 edits, the second of three places"  # type: ignore[attr-defined]
        assert "collapsed from here on" in [text.get_text() for text in figure.legends[0].get_texts()]


# --- first harm ----------------------------------------------------------------------------------------------------


def test_first_harm(tmp_path: Path) -> None:
    """By log p after 10 edits in one task, by headline score after 20; RECT's is never shown."""
    for task in TASKS:
        make(tmp_path, task, 0.9, harm=0.0)
        for rule, much in ((None, 1.0), (("rect", 0.4), 0.0)):
            make(tmp_path, task, 0.9, Edited(10, rule=rule), harm=0.1 * much * (task == "NLI"))
            make(tmp_path, task, 0.9 - 0.8 * much, Edited(20, rule=rule), harm=0.4 * much)
    table = harms.first_harm(found(tmp_path))
    assert table.head == [
        *("", "headline score", "choice accuracy", "choice probability", "log p of the reference", "log p of the text"),
        "drift",
    ]
    bare, rect = table.rows
    assert [(cell.text, cell.small) for cell in bare[1:6]] == [
        ("20 edits", TASKS),
        ("20 edits", TASKS),
        ("10 edits", ("NLI",)),
        ("10 edits", ("NLI",)),
        ("10 edits", ("NLI",)),
    ]
    assert [cell.text for cell in rect[1:6]] == ["not up to 20"] * 5
    assert re.fullmatch(r"0\.0\d\d after 10 edits", bare[6].text) and re.fullmatch(
        r"0\.\d+ after 20 edits", bare[6].small[0]
    )
    assert rect[6].text == "0.000 after 10 edits"


ROME = Setting("Instance-Sequential", "ROME", None, "none", None, "{}")


def point(task: str, edits: int, change: float, p: float, setting: Setting = ROME, panel: Panel | None = None) -> Point:
    difference = Difference(Measure(change, change - 0.1, change + 0.1), p, "t", -1.0, 40)
    measure = Measure(-1 + change, -1.2 + change, -0.8 + change)
    return Point(panel or Panel(task, "", task), setting, edits, REFERENCE, [], measure, difference, p)


def test_first_falls() -> None:
    """Those of the smallest number of edits at which anything is significantly lower; a rise is no fall."""
    points = [
        *(point("NLI", 10, -0.2, 0.3), point("NER", 10, 0.5, 0.001)),
        *(point("NLI", 30, -0.4, 0.01), point("NER", 30, -0.1, 0.9), point("dialogue", 30, -0.3, 0.04)),
        *(point("NLI", 50, -0.9, 0.001), point("NLI", 5, -0.9, 0.001, replace(ROME, regularizer="rect"))),
    ]
    assert [(p.panel.task, p.edits) for p in first_falls(points, ROME)] == [("NLI", 30), ("dialogue", 30)]
    assert first_falls(points[:2], ROME) == []
    assert collapse([]) is None


# --- figures -------------------------------------------------------------------------------------------------------

SETTINGS = [replace(ROME, regularizer="rect", keep=i / 10) for i in range(1, 8)]
COUNTS = (10, 30, 50, 100, 200, 400)


def crowded(tasks: Sequence[str]) -> tuple[list[Point], dict[Setting, style.Curve]]:
    """Seven settings after six numbers of edits, all with the same significant fall."""
    panels = [Panel(task, "", task) for task in tasks]
    points = [point("", n, -0.3, 0.001, setting, panel) for panel in panels for setting in SETTINGS for n in COUNTS]
    curves = style.curves(str(setting.keep) for setting in SETTINGS)
    return points, {setting: curves[str(setting.keep)] for setting in SETTINGS}


def marks(figure: Figure) -> list[np.ndarray[Any, Any]]:
    """Of each panel's markers, point down: (x, y, size) in points of the page, as drawn."""
    with style.mpl.rc_context(style.STYLE):
        style._laid_out(figure)
    shown = []
    for ax in figure.axes:
        lines = [line for line in ax.get_lines() if line.get_marker() == "v"]
        places = [
            (*ax.transData.transform(xy) * 72 / figure.dpi, line.get_markersize())
            for line in lines
            for xy in line.get_xydata()
        ]
        shown.append(np.array(places))
    return shown


@pytest.mark.parametrize("columns", [style.WIDE, style.NARROW])
def test_no_marker_hides_another(columns: int) -> None:
    """However alike the values are: 42 marks in each of eight panels, each beside the other."""
    points, looks = crowded([f"task {i}" for i in range(8)])
    for places in marks(overview.draw(Overview({"ROME": points}, "change"), looks, columns)):
        assert len(places) == len(SETTINGS) * len(COUNTS)
        x = np.sort(places[:, 0])
        assert np.diff(x).min() > places[0, 2]


def test_a_fall_reads_in_grey_print() -> None:
    """Black whatever its line's colour, pointing down; a rise is white and points up; lines differ in their dashes."""
    panel = Panel("NLI", "", "NLI")
    points = [point("", 10, -0.3, 0.01, SETTINGS[0], panel), point("", 30, 0.3, 0.01, SETTINGS[0], panel)]
    points += [point("", 10, -0.3, 0.5, SETTINGS[1], panel)]
    _, looks = crowded(())
    figure = overview.draw(Overview({"ROME": points}, "change"), looks, style.WIDE)
    (ax,) = figure.axes
    shapes = {line.get_marker(): line for line in ax.get_lines() if line.get_marker() in ("v", "^", "o", "s")}
    assert set(shapes) == {"v", "^"}, "nothing is marked where nothing is shown"
    assert shapes["v"].get_color() == style.INK and shapes["^"].get_markerfacecolor() == "white"
    assert [line.get_text() for line in figure.legends[0].get_texts()] == [
        *("0.1", "0.2", "unedited", "significant fall", "significant rise"),
    ]
    lines = [line for line in ax.get_lines() if line.get_color() in style.COLOURS]
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == 2  # type: ignore[attr-defined]
    assert len(ax.collections) == 2, "a band for each"


def test_changes_of_one_method_share_their_scale_and_large_ones_are_logarithmic() -> None:
    panels = [Panel(task, "", task) for task in ("NLI", "NER")]
    small = [point("", 10, change, 0.5, ROME, panel) for panel, change in zip(panels, (-0.2, -0.9), strict=True)]
    large = [
        point("", 10, change, 0.5, replace(ROME, method="KN"), panel)
        for panel, change in zip(panels, (-0.2, -8.0), strict=True)
    ]
    looks = {p.setting: style.curves(["x"])["x"] for p in (*small, *large)}
    first, second, third, fourth = overview.draw(
        Overview({"ROME": small, "KN": large}, "change"), looks, style.WIDE
    ).axes
    assert first.get_ylim() == second.get_ylim() != third.get_ylim() == fourth.get_ylim()
    assert [ax.get_yscale() for ax in (first, third)] == ["linear", "symlog"]
    assert fourth.get_ylim()[0] < -8 and [ax.get_ylabel() for ax in (first, third)] == ["ROME", "KN"]


def test_methods_without_measures_have_an_overview_of_their_own(tmp_path: Path) -> None:
    """Older results of one method beside new ones of another; and new ones whose unedited result is an older one."""
    unedited(tmp_path)
    runs(tmp_path, None, 0.05, 0.9)
    for task in TASKS:
        make(tmp_path, task, 0.4, Edited(5))
    shown = overviews(found(tmp_path))
    assert {wanted: (list(part.rows), part.change) for wanted, part in shown.items()} == {
        REFERENCE: (["MEMIT\n10 per update"], "change of log p of the reference (nats per token)"),
        TEXT: (["MEMIT\n10 per update"], "change of log p of the text (nats per token)"),
        HEADLINE: (["ROME\nInstance-Sequential"], ""),
    }
    unedited(tmp_path, likely=False)
    methods = found(tmp_path)
    assert list(overviews(methods)) == [HEADLINE] and not any(f.drift or f.balance.spots for f in methods)


def test_a_task_without_a_measure_is_an_empty_place() -> None:
    panels = [Panel(task, "", task) for task in ("reasoning", "NLI")]
    rows = {"log p": [point("", 10, -0.2, 0.5, ROME, panel) for panel in panels]}
    rows["choice"] = [point("", 10, -0.2, 0.5, ROME, panels[1])]
    axes = overview.draw(Overview(rows, "change"), {ROME: style.curves(["x"])["x"]}, style.WIDE).axes
    assert [text.get_text() for text in axes[2].texts] == ["not measured"] and axes[2].get_ylabel() == "choice"
    assert axes[3].get_lines() and not axes[2].get_lines()


def test_numbers_of_edits_stand_at_equal_distances() -> None:
    figure, (ax,) = style.grid(1, style.WIDE)
    slots = Slots(ax, [50, 10, 400, 10], SETTINGS[:2])
    assert [slots.x(n) for n in (0, 10, 50, 400)] == [0, 1, 2, 3]
    assert slots.x(225) == pytest.approx(2.5)
    left, right = (slots.x(50, setting) for setting in SETTINGS[:2])
    assert (left + right) / 2 == pytest.approx(2) and right - left == pytest.approx(slots.step)
    assert slots.x(0, SETTINGS[0]) == 0, "the unedited model belongs to no curve"
    slots.axis(ax)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "10", "50", "400"]
    assert figure.axes == [ax]


def test_figure_and_tables_of_harm_at_equal_success(tmp_path: Path) -> None:
    unedited(tmp_path)
    runs(tmp_path, None, 0.05, 0.9)
    runs(tmp_path, ("scale", 0.5), 0.03, 0.5)
    runs(tmp_path, ("rect", 0.4), 0.02, 0.5)
    (mine,) = found(tmp_path)
    rules = mine.rule_names
    assert list(rules.values()) == ["no regulariser", "RECT", "SCALE"]
    curves = style.curves(rules.values())
    figure = plot_harm.draw(
        {mine.group: mine.balance}, {rule: curves[name] for rule, name in rules.items()}, style.WIDE
    )
    assert [ax.get_title() for ax in figure.axes] == list(words.HARMS.values())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*rules.values(), "editing less"]
    for ax, measure in zip(figure.axes, mine.balance.spots, strict=True):
        drawn = {tuple(xy) for line in ax.get_lines() if line.get_marker() in style.MARKERS for xy in line.get_xydata()}
        assert drawn == {(spot.held[0], spot.harm[0]) for spot in mine.balance.spots[measure]}
    table = harms.equal_success([mine])
    assert table and [row[0].text for row in table.rows] == ["RECT"] and len(table.head) == 5
    spots = harms.spots(mine)
    assert [(row[0].text, row[0].small) for row in spots.rows[:2]] == [
        ("no regulariser", ("10 edits",)),
        ("RECT 40 %", ("10 edits",)),
    ]
    each = harms.at_each(mine, REFERENCE)
    assert each and [row[0].text for row in each.rows] == [
        "no regulariser",
        "no regulariser",
        "SCALE 50 %",
        "SCALE 50 %",
    ]
    assert sum(row[3].text.startswith("holds ") for row in each.rows) >= 1, "more than RECT ever holds"


def test_figure_of_retention(tmp_path: Path) -> None:
    unedited(tmp_path, likely=False)
    for count in (4, 8, 12, 16):
        make(tmp_path, "NLI", 0.5, Edited(count))
    (mine,) = found(tmp_path)
    rows = {setting: cohorts(mine.study, setting) for setting in mine.names}
    looks = {setting: style.curves(["x"])["x"] for setting in rows}
    age, heat = retention.draw(rows, looks, style.WIDE).axes
    assert age.get_xlabel() == "edits made since"
    (table,) = rows.values()
    assert [text.get_text() for text in heat.texts] == [f"{c.success.value:.2f}" for row in table for c in row]
    assert len(heat.texts) == 1 + 2 + 3 + 4
    (row,) = retention.draw({setting: table[:1] for setting in rows}, looks, style.WIDE).axes[1].collections
    assert row.get_coordinates()[..., 1].tolist() == [[-0.5] * 2, [0.5] * 2], "a map of one row is as high as a row"
    heat.figure.draw_without_rendering()
    assert [label.get_text() for label in heat.get_xticklabels()] == ["1\u20134", "5\u20138", "9\u201312", "13\u201316"]
    (line,) = quotes.retention(rows, mine.names)
    assert line.startswith("After 16 ROME edits with no regulariser, ") and "of the edits 1 to 4 and " in line
