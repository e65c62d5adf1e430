"""Second moments of five layers in one pass, against those of one layer (the deepest)."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._common import embedded, printed, versus
from benchmarks._flops import share
from core import folders
from core.lm.model import LM
from core.lm.moments import Corpus, second_moments

LAYERS = (4, 5, 6, 7, 8)
DOCUMENTS = 96


def run() -> Iterator[str]:
    lm = embedded()
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "corpus.txt"
        source = (folders.SAMPLE / "task-data/test-OpenDomainQA.jsonl").read_text(encoding="utf-8").splitlines()
        text.write_text("\n\n".join((source * 2)[:DOCUMENTS]), encoding="utf-8")
        collect(lm, text, (LAYERS[-1],))  # warm
        five, one = versus(lambda: collect(lm, text, LAYERS), lambda: collect(lm, text, LAYERS[-1:]), rounds=3)
        needed = share(lambda: collect(lm, text, LAYERS))
    yield f"{DOCUMENTS} documents: five layers {five:.1f} s, one layer {one:.1f} s: {five / one:.2f}x (of 3)"
    yield needed


def collect(lm: LM, text: Path, layers: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as fresh:
        second_moments(lm, layers, Corpus(str(text), DOCUMENTS, Path(fresh)))


if __name__ == "__main__":
    printed(run, flagless="stats")
