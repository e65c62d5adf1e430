"""`prepare.py stats MODEL`: the second moments that a method's settings ask for, fetched if published, else computed.

The ROME authors publish those of gpt2-xl and gpt-j-6B over wikipedia; each is read and checked before it is kept.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from core import hparams
from core.errors import UserError
from core.lm import model
from core.lm.moments import Corpus, second_moments
from core.messages import first_line
from core.registry import pick
from inputs.download import download
from inputs.sources import find_model

PUBLISHED = "https://rome.baulab.info/data/stats"
PUBLISHED_NAMES: Mapping[str, str] = {"gpt-j-6B": "EleutherAI_gpt-j-6B"}
"""Their folder names where those are not ours."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name in hugging_cache/ or a folder")
    parser.add_argument("--method", default="MEMIT", help="whose settings say what is needed (default: MEMIT)")
    parser.add_argument("--hparams", type=Path, metavar="FILE", help="settings (default: hparams/METHOD/MODEL.yaml)")
    parser.add_argument("--url", metavar="BASE", default=PUBLISHED, help=f"published statistics (default: {PUBLISHED})")
    parser.add_argument("--device", help="where to compute what is not published (default: cuda if there)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The layers whose second moments are needed, and the file of each. `lm` may be a model without weights."""

    lm: model.LM
    layers: tuple[int, ...]
    corpus: Corpus

    def missing(self) -> list[int]:
        return [layer for layer in self.layers if not self.corpus.file(self.lm, layer).is_file()]


def prepare(args: argparse.Namespace, editors: Mapping[str, Any]) -> None:
    """Make every file of second moments that the settings name; say which are there already."""
    method = pick("method", args.method, editors)
    name, folder = find_model(args.model)
    file = args.hparams or Path("hparams") / method.name / f"{name}.yaml"
    hp = hparams.load(method.hparams, file)
    if not getattr(hp, "mom2_adjustment", False):
        print(f"{method.name} needs no second moments for {name} ({file})")
        return
    lm = skeleton(folder, name)
    hp.check(lm)
    wanted = Wanted(lm, hp.layers, Corpus(hp.mom2_dataset, hp.mom2_n_samples, Path(hp.stats_dir)))
    for layer in sorted({*wanted.layers} - {*wanted.missing()}):
        print(f"{wanted.corpus.file(lm, layer)} is already there")
    if hp.mom2_dataset == "wikipedia":
        fetch(wanted, args.url)
    missing = wanted.missing()
    if missing:
        print(f"computing the second moments of layers {missing} over {hp.mom2_dataset}", file=sys.stderr)
        second_moments(model.load(folder, name, args.device), missing, wanted.corpus)
        for layer in missing:
            print(f"{wanted.corpus.file(lm, layer)} computed")


def skeleton(folder: Path, name: str) -> model.LM:
    """The model's structure without its weights: enough to name its modules and their shapes."""
    try:
        config = AutoConfig.from_pretrained(folder, **model.OFFLINE)
        model.paths_of(config, name)
        with torch.device("meta"):
            return model.LM(AutoModelForCausalLM.from_config(config), None, name, folder)
    except UserError:
        raise
    except Exception as error:  # of many kinds, as in core.lm.model.load
        raise UserError(f"cannot read the model at {folder}: {first_line(error)}") from error


def fetch(wanted: Wanted, base: str) -> None:
    """Fetch what is missing from below `base`, layer by layer; what cannot be had is said on stderr and left out."""
    for layer in wanted.missing():
        path = wanted.corpus.file(wanted.lm, layer)
        folder = PUBLISHED_NAMES.get(wanted.lm.name, wanted.lm.name)
        url = f"{base.rstrip('/')}/{folder}/{path.parent.name}/{path.name}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".stats-", dir=wanted.corpus.stats_dir) as scratch:
                _fetch(replace(wanted, layers=(layer,), corpus=replace(wanted.corpus, stats_dir=Path(scratch))), url)
                os.replace(replace(wanted.corpus, stats_dir=Path(scratch)).file(wanted.lm, layer), path)
            print(f"{path} fetched from {url}", flush=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        except UserError as error:
            print(f"layer {layer}: {error}", file=sys.stderr, flush=True)


def _fetch(one: Wanted, url: str) -> None:
    """Download one layer's file and check that it is one: of the model's width, finite, symmetric."""
    (layer,) = one.layers
    download(url, one.corpus.file(one.lm, layer))
    moments = second_moments(one.lm, one.layers, one.corpus)[layer]
    if not torch.allclose(moments, moments.T, rtol=1e-3, atol=1e-6):
        raise UserError(f"{url}: is not a matrix of second moments: not symmetric")
