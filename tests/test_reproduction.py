"""The study's page says what its tables say: it is made from them, and no number in it is written by hand."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from analysis.collect import Setting
from analysis.export import COLUMNS, COMPARED, EQUAL
from analysis.harm import Equal
from core.errors import UserError
from core.types import Measure
from docs.reproduction import __main__ as study
from docs.reproduction import figures
from docs.reproduction.masks import Masks
from docs.reproduction.tables import Tables

HERE = ROOT / "docs/reproduction"


def test_the_page_is_made_from_the_tables() -> None:
    """Byte for byte: python -m docs.reproduction makes it again."""
    assert (HERE / "README.md").read_text(encoding="utf-8") == study.page()


def test_a_number_written_by_hand_is_of_the_design() -> None:
    """Outside of what is filled in there are sizes, levels and names of settings alone."""
    template = re.sub(r"\{[{%#].*?[}%#]\}", "", (HERE / "page.jinja").read_text(encoding="utf-8"), flags=re.DOTALL)
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`", "", template)
    assert numbers(prose) <= numbers((HERE / "design.md").read_text(encoding="utf-8"))


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.-])\d+(?:[.,]\d+)*", text))


def test_a_sentence_that_is_not_so_stops_it() -> None:
    assert study.rendered("{{ so(2 > 1) }}more{{ 0.25 | n(2, sign=True) }}") == "more+0.25"
    with pytest.raises(UserError, match=r"page\.jinja, line 2: the sentence below is not true of the report's tables"):
        study.rendered("As it is.\n{{ so(1 > 2) }}Not so.")


def test_what_the_tables_lack_stops_it(tables: Tables) -> None:
    with pytest.raises(UserError, match=r"page\.jinja, line 1: results\.csv has no ROME, none after 10 edits"):
        study.rendered('{{ t.at("ROME", "none", 10).mean("drift") }}', t=tables)
    with pytest.raises(UserError, match=r"page\.jinja, line 2: 'dict object' has no attribute 'PRUNE'"):
        study.rendered("As it is.\n{{ dict()['PRUNE'].held }}")


# --- tables by hand ------------------------------------------------------------------------------------------------


def write(file: Path, columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two draws of ten MEMIT edits, two tasks; CounterFact's facts and another limit beside them."""
    common = {"method": "MEMIT", "edits": 10, "regularizer": "none", "edit_data": "zsre", "limit": 24}
    results = []
    for also, plus in (({}, 0.0), ({"edit_data": "counterfact"}, 1.0), ({"limit": 40}, 2.0)):
        for draw, held, changes in ((1, 0.5, {"NLI": -0.3, "NER": -0.3}), (2, 0.7, {"NLI": -0.1, "NER": 0.1})):
            row = {**common, **also, "draw": draw}
            for task, change in changes.items():
                text = {"metric": "text_logprob", "difference": change + plus, "p": 0.02}
                results += [{**row, "task": task, **more} for more in (text, {"metric": "drift", "difference": 0.2})]
            results.append({**row, "task": "", "metric": "after reliability", "value": held})
    rule = {"regularizer": "rect", "against": EQUAL, "metric": "drift", "low": 1}
    write(tmp_path / "results.csv", COLUMNS, results)
    write(tmp_path / "comparisons.csv", COMPARED, [{**common, **rule}])
    return tmp_path


@pytest.fixture
def tables(folder: Path) -> Tables:
    return Tables(folder)


def test_what_the_tables_say(tables: Tables) -> None:
    """Means over tasks and draws; harm is shown where p is small after correction in every draw."""
    at = tables.at("MEMIT", "none", 10)
    assert (at.held, at.draws, at.mean("text_logprob")) == pytest.approx((6.0, 2, -0.15))
    assert at.falls("text_logprob") == ["NLI"], "one of NER's two draws says the opposite"
    assert (at.helds, at.drifts) == (["5", "7"], ["0.20", "0.20"])
    assert at.highest("text_logprob") == pytest.approx(0.1)
    assert at.of_task("drift", "NER") == pytest.approx(0.2) and at.drift(["NLI"]) == ["0.20"]
    assert tables.at("MEMIT", "none", 10, edit_data="counterfact").mean("text_logprob") == pytest.approx(0.85)
    assert tables.at("MEMIT", "none", 10, limit=40).mean("text_logprob") == pytest.approx(1.85)
    assert tables.equal("MEMIT", "rect", "drift")["low"] == "1"


