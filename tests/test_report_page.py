"""report.py: its sentences, its page, its files, and what it looks like in a browser."""

import csv
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from report_samples import Edited, make, whole_study
from tiny_settings import ROME_YAML

from analysis import cli, words
from analysis.collect import Setting, read_all
from analysis.compare import Difference
from analysis.html import quotes, tables
from analysis.plots import edits as plot_edits
from analysis.plots import scores as plot_scores
from analysis.plots import style
from analysis.study import HEADLINE, Panel, Point, family, studies
from analysis.tradeoff import Trade
from core.errors import UserError
from core.published import curves
from core.script import script
from core.types import Measure
from experiment import cli as scripts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.xdist_group("report"), pytest.mark.long]  # one report on everything serves all tests
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on everything there can be."""
    root = tmp_path_factory.mktemp("whole")
    whole_study(root / "test-result")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report.py", str(root / "test-result"), "--out", str(root / "report")])
        cli.main()
    return root / "report"


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    return (report / "index.html").read_text(encoding="utf-8")


def test_one_worker_makes_the_report(request: pytest.FixtureRequest) -> None:
    """Else each makes one: pytest-xdist's groups are part of a test's name, and lost with some versions of pytest."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("it is not run with --dist loadgroup")
    assert request.node.nodeid.endswith("@report")


# --- sentences -----------------------------------------------------------------------------------------------------

ROME = Setting("Instance-Sequential", "ROME", None, "none", None, "{}")
RECT = Setting("Instance-Sequential", "ROME", None, "rect", 0.4, "{}")
LABELS = {ROME: "no regulariser", RECT: "RECT 40 %"}
NB = words.NO_BREAK


def point(task: str, before: float, after: float, p: float, holm: float | None = None, **given: Any) -> Point:
    change = Measure(after - before, after - before - 0.1, after - before + 0.1)
    difference = Difference(change, p, given.get("test", "McNemar"), before, given.get("records", 1000))
    runs: list[Any] = [None] * given.get("runs", 1)
    setting, count, corrected = given.get("setting", ROME), given.get("edits", 20), p if holm is None else holm
    return Point(Panel(task, "", task), setting, count, "accuracy", runs, Measure(after, 0, 1), difference, corrected)


def test_sentence_on_falls() -> None:
    points = [point("NLI", 0.5, 0.1, 0.0001), point("NER", 0.4, 0.2, 0.01), point("dialogue", 0.3, 0.3, 1.0)]
    assert [*quotes.abilities(points, LABELS), quotes.tests(points)] == [
        "After 20 ROME edits with no regulariser, 2 of 3 scores are significantly lower; the largest fall is in NLI "
        f"accuracy, from 0.50 to 0.10 (difference \u22120.40 [\u22120.50,{NB}\u22120.30], p{NB}<{NB}0.001, "
        "exact McNemar).",
        f"p is corrected for 3 comparisons by Holm's method; significant means p{NB}<{NB}0.05.",
    ]


def test_sentence_where_nothing_is_significant() -> None:
    """The raw p may be small: what counts is the corrected one."""
    lines = quotes.abilities([point("NLI", 0.5, 0.4, 0.02, 0.3), point("NER", 0.4, 0.41, 0.6)], LABELS)
    assert lines[0].startswith("After 20 ROME edits with no regulariser, none of 2 scores is significantly lower; ")
    assert "the largest difference is in NLI accuracy" in lines[0] and f"p{NB}={NB}0.30, exact McNemar" in lines[0]


@pytest.mark.parametrize(
    ("after", "p", "verdict"),
    [
        (0.1, 0.01, "is significantly lower"),
        (0.9, 0.01, "is significantly higher"),
        (0.4, 0.5, "is not significantly different"),
    ],
)
def test_sentence_on_a_single_score(after: float, p: float, verdict: str) -> None:
    (line,) = quotes.abilities([point("NLI", 0.5, after, p, edits=1, runs=2)], LABELS)
    assert line.startswith(
        f"After 1 ROME edit with no regulariser (mean of 2 runs), NLI accuracy {verdict}: from 0.50 to"
    )


def test_a_sentence_per_setting_about_its_last_edits() -> None:
    lines = quotes.abilities(
        [
            point("NLI", 0.5, 0.1, 0.0001, edits=5),
            point("NLI", 0.5, 0.4, 0.5),
            point("NLI", 0.5, 0.3, 0.01, edits=10, setting=RECT),
        ],
        LABELS,
    )
    assert [line.split(",")[0] for line in lines[:2]] == [
        "After 20 ROME edits with no regulariser",
        "After 10 ROME edits with RECT 40 %",
    ]
    assert "all" not in lines[0] and "not significantly different" in lines[0]


