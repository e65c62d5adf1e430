"""What a report is made of: the facts at its foot."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis import words
from analysis.collect import Run
from analysis.study import Study
from core.provenance import PACKAGES


def made_of(studies: Sequence[Study], copies: int) -> dict[str, str]:
    """What the report is made of: models, data, results, device, code, versions."""
    runs: list[Run] = [run for study in studies for run in study.all_runs()]
    edited = sum(run.edit is not None for run in runs)
    count = f"{words.counted(len(runs), 'result')}: {len(runs) - edited} of unedited models, {edited} after edits"
    if copies:
        count += f"; {words.counted(copies, 'further result')} made with the same settings left out"
    environments = [run.result.environment for run in runs]
    versions = {name: each(str(e[name]) for e in environments if name in e) for name in ("python", *PACKAGES)}
    return {
        "Results": count,
        "Models": each(f"{s.model.name}, {s.model.dtype}, SHA-256 {s.model.sha256[:12]}" for s in studies),
        "Data": each(f"{s.kind}{words.limit(s)}" for s in studies),
        "Device": each(str(e.get("device", "unknown")) for e in environments),
        "Commit": each(commit(e) for e in environments),
        "Versions": ", ".join(f"{name} {value}" for name, value in versions.items() if value),
    }


def each(values: Iterable[str]) -> str:
    """The different values, in the order they occur."""
    return "; ".join(dict.fromkeys(values))


def commit(environment: Mapping[str, Any]) -> str:
    return str(environment.get("commit") or "unknown")[:12] + (" with changes" if environment.get("dirty") else "")
