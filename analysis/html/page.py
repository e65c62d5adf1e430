"""The page: one HTML file with its pictures and its style inside. It loads nothing and runs nothing."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis import GENERATOR
from analysis.compare import LEVEL, RESAMPLES, SMALLEST
from analysis.findings import Findings
from analysis.html.blocks import Page
from analysis.html.made_of import made_of
from analysis.html.section import section
from analysis.plots.style import Picture
from analysis.study import Study

TEMPLATES = Path(__file__).with_name("templates")


def build(found: Mapping[Study, Sequence[Findings]], title: str, copies: int) -> tuple[str, dict[str, Picture]]:
    """The whole page, and the pictures in it by name."""
    page = Page()
    for study, mine in found.items():
        section(page, study, mine)
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
        facts=made_of(list(found), copies),
        resamples=f"{RESAMPLES:,}",
        smallest=f"{SMALLEST:.4f}",
        comparisons=int(LEVEL / SMALLEST),
    )
    return html, page.pictures


def _typographic(value: Any) -> Any:
    """Text with typographic apostrophes; what is HTML already stays as it is."""
    return value.replace("'", "\u2019") if type(value) is str else value


def _inline(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