def test_what_they_do_not_say(tables: Tables) -> None:
    assert not tables.made("MEMIT", "none", 30) and tables.made("MEMIT", "none", 10)
    with pytest.raises(LookupError, match=r"results\.csv has no MEMIT, RECT 40 % after 10 edits$"):
        tables.at("MEMIT", "RECT 40 %", 10)
    with pytest.raises(LookupError, match=r"0 rows of results\.csv: headline of At"):
        tables.at("MEMIT", "none", 10).falls("headline")
    tables.results *= 2
    with pytest.raises(LookupError, match="4 rows"):
        tables.at("MEMIT", "none", 10).mean("drift")


def test_a_draw_with_a_report_of_its_own_is_one_more(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As if one report had all of them."""
    further = tmp_path_factory.mktemp("draw-3")
    with (folder / "results.csv").open() as file:
        rows = [{**row, "draw": "3"} for row in csv.DictReader(file) if row["draw"] == "1"]
    write(further / "results.csv", COLUMNS, rows)
    write(further / "comparisons.csv", COMPARED, [])
    tables = Tables(folder, further)
    at = tables.at("MEMIT", "none", 10)
    assert at.draws == 3 and at.held == pytest.approx(10 * (0.5 + 0.7 + 0.5) / 3)
    assert at.mean("text_logprob") == pytest.approx((-0.3 + 0.0 - 0.3) / 3)


def test_a_rule_is_held_against_scale_of_its_own_draw(folder: Path) -> None:
    tables = Tables(folder)
    plain, half = tables.results.copy(), {"metric": "after reliability", "value": "0.25"}
    tables.results += [{**row, "regularizer": "scale", "keep": "0.8"} for row in plain]
    rect = [{**row, "regularizer": "rect", "keep": "0.4"} for row in plain if row["draw"] == "2"]
    tables.results += [{**row, **(half if "reliability" in row["metric"] else {"difference": "0.1"})} for row in rect]
    assert [spot.held[0] for spot in tables.spots("MEMIT", ["scale 0.8"], "drift")["1"]] == [5.0]
    (found,) = tables.less("MEMIT", "RECT 40 %", "drift")
    assert found.facts == 2.5 and found.difference is not None
    assert found.difference.value == pytest.approx(0.1 - 0.2 * 2.5 / 7), "draw 2 holds 7 at 0.2 with scale"


def test_200_facts_are_held_against_scale_of_their_own_set(tables: Tables) -> None:
    """By straight lines from the unedited model; not where scale was not run. Past keys are apart."""
    scaled, rect = ({"regularizer": name, "keep": keep} for name, keep in (("scale", "0.8"), ("rect", "0.4")))
    tables.results = [
        *after_200("", {}, held=100, drift=0.2),
        *after_200("", scaled, held=80, drift=0.1),
        *after_200("", rect, held=90, drift=0.3),
        *after_200("1", {}, held=100, drift=0.2),
        *after_200("1", rect, held=90, drift=0.3),
        *after_200("1", {"path": "long/cache/result.json"}, held=180, drift=0.0),
    ]
    found = tables.long()
    assert {where: at.helds for where, at in found.items()} == {
        ("MEMIT", "none"): ["100", "100"],
        ("MEMIT", "RECT 40 %"): ["90", "90"],
        ("MEMIT", "scale 0.8"): ["80"],
        ("MEMIT with past keys", "none"): ["180"],
    }
    plain = found["MEMIT", "none"]
    assert [[at.draw for at in part.each] for part in (plain.undrawn, plain.drawn)] == [[""], ["1"]]
    less = [each.difference for each in tables.long_less("MEMIT", "RECT 40 %", "drift")]
    assert [each and each.value for each in less] == pytest.approx([0.3 * 80 / 90 - 0.1])


def test_what_costs_no_facts(tables: Tables) -> None:
    """Seven of 200 are next to none, nine are not."""
    tables.results = [*after_200("1", {}, held=100, drift=0.2), *after_200("2", {}, held=80, drift=0.2)]
    for rule, second in (("random", 73), ("magnitude", 71)):
        for draw, held in (("1", 120), ("2", second)):
            tables.results += after_200(draw, {"regularizer": rule, "keep": "0.4"}, held=held, drift=0.1)
    none, few, more = (
        tables.at("MEMIT", rule, 200, limit=40, edit_data="") for rule in ("none", "random 40 %", "magnitude 40 %")
    )
    assert study.costless(none, few) and not study.costless(none, more)


def after_200(draw: str, also: dict[str, str], held: int, drift: float) -> list[dict[str, str]]:
    """Rows of results.csv: MEMIT with one task."""
    row = {
        "method": "MEMIT",
        "edits": "200",
        "limit": "40",
        "edit_data": "",
        "draw": draw,
        "path": "long/result.json",
        **RULE,
        **also,
    }
    success = {"task": "", "metric": "after reliability", "value": str(held / 200)}
    return [{**row, **success}, {**row, "task": "NLI", "metric": "drift", "difference": str(drift)}]


RULE = {"regularizer": "none", "keep": "", "parameters": ""}


def test_which_scores_could_fall(tables: Tables) -> None:
    """Nine of 24 answers must turn wrong in one of eight tasks; a graded score is not of right and wrong."""
    scores = {"a": 9 / 24, "b": 8 / 24, "NER": 0.9, **dict.fromkeys("cdefg", 0.0)}
    assert study.able(scores) == ["a"]
    before = {"edits": "0", "limit": "24"}
    tables.results = [
        {**before, "task": task, "metric": metric, "value": value}
        for task, own, best in (("NLI", "0.5", "0.6"), ("NER", "0.2", "0.0"))
        for metric, value in (("accuracy", own), ("trivial", best))
    ]
    assert tables.above_trivial() == ["NER"]


def test_what_every_draw_says() -> None:
    """Of a row its interval, of comparisons with editing less their signs; one that is not known agrees with none."""
    assert [study.below({"high": high}) for high in ("-1", "1")] == [True, False]
    drawn = [compared(value) for value in (0.2, 0.1, -0.1, None)]
    assert [study.agreed(drawn[a:b]) for a, b in ((0, 2), (2, 3), (1, 3), (0, 4))] == ["more", "less", "", ""]
    assert [study.worse(drawn[a:b]) for a, b in ((0, 2), (0, 1), (1, 3))] == [True, False, False], "one draw is not all"
    assert study.gaps(drawn) == "+0.200 · +0.100 · −0.100 · –"
    assert [study.gaps(drawn[:n]) for n in (1, 2)] == ["+0.200", "**+0.200 · +0.100**"], "one draw agrees with none"


def compared(value: float | None) -> Equal:
    difference = None if value is None else Measure(value, float("nan"), float("nan"))
    return Equal(Setting("", "ROME", None, "rect", None, ""), "drift", None, 5.0, 5.0, 1.0, 1.0, difference, None)


def test_what_a_mask_writes_is_a_mean_over_layers_or_tasks(tmp_path: Path) -> None:
    file = tmp_path / "masks.csv"
    file.write_text("rule,measure,of,value\nnone,ratio,5,0.5\nnone,ratio,6,1.5\nscale:keep=0.8,ratio,5,3.0\n")
    masks = Masks(file)
    assert (masks.mean("none", "ratio"), masks.mean("scale 0.8", "ratio")) == (1.0, 3.0)
    assert masks.rules == ["none", "scale 0.8"]
    with pytest.raises(LookupError, match="no drift of none"):
        masks.mean("none", "drift")


def test_the_readme_has_its_table_and_its_figure() -> None:
    page, readme = ((folder / "README.md").read_text(encoding="utf-8") for folder in (HERE, ROOT))
    top = readme[: readme.index("## Two commands")]
    rows = [line for line in top.splitlines() if line.startswith("|")][2:]
    assert rows and set(rows) <= set(page.splitlines())
    (shown,) = re.findall(r"\(docs/reproduction/(.*?\.png)\)", top)
    assert f"({shown})" in page


def test_the_figures_are_drawn_and_shown(tmp_path: Path) -> None:
    """All that the page shows, and no other."""
    found = study.tables()
    figures.draw(found["t"], found["masks"], tmp_path)
    shown = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (HERE / "README.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.name for path in tmp_path.iterdir())
    for name in shown:
        assert (HERE / name).stat().st_size > 10_000 and (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
