"""The study's page: page.jinja, its numbers filled in from the tables of reports and masks.csv, makes README.md.

python -m docs.reproduction
"""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, UndefinedError

from analysis import words
from analysis.compare import fewest_changes
from analysis.harm import Equal
from core.disk.whole import whole
from core.errors import UserError
from core.script import script
from core.types import Measure
from docs.reproduction import figures
from docs.reproduction.masks import Masks
from docs.reproduction.tables import RULES, Draws, Row, Tables

HERE = Path(__file__).parent
TEMPLATE = HERE / "page.jinja"


def change(row: Row, digits: int = 3) -> str:
    """ "-0.05 [-0.07, -0.03]"."""
    measure = Measure(*(float(row[name]) for name in ("difference", "low", "high")))
    return f"{words.number(measure.value, digits, sign=True)} {words.bounds(measure, digits, sign=True)}"


def below(row: Row) -> bool:
    """Whether the whole interval lies below zero."""
    return float(row["high"]) < 0


def facts(number: float) -> str:
    """A number of facts: a mean over draws has a digit more."""
    return f"{round(number, 1):g}"


def gaps(compared: list[Equal]) -> str:
    """A regulariser's harm minus that of editing less, of each draw; a dash where it holds none. Bold if all agree."""
    values = [each.difference.value if each.difference else float("nan") for each in compared]
    text = " · ".join(words.number(value, 3, sign=True) for value in values)
    return f"**{text}**" if len(compared) > 1 and agreed(compared) and "0.000" not in text.split() else text


def able(scores: Mapping[str, float]) -> list[str]:
    """The tasks whose scores are of right and wrong, and could be shown to fall."""
    graded = ("summarization", "NER")
    return [task for task, score in scores.items() if task not in graded and 24 * score >= fewest_changes(len(scores))]


def agreed(compared: list[Equal]) -> str:
    """ "more" or "less", if a regulariser does so in every draw; else nothing."""
    values = [each.difference.value for each in compared if each.difference]
    if len(values) < len(compared):
        return ""
    return "more" if min(values) > 0 else "less" if max(values) < 0 else ""


def worse(compared: list[Equal]) -> bool:
    """Whether a regulariser does more harm than editing less in every draw of several."""
    return len(compared) > 1 and agreed(compared) == "more"


def costless(without: Draws, at: Draws) -> bool:
    """Whether nearly as many facts hold as without the regulariser, of 25 one less at most, in every draw."""
    pairs = zip(without.each, at.each, strict=True)
    return all(own.quality("reliability") >= plain.quality("reliability") - 0.04 for plain, own in pairs)


def so(claim: bool) -> str:
    """What a sentence of the page rests on. Raises ValueError if it is not so (any more)."""
    if not claim:
        raise ValueError("the sentence below is not true of the report's tables; write what is")
    return ""


def rendered(template: str, **given: Any) -> str:
    """The page's text; `given` is what it asks, as `tables` has it.

    Raises UserError with the template's line if a sentence is not so, or if the tables lack what it asks for.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"n": words.number, "p": words.p_value, "change": change, "facts": facts}
    environment.filters |= {"gaps": gaps, "able": able}
    environment.filters["listed"] = lambda parts: words.listed([*parts]) or "none"
    try:
        asked = {
            "so": so,
            "below": below,
            "agreed": agreed,
            "worse": worse,
            "costless": costless,
            "fewest": fewest_changes,
            "rules": RULES,
        }
        return environment.from_string(template).render(**asked, **given)
    except (ValueError, LookupError, UndefinedError) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
        raise UserError(f"{TEMPLATE}, line {lines[-1]}: {error}") from error


def tables() -> dict[str, Any]:
    """What the page asks: `t`, of all draws; `cf`, of question 6, and `few`, of its first run; `masks`."""
    t = Tables(HERE / "report", *sorted(HERE.glob("draw-*")), *sorted(HERE.glob("long-*")))
    cf, few = (Tables(HERE / name) for name in ("counterfact", "counterfact-24"))
    return {"t": t, "cf": cf, "few": few, "masks": Masks(HERE / "masks.csv")}


def page() -> str:
    """As it must be."""
    return rendered(TEMPLATE.read_text(encoding="utf-8"), **tables())


def main() -> None:
    with whole(HERE / "README.md") as file:
        file.write_text(page(), encoding="utf-8")
    found = tables()
    figures.draw(found["t"], found["masks"], HERE)


if __name__ == "__main__":
    script(main)
