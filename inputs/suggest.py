"""`prepare.py suggest-hparams`: settings to start from, for a model that none ship for.

A shipped file of the same method is the template: the embedded model's for a model below a billion parameters, else
llama2-7b's if the model's MLP has a gate, gpt2-xl's if not. The method replaces what depends on the model, such as the
layers, which end where causal tracing finds facts. All other values are the template's, and tuning them is left to you.
"""

import io
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from core import folders, hparams
from core.disk.whole import whole
from core.errors import UserError
from core.lm.load import load
from core.lm.model import LM
from core.lm.tokens import encode, target_ids
from core.results import plain
from core.script import postponed
from core.types import Edit, Editor
from edit_sets.zsre import EDIT_SET
from inputs.moments import skeleton
from inputs.sources import Source, find_data, find_model
from inputs.tracing import Plan, asked, fact_of, plan_for, traced

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

    def text(self) -> str:
        """In words, for the head of a settings file."""
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


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What settings are wanted: of a method, for a model.

    `limit` facts of the edit file in `data` are traced, on `device` in `dtype`. `out` is the file to write, `plot` the
    picture of what was traced; existing files are replaced only with `overwrite`.
    """

    method: type[Editor]
    model: str | None = None
    device: str | None = None
    dtype: str = "float32"
    data: Path | None = None
    limit: int = 30
    out: Path | None = None
    plot: Path | None = None
    overwrite: bool = False

    def write(self) -> Iterator[str]:
        """Write the settings; yields lines that say where, and show what the choice of the layer rests on."""
        method = self.method
        name, folder = find_model(self.model)
        lm = skeleton(folder, name)
        files = targets(method.name, name, template_of(lm), self.out)
        for file in files:
            if file.exists() and not self.overwrite:
                raise UserError(f"{file} exists: --overwrite replaces it, --out FILE writes elsewhere")
        shipped = {file: read(template, method.hparams) for file, template in files.items()}
        evidence = None
        if any(values.get("layers") for values in shipped.values()):
            source = find_data(EDIT_SET.file, self.data)
            evidence = measure(load(folder, name, self.device, self.dtype), source, self.limit)
            yield evidence.table()
        elif self.plot:
            raise UserError(f"--plot: {method.name} has no layers to trace")
        layer = evidence.peak if evidence else None
        for file, values in shipped.items():
            text = header(lm, method.name, files[file], evidence) + body(method.suggested(values, lm, layer))
            write(file, text.encode(), method.hparams)
            yield f"{file} is written: suggested settings, not tuned ones"
        if self.plot and evidence:
            write(self.plot, picture(evidence, lm.name))
            yield f"{self.plot} shows the effect per layer"


def targets(method: str, name: str, template: str, out: Path | None) -> dict[Path, Path]:
    """File to write -> shipped file it follows. A method that is trained has a second one, which does for both uses."""
    pairs = {
        folder / f"{name}.yaml": folder / f"{template}.yaml"
        for folder in (folders.HPARAMS / method, folders.TRAINING_HPARAMS / method)
        if (folder / f"{template}.yaml").is_file()
    }
    if not pairs:
        raise UserError(
            f"{folders.HPARAMS / method / template}.yaml: no such file, and no other settings to start from"
        )
    return {out: list(pairs.values())[-1]} if out else pairs


def template_of(lm: LM) -> str:
    """The shipped model whose settings this one starts from."""
    if sum(parameter.numel() for parameter in lm.model.parameters()) < SMALL:
        return "smollm2-135m"
    down = lm.module(lm.mlp_out(0)).get_parameter("weight").numel()
    gated = sum(lm.model.get_parameter(weight).numel() for weight in lm.mlp_weights(0)) > 2 * down
    return "llama2-7b" if gated else "gpt2-xl"


def measure(lm: LM, source: Source, limit: int) -> Evidence:
    """Trace the `limit` facts whose old answer the model gives or, beyond those, finds likeliest."""
    usable = [edit for edit in EDIT_SET.records(source.path)[:CANDIDATES] if _usable(lm, edit)]
    if not usable:
        raise UserError(f"{source.path}: expected facts with a subject in 'src' and an answer in 'pred', found none")
    candidates = [fact_of(lm, edit) for edit in usable]
    chances = asked(lm, candidates)  # (said by itself, P(answer))
    order = sorted(range(len(chances)), key=chances.__getitem__, reverse=True)[:limit]
    facts = [candidates[i] for i in order]
    plan = plan_for(lm, facts)
    results = traced(lm, facts, plan)
    effects = torch.stack([fact.restored - fact.corrupted for fact in results]).mean(0)
    clean = sum(fact.clean for fact in results) / len(results)
    corrupted = sum(fact.corrupted for fact in results) / len(results)
    known = sum(chances[i][0] for i in order)
    return Evidence(effects.tolist(), clean, corrupted, len(results), known, plan, source)


def _usable(lm: LM, edit: Edit) -> bool:
    if not (edit.old.strip() and edit.subject.strip() and edit.subject in edit.prompt):
        return False
    return len(encode(lm, edit.prompt)) + len(target_ids(lm, edit.old)) <= lm.context


def read(template: Path, cls: type[Any]) -> dict[str, Any]:
    """The keys of a shipped file with their values, as plain types."""
    hp, keys = hparams.load(cls, template), yaml.safe_load(template.read_text(encoding="utf-8"))
    return {key: plain(getattr(hp, key)) for key in keys}


def header(lm: LM, method: str, template: Path, evidence: Evidence | None) -> str:
    """Comment lines: that this is a suggestion, for which model, and what each part of it rests on."""
    paragraphs = [
        f"SUGGESTED by `python prepare.py suggest-hparams --method {method}`: a place to start, not tuned.",
        f"For {lm.name}, SHA-256 {lm.fingerprint}.",
        *([evidence.text()] if evidence else []),
        f"Other values: those of {folders.written(template)} (smollm2-135m's for models below a billion "
        "parameters, else llama2-7b's where the MLP has a gate, gpt2-xl's where not).",
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
    with whole(path, "name another place") as new:
        new.write_bytes(content)
        if cls is not None:
            hparams.load(cls, new)


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
