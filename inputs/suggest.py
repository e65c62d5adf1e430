"""`prepare.py suggest-hparams`: settings to start from, for a model that none ship for.

A shipped file of the same method is the template: the embedded model's for a model below a billion parameters, else
llama2-7b's if the model's MLP has a gate, gpt2-xl's if not. What depends on the model is put in its place: `layers` (as
many as the template has, ending at the layer that causal tracing finds), `v_loss_layer` (the last) and `inner_params`
(the weights of the last three MLPs). All other values are the template's, and tuning them is left to you.
"""

import argparse
import io
import os
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers.pytorch_utils import Conv1D

from core import hparams, readers
from core.errors import UserError
from core.lm import model
from core.lm.model import DTYPES, LM
from core.lm.tokens import encode, target_ids
from core.lm.tracing import Plan, asked, fact_of, plan_for, traced
from core.registry import pick
from core.results import plain
from core.script import postponed
from core.types import Edit
from inputs.moments import skeleton
from inputs.sources import Source, find_data, find_model

HPARAMS = Path("hparams")
CANDIDATES = 1000
"""Records of the edit file that the model is asked about, from the first on."""
SMALL = 1_000_000_000
"""Parameters from which a model takes the released values: the smallest model they were released for has 1.5e9."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What tracing found: the mean indirect effect per layer, and what it was measured on."""

    effects: list[float]
    clean: float
    corrupted: float
    facts: int
    known: int
    plan: Plan
    source: Source

    @property
    def peak(self) -> int:
        """The layer with the largest effect. Never the last: nothing it writes at the subject reaches the answer."""
        return max(range(len(self.effects) - 1), key=lambda layer: self.effects[layer])

    def told(self) -> str:
        around, source = len(self.plan.around(self.peak, len(self.effects))), self.source.describe()
        effects = " ".join(f"{effect:.4f}" for effect in self.effects)
        return (
            f"Layer {self.peak}: largest mean indirect effect, {self.effects[self.peak]:.4f}, of the MLPs (those of "
            f"{around} layers around it, at the subject's last token; causal tracing, Meng et al. 2022, section 2). "
            f"{self.facts} facts of {source['path']} (SHA-256 {source['sha256'][:16]}...), "
            f"the likeliest for this model, which gives the answers of {self.known} by itself; {self.plan.samples} "
            f"draws each of noise of {self.plan.nu:.4f}, 3 sigma of the subjects' embeddings. Mean P(answer): "
            f"{self.clean:.4f} clean, {self.corrupted:.4f} corrupted. Effect per layer, from 0: {effects}"
        )

    def table(self) -> str:
        """A row per layer: its effect, and a bar that shows it."""
        scale = 50 / max(max(self.effects), 1e-12)
        rows = [
            f"{layer:>5}  {effect:>7.4f}  {'#' * round(effect * scale)}{'  <- largest' if layer == self.peak else ''}"
            for layer, effect in enumerate(self.effects)
        ]
        return "\n".join(["layer   effect on P(answer)", *map(str.rstrip, rows)])


def add_arguments(p: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    p.add_argument("--model", metavar="NAME", help="name in hugging_cache/ or a folder (default: as test-task.py)")
    p.add_argument("--method", required=True, help="ROME, MEMIT, KN or MEND")
    p.add_argument("--device", help="e.g. cuda, cuda:1 or cpu (default: cuda if there)")
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of the model's weights (default: float32)")
    p.add_argument("--data", type=Path, metavar="DIR", help="folder with edited-data/ to use instead of data/")
    p.add_argument("--limit", type=positive, default=30, metavar="N", help="facts to trace (default: 30)")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: hparams/METHOD/MODEL.yaml (and TRAINING/ of it)")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw the effect per layer (PNG)")
    p.add_argument("--overwrite", action="store_true", help="replace settings that are there")


def suggest(args: argparse.Namespace, editors: Mapping[str, Any]) -> None:
    """Write settings of a method for a model, say where, and show what the choice of the layer rests on."""
    method = pick("method", args.method, editors)
    name, folder = find_model(args.model)
    lm = skeleton(folder, name)
    files = targets(method.name, name, template_of(lm), args.out)
    for file in files:
        if file.exists() and not args.overwrite:
            raise UserError(f"{file} exists: --overwrite replaces it, --out FILE writes elsewhere")
    shipped = {file: read(template, method.hparams) for file, template in files.items()}
    evidence = None
    if any("layers" in values for values in shipped.values()):
        source = find_data("edited-data/zsre.json", args.data)
        evidence = measure(model.load(folder, name, args.device, args.dtype), source, args.limit)
        print(evidence.table())
    elif args.plot:
        raise UserError(f"--plot: {method.name} has no layers to trace")
    for file, values in shipped.items():
        text = header(lm, method.name, files[file], evidence) + body({**values, **changes(lm, values, evidence)})
        write(file, text.encode(), method.hparams)
        print(f"{file} is written: suggested settings, not tuned ones")
    if args.plot and evidence:
        write(args.plot, picture(evidence, lm.name))
        print(f"{args.plot} shows the effect per layer")


def targets(method: str, name: str, template: str, out: Path | None) -> dict[Path, Path]:
    """File to write -> shipped file it follows. A method that is trained has a second one, which does for both uses."""
    pairs = {
        folder / f"{name}.yaml": folder / f"{template}.yaml"
        for folder in (HPARAMS / method, HPARAMS / "TRAINING" / method)
        if (folder / f"{template}.yaml").is_file()
    }
    if not pairs:
        raise UserError(f"{HPARAMS / method / template}.yaml: no such file, and no other settings to start from")
    return {out: list(pairs.values())[-1]} if out else pairs


