"""`prepare.py stats MODEL`: the second moments that a method's settings ask for, fetched if published, else computed.

The ROME authors publish those of gpt2-xl and gpt-j-6B over wikipedia; each is read and checked before it is kept.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from core import folders, hparams
from core.disk.whole import whole
from core.errors import UserError
from core.lm.load import config_of, load
from core.lm.model import LM
from core.lm.moments import Corpus, second_moments
from core.messages import first_line
from core.types import Editor
from inputs.download import download
from inputs.official import MOMENTS
from inputs.sources import find_model, settings_file

logger = logging.getLogger(__name__)

PUBLISHED_NAMES: Mapping[str, str] = {"gpt-j-6B": "EleutherAI_gpt-j-6B"}
"""Their folder names where those are not ours."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The layers whose second moments are needed, and the file of each. `lm` may be a model without weights."""

    lm: LM
    layers: tuple[int, ...]
    corpus: Corpus

    def missing(self) -> list[int]:
        return [layer for layer in self.layers if not self.corpus.file(self.lm, layer).is_file()]


def prepare(
    given: str, method: type[Editor], settings: Path | None = None, base: str = MOMENTS, device: str | None = None
) -> Iterator[str]:
    """Make every file of second moments that a method's settings for a model name; a line each.

    `given` is the model's name or folder, `settings` a file of them instead of the model's, `base` the address below
    which published files are. What is not published is computed on `device`.
    """
    name, folder = find_model(given)
    file = settings_file(method.name, name, settings, given)
    hp = hparams.load(method.hparams, file)
    if not getattr(hp, "mom2_adjustment", False):
        yield f"{method.name} needs no second moments for {name} ({file})"
        return
    lm = skeleton(folder, name)
    hparams.check(hp, lm)
    wanted = Wanted(lm, hp.layers, Corpus(hp.mom2_dataset, hp.mom2_n_samples, folders.of_project(hp.stats_dir)))
    for layer in sorted({*wanted.layers} - {*wanted.missing()}):
        yield f"{wanted.corpus.file(lm, layer)} is already there"
    if hp.mom2_dataset == "wikipedia":
        yield from fetch(wanted, base)
    missing = wanted.missing()
    if missing:
        second_moments(load(folder, name, device), missing, wanted.corpus)
        yield from (f"{wanted.corpus.file(lm, layer)} computed" for layer in missing)


def skeleton(folder: Path, name: str) -> LM:
    """The model's structure without its weights: enough to name its modules and their shapes."""
    config = config_of(folder, name)
    try:
        with torch.device("meta"):
            return LM(AutoModelForCausalLM.from_config(config), None, name, folder)
    except Exception as error:  # of many kinds, as in core.lm.load
        raise UserError(f"cannot read the model at {folder}: {first_line(error)}") from error


def fetch(wanted: Wanted, base: str) -> Iterator[str]:
    """Fetch what is missing from below `base`, a line each; a layer that is not available there is logged, with why."""
    for layer in wanted.missing():
        path = wanted.corpus.file(wanted.lm, layer)
        folder = PUBLISHED_NAMES.get(wanted.lm.name, wanted.lm.name)
        url = f"{base.rstrip('/')}/{folder}/{path.parent.name}/{path.name}"
        try:
            with whole(path) as new:
                corpus = replace(wanted.corpus, stats_dir=new.parent / "checked")
                try:
                    _fetch(replace(wanted, layers=(layer,), corpus=corpus), url)
                except UserError as error:
                    raise LookupError(str(error)) from error  # unlike a disk that cannot be written, no end of the run
                os.replace(corpus.file(wanted.lm, layer), new)
        except LookupError as error:
            logger.warning("layer %s: %s", layer, error)
        else:
            yield f"{path} fetched from {url}"


def _fetch(one: Wanted, url: str) -> None:
    """Download one layer's file and check that it is one: of the model's width, finite, symmetric."""
    (layer,) = one.layers
    download(url, one.corpus.file(one.lm, layer))
    moments = second_moments(one.lm, one.layers, one.corpus)[layer]
    if not torch.allclose(moments, moments.T, rtol=1e-3, atol=1e-6):
        raise UserError(f"{url}: is not a matrix of second moments: not symmetric")