NEEDED = "The smallest difference in right answers that could have been significant: "


def test_what_so_few_records_could_not_show() -> None:
    """Two comparisons of 8 records: 2 x 2 / 2^7 is the first p below 0.05, and no score starts with 7 right answers."""
    points = [point("NLI", 0.5, 0.0, 0.125, 0.25, records=8), point("dialogue", 0.875, 0.5, 0.25, 0.25, records=8)]
    assert quotes.limits(points) == [
        f"{NEEDED}0.88 (7 of 8 records, all of them changing the same way). No fall of NLI accuracy could have been "
        "shown: too few answers were right before."
    ]


def test_significant_ones_do_not_count_for_what_could_be_shown() -> None:
    points = [point("NLI", 0.9, 0.1, 1e-9), point("dialogue", 0.5, 0.4, 0.6)]
    assert quotes.limits(points) == [f"{NEEDED}0.006 (6 of 1,000 records, all of them changing the same way)."]
    assert quotes.limits(points[:1]) == quotes.limits([point("NER", 0.5, 0.4, 0.3, test="bootstrap")]) == []


def test_records_too_few_for_any_test() -> None:
    (line,) = quotes.limits([point("NLI", 1.0, 0.0, 0.125, records=4)])
    assert line == "With 4 records no change of right answers could have been significant: that takes 6 at least."


@pytest.mark.parametrize(
    ("before", "after", "low", "high", "text"),
    [
        (0.50, 0.10, -0.5, -0.3, ("0.50", "0.10", f"\u22120.40 [\u22120.50,{NB}\u22120.30]")),
        (0.094, 0.096, -0.0012, 0.05, ("0.094", "0.096", f"+0.002 [\u22120.001,{NB}+0.050]")),
        (2 / 3, 1 / 12, -0.79, -0.38, ("0.667", "0.083", f"\u22120.584 [\u22120.790,{NB}\u22120.380]")),
        (0.3002, 0.3004, -0.0002, 0.01, ("0.3002", "0.3004", f"+0.0002 [\u22120.0002,{NB}+0.0100]")),
        (0.4, 0.4, 0.0, 0.0, ("0.40", "0.40", f"0.00 [0.00,{NB}0.00]")),
        (0.5, 0.46, -0.08, -0.001, ("0.500", "0.460", f"\u22120.040 [\u22120.080,{NB}\u22120.001]")),
    ],
)
def test_digits_agree(before: float, after: float, low: float, high: float, text: tuple[str, str, str]) -> None:
    assert words.change(before, after, Measure(after - before, low, high)) == text


def test_a_difference_is_that_of_the_scores_as_they_are_written() -> None:
    """Whatever they are; and one that is there is never written as 0."""
    rng = np.random.default_rng(0)
    for n in (7, 24, 40, 1000):
        for first, second in rng.integers(0, n + 1, (300, 2)) / n:
            value = second - first
            before, after, change = words.change(first, second, Measure(value, value - 0.1, value + 0.1))
            shown = change.split(" ")[0].replace("\u2212", "-")
            assert len(before) == len(after) == len(shown.lstrip("+-"))
            assert float(after) - float(before) == pytest.approx(float(shown), abs=1e-9)
            assert (float(shown) == 0) == (first == second)


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0496, "= 0.0496"), (0.051, "= 0.05"), (0.004, "= 0.004"), (0.049999, "= 0.05000"), (0.3, "= 0.30")],
)
def test_a_p_below_the_level_is_written_so(p: float, text: str) -> None:
    assert words.p_value(p) == f"p {text}".replace(" ", NB)


def test_regularisers_are_named_by_the_results() -> None:
    """Also those that no row of a table here knows: by their name and all their parameters."""
    rules = [replace(RECT, regularizer="cap", keep=None, parameters=p) for p in ('{"max_norm": 2}', "{}")]
    assert [words.rule(rule) for rule in rules] == ["CAP max norm 2", "CAP"]
    assert words.rule(replace(RECT, parameters='{"rows": true}')) == "RECT 40 %, rows"