def template_of(lm: LM) -> str:
    """The shipped model whose settings this one starts from."""
    if sum(parameter.numel() for parameter in lm.model.parameters()) < SMALL:
        return "smollm2-135m"
    down = lm.module(lm.mlp_out(0)).get_parameter("weight").numel()
    gated = sum(lm.model.get_parameter(weight).numel() for weight in mlp_weights(lm, 0)) > 2 * down
    return "llama2-7b" if gated else "gpt2-xl"


def mlp_weights(lm: LM, layer: int) -> list[str]:
    """Names of the weights of a layer's MLP, in the model's order."""
    ends, inside = (lm.mlp_in(layer), lm.mlp_out(layer)), f"{lm.mlp(layer)}."
    found = [path for path, module in lm.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return [f"{path}.weight" for path in found if path in ends or path.startswith(inside)]


def measure(lm: LM, source: Source, limit: int) -> Evidence:
    """Trace the `limit` facts whose old answer the model gives or, beyond those, finds likeliest."""
    usable = [edit for edit in readers.edit_records(source.path)[:CANDIDATES] if _usable(lm, edit)]
    if not usable:
        raise UserError(f"{source.path}: expected facts with a subject in 'src' and an answer in 'pred', found none")
    candidates = [fact_of(lm, edit) for edit in usable]
    told = asked(lm, candidates)  # (said by itself, P(answer))
    order = sorted(range(len(told)), key=told.__getitem__, reverse=True)[:limit]
    facts = [candidates[i] for i in order]
    plan = plan_for(lm, facts)
    found = traced(lm, facts, plan)
    effects = torch.stack([fact.restored - fact.corrupted for fact in found]).mean(0)
    clean, corrupted = (
        sum(values) / len(found) for values in zip(*((f.clean, f.corrupted) for f in found), strict=True)
    )
    known = sum(told[i][0] for i in order)
    return Evidence(effects.tolist(), clean, corrupted, len(found), known, plan, source)


def _usable(lm: LM, edit: Edit) -> bool:
    if not (edit.old.strip() and edit.subject.strip() and edit.subject in edit.prompt):
        return False
    return len(encode(lm, edit.prompt)) + len(target_ids(lm, edit.old)) <= lm.context


def read(template: Path, cls: type[Any]) -> dict[str, Any]:
    """The keys of a shipped file with their values, as plain types."""
    hp, keys = hparams.load(cls, template), yaml.safe_load(template.read_text(encoding="utf-8"))
    return {key: plain(getattr(hp, key)) for key in keys}


def changes(lm: LM, values: Mapping[str, Any], evidence: Evidence | None) -> dict[str, Any]:
    """What is this model's own, of the keys that are in `values`."""
    own: dict[str, Any] = {"v_loss_layer": lm.n_layers - 1}
    if evidence and "layers" in values:
        count = min(len(values["layers"]), lm.n_layers - 1)
        start = max(0, evidence.peak - count + 1)
        own["layers"] = list(range(start, start + count))
    last = range(max(0, lm.n_layers - 3), lm.n_layers)
    own["inner_params"] = [weight for layer in last for weight in mlp_weights(lm, layer)]
    return {key: value for key, value in own.items() if key in values}


def header(lm: LM, method: str, template: Path, evidence: Evidence | None) -> str:
    """Comment lines: that this is a suggestion, for which model, and what each part of it rests on."""
    paragraphs = [
        f"SUGGESTED by `python prepare.py suggest-hparams --method {method}`: a place to start, not tuned.",
        f"For {lm.name}, SHA-256 {lm.fingerprint}.",
        *([evidence.told()] if evidence else []),
        f"Other values: those of {template.as_posix()} (smollm2-135m's for models below a billion parameters, else "
        "llama2-7b's where the MLP has a gate, gpt2-xl's where not).",
    ]
    lines = (line for text in paragraphs for line in textwrap.wrap(text, 118, break_on_hyphens=False))
    return "".join(f"# {line}\n" for line in lines)


def body(values: Mapping[str, Any]) -> str:
    """A key a line; names in a list are a line each, numbers on one."""
    return "".join(yaml.safe_dump({key: value}, default_flow_style=_flow(value)) for key, value in values.items())


def _flow(value: Any) -> bool | None:
    numbers = isinstance(value, list) and not any(isinstance(item, str) for item in value)
    return None if numbers else False


def write(path: Path, content: bytes, cls: type[Any] | None = None) -> None:
    """Make a file whole or not at all; settings are read back first. Raises UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".suggested-", dir=path.parent) as scratch:
            temporary = Path(scratch) / path.name
            temporary.write_bytes(content)
            if cls is not None:
                hparams.load(cls, temporary)
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; name another place") from error


@postponed()
def picture(evidence: Evidence, name: str) -> bytes:
    """The effect per layer, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported here: settings need no picture
    from matplotlib.figure import Figure

    figure, file = Figure(figsize=(7, 3.2), layout="constrained"), io.BytesIO()
    FigureCanvasAgg(figure)
    axes, layers = figure.subplots(), range(len(evidence.effects))
    axes.bar(layers, evidence.effects, color=["C1" if layer == evidence.peak else "C0" for layer in layers])
    axes.set(
        title=f"{name}: MLPs of {evidence.plan.window} layers restored at the subject's last token",
        xlabel="layer in the middle",
        ylabel=f"effect on P(answer), {evidence.facts} facts",
    )
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
