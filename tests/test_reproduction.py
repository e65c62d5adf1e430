"""The study's page says what its tables say: it is made from them, and no finding in it is written by hand."""

import csv
import re
from collections.abc import Iterable
from copy import deepcopy
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
from docs.reproduction.tables import Masks, Tables

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
    with pytest.raises(UserError, match=r"page\.jinja, line 1: 0 rows of comparisons\.csv: drift of At"):
        study.rendered('{{ t.at("ROME", "none", 10).mean("drift") }}', t=tables)


# --- tables by hand ------------------------------------------------------------------------------------------------


def write(file: Path, columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Two draws of ten MEMIT edits, two tasks; CounterFact's facts and another limit beside them."""
    common = {"method": "MEMIT", "edits": 10, "regularizer": "none", "edit_data": "zsre", "limit": 24}
    compared, results = [], []
    for also, plus in (({}, 0.0), ({"edit_data": "counterfact"}, 1.0), ({"limit": 40}, 2.0)):
        for task, difference, p, draws in (("NLI", -0.2, 0.02, (-0.3, -0.1)), ("NER", -0.1, 0.01, (-0.3, 0.1))):
            row = {**common, **also, "task": task, "metric": "text_logprob"}
            compared.append({**row, "against": "unedited", "difference": difference + plus, "p": p})
            results += [{**row, "draw": i, "difference": d + plus} for i, d in enumerate(draws)]
            drift = {"metric": "drift", "difference": -difference + plus}
            compared.append({**row, "against": "unedited", **drift})
        reliability = {"task": "", "metric": "after reliability"}
        results += [{**common, **also, **reliability, "draw": i, "value": v} for i, v in enumerate((0.5, 0.7))]
    write(tmp_path / "results.csv", COLUMNS, results)
    write(tmp_path / "comparisons.csv", COMPARED, compared)
    return Tables(tmp_path)


def test_what_the_tables_say(tables: Tables) -> None:
    """Means over tasks and draws; harm is shown where p is small after correction and all draws agree."""
    at = tables.at("MEMIT", "none", 10)
    assert (at.held, at.draws, at.mean("text_logprob")) == pytest.approx((6.0, 2, -0.15))
    assert at.falls("text_logprob") == ["NLI"], "one of NER's two draws says the opposite"
    assert at.ranked == ["NLI", "NER"] and at.of_task("drift", "NER") == pytest.approx(0.1)
    assert tables.at("MEMIT", "none", 10, edit_data="counterfact").mean("drift") == pytest.approx(1.15)
    assert tables.at("MEMIT", "none", 10, limit=40).mean("drift") == pytest.approx(2.15)


def test_what_they_do_not_say(tables: Tables) -> None:
    assert not tables.made("MEMIT", "none", 30) and tables.made("MEMIT", "none", 10)
    with pytest.raises(LookupError, match=r"0 rows of comparisons\.csv: drift of At"):
        tables.at("MEMIT", "RECT 40 %", 10).mean("drift")
    with pytest.raises(LookupError, match=r"0 rows of comparisons\.csv: \{.*'rect'"):
        tables.equal("MEMIT", "rect", "drift")
    tables.reports[0].compared *= 2
    with pytest.raises(LookupError, match="4 rows"):
        tables.at("MEMIT", "none", 10).mean("drift")


def test_a_further_draw_has_tables_of_its_own(tables: Tables, tmp_path: Path) -> None:
    """Means are over draws, harm is what all of them show, and a regulariser is compared within each."""
    further = deepcopy(tables.reports[0])
    for row in further.compared:
        row["difference"] = str(2 * float(row["difference"]))
        row["p"] = "0.3" if (row["task"], row["metric"]) == ("NLI", "text_logprob") else row["p"]
    further.results = [row for row in further.results if row["draw"] != "1"]
    equal = [{**tables.reports[0].compared[0], "regularizer": "rect", "against": EQUAL, "low": low} for low in "12"]
    alone = tables.at("MEMIT", "none", 10)
    tables.reports[0].compared.append(equal[0])
    further.compared.append(equal[1])
    tables.reports.append(further)
    both = tables.at("MEMIT", "none", 10)
    assert both.means("drift") == pytest.approx([0.15, 0.3]) and both.mean("drift") == pytest.approx(0.225)
    assert both.helds == [5.0, 7.0, 5.0] and both.draws == 3
    assert alone.falls("text_logprob") == ["NLI"] and both.falls("text_logprob") == []
    assert [row["low"] for row in tables.equal("MEMIT", "rect", "text_logprob")] == ["1", "2"]
    further.compared.clear()
    assert tables.at("MEMIT", "none", 10).draws == 2, "what one draw alone has is said of that one"


def test_what_every_draw_says() -> None:
    """Of rows their intervals, of comparisons with editing less their signs; one that is not known agrees with none."""
    assert [study.below([{"high": high} for high in highs]) for highs in (("-1", "-2"), ("-1", "1"))] == [True, False]
    drawn = [compared(value) for value in (0.2, 0.1, -0.1, None)]
    assert [study.agreed(drawn[a:b]) for a, b in ((0, 2), (2, 3), (1, 3), (0, 4))] == ["more", "less", "", ""]
    assert study.gaps(drawn) == "+0.200 · +0.100 · −0.100 · –"


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