def test_a_finding_names_the_first_falls(tmp_path: Path) -> None:
    """Of all numbers of edits, also those before the last."""
    for task, left in (("NLI", 0.2), ("dialogue", 0.85)):
        make(tmp_path, task, 0.9)
        make(tmp_path, task, left, Edited(5))
        make(tmp_path, task, 0.0, Edited(20))
    (study,) = studies(read_all(tmp_path)[0])
    points = family(study.panels, study.groups[0], HEADLINE)
    (setting,) = study.settings
    found = quotes.finding(study, points, setting, "no regulariser")
    assert re.match(r"After 20 ROME edits with no regulariser, completions degenerate: \d+ of 48 empty", found)
    assert ". All 2 scores are significantly lower; the largest fall is in " in found
    assert ". The first significant falls are after 5 edits: NLI accuracy. Reliability is " in found
    five = [point for point in points if point.edits == 5]
    assert "first" not in quotes.finding(study, [p for p in points if p not in five], setting, "no regulariser")


def test_falls_and_rises_of_all_scores() -> None:
    points = [point("NLI", 0.5, 0.1, 0.001), point("NER", 0.4, 0.2, 0.001)]
    assert ", all 2 scores are significantly lower; " in quotes.abilities(points, LABELS)[0]
    points[1] = point("NER", 0.4, 0.9, 0.001)
    assert (
        ", 1 of 2 scores is significantly lower, 1 significantly higher; the largest fall is in NLI"
        in quotes.abilities(points, LABELS)[0]
    )


def test_sentence_on_the_frontier() -> None:
    good, other = (
        Trade(s, 10, Measure(x, 0, 1), Measure(y, 0.1, 0.9)) for s, x, y in ((RECT, 0.9, 0.8), (ROME, 0.8, 0.7))
    )
    (line,) = quotes.trade_off([good, other], LABELS)
    assert line.startswith("After 10 edits, ROME with RECT 40 % (reliability 0.90, relative ability 0.80 [0.10,")
    assert "is on the frontier: of the 2 settings measured none is better" in line
    assert quotes.trade_off([good], LABELS) == ["No two settings were measured at the same number of edits."]


def test_nothing_to_compare_with(tmp_path: Path) -> None:
    make(tmp_path / "r", "NLI", 0.5, Edited(5))
    assert "these scores are compared with nothing" in made(tmp_path / "r", tmp_path / "out", drawn=False)


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.12345, False, "0.123"),
        (-0.5, True, "\u22120.500"),
        (0.5, True, "+0.500"),
        (-0.0001, True, "0.000"),
        (float("nan"), False, "\u2013"),
    ],
)
def test_numbers(value: float, sign: bool, text: str) -> None:
    assert words.number(value, sign=sign) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0717, "7.2 % of"),
        (0.994, "99 % of"),
        (1.0, "1.0 times"),
        (9.96, "10 times"),
        (11234567.0, "11,000,000 times"),
    ],
)
def test_parts(value: float, text: str) -> None:
    assert words.part(value) == text


def test_labels_tell_twins_apart() -> None:
    twins = [
        Setting("M", "ROME", None, "none", None, f'{{"hparams": {{"v_lr": {lr}, "layers": [1]}}}}') for lr in (0.1, 0.5)
    ]
    assert list(words.labels([*twins, RECT]).values()) == [
        "no regulariser (v_lr 0.1)",
        "no regulariser (v_lr 0.5)",
        "RECT 40 %",
    ]


def test_labels_say_what_is_on_and_which_facts() -> None:
    """A setting that is on or not is named by its name, an edit file by its own and not by its hash."""
    plain = Setting("M", "ROME", None, "none", None, '{"hparams": {}, "edits": "0cf1"}', source="zsre")
    cached = replace(plain, details='{"hparams": {"cache": true}, "edits": "0cf1"}')
    assert list(words.labels([plain, cached]).values()) == ["no regulariser (no cache)", "no regulariser (cache)"]
    others = replace(plain, details='{"hparams": {}, "edits": "77aa"}', source="counterfact")
    assert list(words.labels([plain, others]).values()) == [
        "no regulariser (edits zsre)",
        "no regulariser (edits counterfact)",
    ]
    others = replace(others, details='{"hparams": {"context_templates": ["{}"]}, "edits": "77aa"}')
    assert list(words.labels([plain, others]).values()) == [
        "no regulariser (edits zsre)",
        "no regulariser (edits counterfact)",
    ], "one thing is enough"
    fed = replace(RECT, parameters='{"feedback": true, "every_few": 3}')
    assert words.rule(fed) == "RECT 40 %, feedback, every few 3"


def test_looks_differ() -> None:
    looks = style.curves(map(str, range(30)))
    assert len({(c.colour, c.marker, str(c.line)) for c in looks.values()}) == 30


@pytest.mark.parametrize("columns", [style.WIDE, style.NARROW])
def test_a_legend_has_room(columns: int) -> None:
    figure, _ = style.grid(8, columns)
    handles = [Line2D([], [], label=f"MEMIT, Batch-Sequential, {n} edits per update") for n in range(8)]
    style.legend(figure, handles)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    assert len(legend.get_texts()) == len(handles)


@pytest.mark.parametrize(("panels", "across"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 3), (8, 4)])
def test_panels_fill_the_figure(panels: int, across: int) -> None:
    figure, axes = style.grid(panels, style.WIDE)
    assert figure.get_figwidth() == style.WIDE * style.PANEL[0] and len(axes) == panels
    spec = axes[0].get_subplotspec()
    assert spec and spec.get_gridspec().ncols == across


def drawn_scores(root: Path) -> Figure:
    (study,) = studies(read_all(root)[0])
    looks = {setting: next(iter(style.curves([setting.regularizer]).values())) for setting in study.settings}
    return plot_scores.abilities(family(study.panels, study.groups[0], HEADLINE), looks, HEADLINE, style.WIDE)


def test_scores_of_one_kind_share_their_axis_and_a_small_one_says_so(tmp_path: Path) -> None:
    for task, before in (("NLI", 0.9), ("dialogue", 0.1), ("OpenDomainQA", 0.05)):
        make(tmp_path, task, before)
        make(tmp_path, task, 0.0, Edited(5))
    nli, opened, dialogue = drawn_scores(tmp_path).axes
    assert nli.get_ylim() == dialogue.get_ylim() != opened.get_ylim()
    assert opened.get_ylim()[1] < 0.5
    assert [ax.get_title("right") for ax in (nli, dialogue)] == ["accuracy", "accuracy"]
    assert opened.get_title("right") == f"exact match, axis to {opened.get_ylim()[1]:.2g}"


def test_points_at_zero_are_not_cut(tmp_path: Path) -> None:
    make(tmp_path, "NLI", 0.8)
    make(tmp_path, "NLI", 0.0, Edited(5, hold=0.0))
    (study,) = studies(read_all(tmp_path)[0])
    looks = {setting: next(iter(style.curves(["x"]).values())) for setting in study.settings}
    for figure in (drawn_scores(tmp_path), plot_edits.edit_quality(study, looks, style.WIDE)):
        with_markers = [
            line for ax in figure.axes for line in ax.get_lines() if line.get_marker() not in ("", "None", None)
        ]
        assert with_markers and not any(line.get_clip_on() for line in with_markers)


def test_the_trade_off_has_a_legend_for_colours_and_one_for_shapes() -> None:
    looks = dict(zip((ROME, RECT), style.curves(LABELS.values()).values(), strict=True))
    measured = [(ROME, 10, 0.8, 0.7), (RECT, 10, 0.9, 0.8), (ROME, 20, 0.6, 0.1), (RECT, 20, 0.5, 0.6)]
    trades = [Trade(s, n, Measure(x, 0, 1), Measure(y, 0, 1)) for s, n, x, y in measured]
    figure = plot_edits.trade_off(trades, looks, style.WIDE)
    colours, shapes = figure.legends
    assert [text.get_text() for text in colours.get_texts()] == ["no regulariser", "RECT 40 %", "unedited"]
    assert [text.get_text() for text in shapes.get_texts()] == ["10 edits", "20 edits", "filled: on the frontier"]
    assert colours.get_title().get_text() == "Colour: setting"
    assert shapes.get_title().get_text() == "Shape: number of edits"
    (ax,) = figure.axes
    points = [line for line in ax.get_lines() if line.get_marker() != "None"]
    drawn = {(line.get_color(), line.get_marker()): line.get_markerfacecolor() for line in points}
    first, second = (looks[setting].colour for setting in (ROME, RECT))
    assert drawn == {(first, "o"): "white", (second, "o"): second, (first, "s"): first, (second, "s"): second}
    figure.draw_without_rendering()
    upper, lower = (legend.get_window_extent() for legend in figure.legends)
    assert lower.y1 < ax.get_window_extent().y0 < ax.get_window_extent().y1 < upper.y0


def test_curves_leave_from_the_unedited_score(tmp_path: Path) -> None:
    """And each arrives at points of its own, which stand beside those of the others."""
    make(tmp_path, "NLI", 0.8)
    for rule in (None, ("rect", 0.4)):
        for count in (10, 20):
            make(tmp_path, "NLI", 0.4, Edited(count, rule=rule))
    (ax,) = drawn_scores(tmp_path).axes
    lines = [line.get_xydata() for line in ax.get_lines()]
    (unedited,) = next(line for line in lines if len(line) == 1)
    curves = [line for line in lines if len(line) == 3]
    assert len(curves) == 2
    for curve in curves:
        assert tuple(curve[0]) == tuple(unedited)
        assert any(len(line) == 2 and (line == curve[1:]).all() for line in lines), "its markers"
    assert (curves[0][1:, 0] < curves[1][1:, 0]).all() and (curves[0][1:, 1] == curves[1][1:, 1]).all()


def test_published_curves() -> None:
    """docs/published.yaml: two figures for ROME on gpt2-xl; the axis of Batch-Sequential counts updates."""
    first, second = curves("gpt2-xl", ROME.edit, "SentimentAnalysis")
    assert first[-1] == (20, 0.01) and second[-1] == (20, 0)
    memit = Setting("Batch-Sequential", "MEMIT", 30, "none", None, "{}")
    ((start, *_, last),) = curves("gpt2-xl", memit.edit, "NLI")
    assert (start, last) == ((0, 0.514), (900, 0.438)), "later points repeat facts"
    assert len(curves("gpt2-xl", RECT.edit, "summarization")) == 1
    assert curves("smollm2-135m", ROME.edit, "NLI") == []


# --- the page ------------------------------------------------------------------------------------------------------

PICTURES = 16
"""Of the whole study: all tasks by reference and by text, equal success, six of MEMIT, six of ROME, the trade-off."""
VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


@dataclass
class Checked(HTMLParser):
    """Reads a page and complains about tags that do not match."""

    open: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(page: str) -> Checked:
    parser = Checked()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_whole_and_alone(report: Path, page: str) -> None:
    found = parsed(page)
    assert [tag for tag, _ in found.tags[:2]] == ["html", "head"]
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in found.tags)
    attributes = [(key, value) for _, attrs in found.tags for key, value in attrs.items()]
    loaded = [value for key, value in attributes if key in ("src", "srcset")]
    assert loaded and all(value.startswith("data:image/svg+xml;base64,") for value in loaded)
    assert "http" not in re.sub(r"data:[^\"]*", "", page) and "url(" not in page and "@import" not in page
    ids = [value for key, value in attributes if key == "id"]
    assert len(ids) == len(set(ids))
    for link in (value for key, value in attributes if key == "href"):
        assert link.removeprefix("#") in ids if link[0] == "#" else (report / link).is_file(), link


def test_pictures_have_words(page: str) -> None:
    found = parsed(page)
    pictures = [attrs for tag, attrs in found.tags if tag == "img"]
    assert len(pictures) == PICTURES
    assert all(len(attrs["alt"]) > 40 for attrs in pictures)
    assert len({attrs["alt"] for attrs in pictures}) == PICTURES
    headings = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(headings))


def test_what_the_page_says(page: str) -> None:
    text = " ".join(" ".join(parsed(page).texts).split())
    for said in (
        "88 results: 8 of unedited models, 80 after edits",
        "gpt2-xl, float32, SHA-256 5a5a5a5a5a5a",
        "Sample data: small sets written for this repository.",
        "8 tasks (the first 24 records of each), before any edit",
        "MEMIT, Batch-Sequential, 10 edits per update",
        "After 20 ROME edits with no regulariser, ",
        "After 20 MEMIT edits with no regulariser (mean of 2 runs), ",
        "Tasks that count, because their unedited score is reliably above zero: reasoning, NLI,",
        "Scores with 95 % intervals, and degenerate completions.",
        "Not shown to differ: ",
        "completions degenerate: ",
        "Score minus that of the same edits with no regulariser, its 95 % interval",
        "The smallest number of edits after which a fall is shown, and the tasks that it is shown in.",
        "Harm of each regulariser minus that of editing less, in nats per token",
        "The model has collapsed after 20 edits: more than half of its completions are empty (8 tasks).",
        "the model has collapsed since 20 edits: more than half of its completions are empty",
        "Edits that hold after the last one, by when they were made",
        "0123456789ab",
    ):
        assert said in text, said
    assert "▼" in text


def test_the_summary_comes_first_details_are_folded_and_provenance_is_last(page: str) -> None:
    """Sentences, figures of all tasks by reference and text, harm at equal success; more sentences behind a fold."""
    top, foot = page[: page.index("<details")], page[page.index("<footer>") :]
    assert top.count("<figure") == 3 and top.count("<table>") == 2
    summary = top[: top.index("<figure")]
    for said in ("What was run: 8 tasks", "What ROME broke first", "What saved it from ROME: RECT does less harm than"):
        assert f"<li>{said}" in summary, said
    assert "(difference \u2212" in summary and "paired t-test" in summary and f"p{NB}" in summary
    details = page[len(top) : -len(foot)]
    assert details.count("<li>After 20 ") >= 5 and "exact McNemar" in details
    assert page.count("<li>After 20 MEMIT edits with no regulariser (mean of 2 ") >= 3
    assert f"{NEEDED}0." in details and "eliability is 0." in details
    for said in ("SHA-256 5a5a5a5a5a5a", "0123456789ab", "How to read it", "numpy "):
        assert said in foot and said not in page[: -len(foot)], said


def test_so_few_records_and_a_collapse(tmp_path: Path) -> None:
    """8 records: nothing is significant, and the page says why; the empty completions stand beside the scores."""
    for task in ("NLI", "reasoning"):
        make(tmp_path / "r", task, 0.6, n=8)
        make(tmp_path / "r", task, 0.0, Edited(1, "KN", hold=0.0), n=8)
    page = made(tmp_path / "r", tmp_path / "out", drawn=False)
    findings = page[page.index('<details class="part"') :]
    assert re.search(r"completions degenerate: \d+ of 16 empty \(before any edit none\)\. None of 2 ", findings)
    assert f"{NEEDED}0.88 (7 of 8 records, all of them changing the same way). No fall of reasoning " in findings
    table = page[page.index("<caption><span>Scores with") :].split("</table>")[0]
    empty = [
        json.loads(file.read_text())["degenerate"]["empty"] for file in sorted((tmp_path / "r").rglob("*KN-1.json"))
    ]
    assert re.findall(r"<small>(\d) of 8 empty</small></td>", table)[-2:] == [str(n) for n in empty[::-1]]


def test_only_an_unedited_model(tmp_path: Path) -> None:
    make(tmp_path / "r", "NLI", 0.5)
    assert "Only the unedited model was measured: there is nothing" in made(tmp_path / "r", tmp_path / "out")


def test_tables_hold_the_numbers(report: Path, page: str) -> None:
    """Each headline score of a single run in the CSV stands in the page, with its interval."""
    rows = list(csv.DictReader((report / "results.csv").open(encoding="utf-8")))
    headlines = [row for row in rows if row["metric"] in ("f1", "rouge_mean", "solve_rate", "accuracy", "exact_match")]
    assert len(headlines) == 88
    for row in headlines:
        value, low, high = (words.number(float(row[key])) for key in ("value", "low", "high"))
        if row["method"] != "MEMIT":
            assert re.search(rf"<td>{value}( [▼▲])?<small>\[{low},{NB}{high}\]</small>(<small>|</td>)", page), row


def test_a_drift_has_no_p_in_the_table(report: Path) -> None:
    """It is above 0 after any change: what was not tested is not to look as if it had been."""
    rows = list(csv.DictReader((report / "results.csv").open(encoding="utf-8")))
    tested = {
        name: [bool(row["p"]) for row in rows if row["metric"] == name and row["difference"]] for name in MEASURED
    }
    assert all(tested["text_logprob"]) and not any(tested["drift"]) and len(tested["drift"]) == 88 - 8


def test_the_table_of_differences(report: Path) -> None:
    """Each kind of comparison is there; of single runs with the numbers of the table of results."""
    rows = list(csv.DictReader((report / "comparisons.csv").open(encoding="utf-8")))
    assert {row["against"] for row in rows} == {"unedited", "no regulariser", "equal success"}
    for row in rows:
        assert bool(row["p"]) == bool(row["p_holm"]) and (row["metric"] != "drift" or row["facts"] or not row["p"])
        if row["difference"]:
            assert float(row["difference"]) == pytest.approx(float(row["value"]) - float(row["other"]), abs=1e-9), row
    results = list(csv.DictReader((report / "results.csv").open(encoding="utf-8")))
    keys = ("model", "data", "method", "mode", "batch_size", "regularizer", "keep", "parameters", "edits")
    known = {tuple(row[key] for key in (*keys, "task", "metric")): row for row in results}
    single = [row for row in rows if row["against"] == "unedited" and row["runs"] == "1" and row["difference"]]
    assert len(single) > 100
    for row in single:
        result = known[tuple(row[key] for key in (*keys, "task", "metric"))]
        for name, theirs in (("difference", "difference"), ("low", "difference_low"), ("p", "p"), ("test", "test")):
            assert row[name] == result[theirs], (row, name)


MEASURED = ("text_logprob", "drift")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    nasty = '<script>alert("1")</script>&{x}'
    model = {"name": nasty, "sha256": "00" * 32, "dtype": "float32"}
    make(tmp_path / "r", "NLI", 0.8, model=model)
    make(tmp_path / "r", "NLI", 0.4, Edited(3, method='<script src="x">'), model=model)
    page = made(tmp_path / "r", tmp_path / "out", nasty)
    assert "<script" not in page and page.count("&lt;script&gt;") > 3
    parsed(page)


def made(results: Path, out: Path, title: str = "T", drawn: bool = True) -> str:
    """The page of a report on `results`, made in this process; drawing takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(style, "render", lambda draw: style.Picture(b"<svg/>", b"", b"<svg/>", 1.0))
        patch.setattr(sys, "argv", ["report.py", str(results), "--out", str(out), "--title", title])
        cli.main()
    return (out / "index.html").read_text(encoding="utf-8")


def test_refused_updates(tmp_path: Path) -> None:
    """A row for each; no table where none was, or where an older result does not say."""
    file = make(tmp_path / "r", "NLI", 0.4, Edited(5))
    text = file.read_text()
    listed = '"refused": [{"edits": [203, 204], "reason": "loss is <NaN>"}]'
    for part, row in (('"x": 0', None), ('"refused": []', None), (listed, ["203 and 204", "loss is <NaN>"])):
        file.write_text(text.replace('"refused": []', part))
        (study,) = studies(read_all(tmp_path / "r")[0])
        table = tables.refused(study, {study.settings[0]: "no regulariser"})
        assert (table and [cell.text for cell in table.rows[0][1:]]) == row
    page = made(tmp_path / "r", tmp_path / "out", drawn=False)
    assert "<td>203 and 204</td><td>loss is &lt;NaN&gt;</td>" in page


def test_apostrophes_are_typographic_and_names_too(tmp_path: Path) -> None:
    make(tmp_path / "r", "NLI", 0.8)
    page = made(tmp_path / "r", tmp_path / "out", "What's left")
    assert "<h1>What\u2019s left</h1>" in page
    assert "'" not in re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL)


# --- its files -----------------------------------------------------------------------------------------------------


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    """Once in this process, once as a command, with another order of sets and another clock."""
    make(tmp_path / "r", "NER", 0.8)
    make(tmp_path / "r", "NER", 0.4, Edited(5))
    made(tmp_path / "r", tmp_path / "a", "What did the edits break?")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1"}
    command = [sys.executable, str(ROOT / "report.py"), str(tmp_path / "r"), "--out", str(tmp_path / "b")]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == f"2 results -> {tmp_path / 'b' / 'index.html'}\n"
    first, second = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert first == second
    assert len(first) == 3 + 2 * 6  # the page, two tables, six figures twice
    assert {Path(name).suffix for name in first if name.startswith("figures/")} == {".svg", ".png"}


def test_alone_it_reads_the_results_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "test-result", "NLI", 0.8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py"])
    cli.main()
    assert (tmp_path / "report" / "index.html").is_file()


def test_an_older_report_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    make(tmp_path / "r", "NLI", 0.8)
    out = tmp_path / "deep" / "report"
    made(tmp_path / "r", out, "first")
    (out / "figures" / "left-over.svg").write_text("")
    assert "second" in made(tmp_path / "r", out, "second")
    assert {path.name for path in out.iterdir()} == {"index.html", "results.csv", "comparisons.csv", "figures"}
    assert list((out / "figures").iterdir()) == []
    assert list(out.parent.iterdir()) == [out]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something that is no report"):
        made(tmp_path / "r", out)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["<html>mine</html>", None])
def test_other_folders_are_refused(tmp_path: Path, content: str | None) -> None:
    make(tmp_path / "r", "NLI", 0.8)
    out = tmp_path / "report"
    if content is None:
        out.write_text("a file")
    else:
        out.mkdir()
        (out / "index.html").write_text(content)
    with pytest.raises(UserError, match="--out"):
        made(tmp_path / "r", out)
    assert (out if content is None else out / "index.html").read_text() == (content or "a file")


def test_a_report_that_cannot_be_placed_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "r", "NLI", 0.8)
    out = tmp_path / "report"
    made(tmp_path / "r", out, "first")
    before, replace = digest(out), os.replace

    def fail(source: Any, target: Any) -> None:
        if Path(source).parent != tmp_path:  # the scratch folder it was made in
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left on device; --out"):
        made(tmp_path / "r", out, "second")
    assert digest(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"r", "report"}


@pytest.mark.parametrize("words", [["nothing"], [], ["--nonsense"]])
def test_one_line_and_exit_2(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", *words])
    with pytest.raises(SystemExit) as stop:
        script(cli.main)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and list(tmp_path.iterdir()) == []


def test_results_of_the_scripts(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two scripts write today can be read: a tiny model, before and after two edits."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "rome.yaml").write_text(ROME_YAML)
    common = f"--model {tiny_folder} --data data/sample --limit 3 --device cpu --results {tmp_path / 'r'}".split()
    monkeypatch.setattr(sys, "argv", ["test-task.py", "NLI", *common])
    scripts.test_task()
    words = f"NLI Instance-Sequential ROME 0 2 1 --hparams {tmp_path / 'rome.yaml'}".split()
    monkeypatch.setattr(sys, "argv", ["test-task-after.py", *words, *common])
    scripts.test_task_after()
    page = made(tmp_path / "r", tmp_path / "report")
    assert "<li>After 2 ROME edits with no regulariser, " in page
    assert "NLI accuracy is not significantly different: " in page
    assert "How much the log p of the reference answer differs from the unedited model\u2019s" in page
    assert "<h3 " in page and "Harm at equal success" in page
    assert "the edited weights have changed by " in page


# --- what it looks like --------------------------------------------------------------------------------------------

PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images], boxes = [...document.querySelectorAll("h1, h2, h3, p, li, dd, figure")];
  parent.postMessage([
    innerWidth,
    document.documentElement.scrollWidth,
    images.length,
    images.filter(i => i.complete && i.naturalWidth > 0).length,
    images.filter(i => i.currentSrc === i.src).length,
    Math.round(Math.min(...images.map(i => i.getBoundingClientRect().width))),
    boxes.filter(box => box.getBoundingClientRect().right > innerWidth + 1).length,
  ].join(" "), "*");
});</script>"""
FRAME = """<!DOCTYPE html><script>onmessage = e => document.documentElement.dataset.probe = e.data</script>
<iframe src="probed.html" width="{width}" height="900" style="border: 0"></iframe>"""
"""Chromium's window is never narrower than 500 pixels; a frame is."""


def browse(folder: Path, page: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Headless Chromium, with a new profile and no traffic of its own."""
    assert CHROMIUM
    quiet = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --hide-scrollbars"
    profile = f"--user-data-dir={folder / 'profile'}"
    return subprocess.run(
        [CHROMIUM, *quiet.split(), profile, *words, page.as_uri()], capture_output=True, timeout=120, check=True
    )


@needs_chromium
@pytest.mark.parametrize(("width", "wide"), [(1280, True), (420, False)])
def test_in_a_browser(report: Path, page: str, tmp_path: Path, width: int, wide: bool) -> None:
    """Every picture is shown, the version for the width is taken, and nothing sticks out on the right."""
    probed = tmp_path / "probed.html"
    opened = page.replace("<details", "<details open").replace("</body>", f"{PROBE}</body>")
    probed.write_text(opened, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    dom = browse(tmp_path, tmp_path / "frame.html", "--dump-dom", "--virtual-time-budget=5000").stdout.decode()
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found
    inner, scroll, images, shown, as_wide, smallest, outside = map(int, found[1].split())
    assert inner == width and scroll <= width and outside == 0
    assert images == shown == PICTURES
    assert as_wide == (images if wide else 0)
    assert smallest > (300 if wide else 250)


@needs_chromium
@pytest.mark.slow
def test_dark_where_the_reader_wants_it(report: Path, tmp_path: Path) -> None:
    """The page and its figures: hardly anything is white, and the edges of the figures are not seen."""
    shot = tmp_path / "page.png"
    dark = "--blink-settings=preferredColorScheme=0"
    browse(tmp_path, report / "index.html", dark, "--window-size=1280,5000", f"--screenshot={shot}")
    picture = (imread(shot)[..., :3] * 255).round().astype(int)
    assert (picture[:, :12] == 0x1A).all()
    assert ((np.abs(picture - 0x1A) <= 1).all(axis=2)).mean() > 0.8 and (picture.min(axis=2) > 240).mean() < 0.01


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 5000), (420, 9000)])
def test_a_screenshot_is_no_blank(report: Path, tmp_path: Path, width: int, height: int) -> None:
    """Ink, white, and the colours of the first curves are there; the margins are empty."""
    shot = tmp_path / "page.png"
    browse(tmp_path, report / "index.html", f"--window-size={width},{height}", f"--screenshot={shot}")
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (width, height)
    picture = (imread(shot)[..., :3] * 255).round().astype(int)
    for colour in style.COLOURS[:3]:
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        near = (np.abs(picture - wanted).max(axis=2) < 12).sum()
        assert near > 500, colour
    assert 0.01 < (picture.max(axis=2) < 90).mean() < 0.2
    assert (picture[:, :12] == 255).all() and (picture[:, -12:] == 255).all()
