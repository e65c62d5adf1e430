"""Edit success against the ability that is left: which settings are not beaten on both?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import compare, edits
from analysis.collect import Run, Setting
from analysis.samples import ratios
from analysis.study import Panel, Study
from core.metrics import Array, value
from core.types import Measure


@dataclass(frozen=True)
class Trade:
    """One setting after so many edits: reliability after the last one, and the mean relative ability."""

    setting: Setting
    edits: int
    success: Measure
    ability: Measure


def usable(study: Study) -> list[Panel]:
    """Tasks that can show a loss: edited results, and an unedited score whose 95 % interval lies above 0."""
    return [panel for panel in study.panels if panel.runs and (base := panel.baseline()) and base.headline.low > 0]


def trades(study: Study) -> tuple[list[Trade], int]:
    """One Trade for every setting and number of edits measured on all usable tasks, and how many lack some of them."""
    panels = usable(study)
    keys = [(setting, count) for setting in study.settings for count in study.counts(setting)] if panels else []
    shared = {key: _repeats(panels, *key) for key in keys}
    relative = {
        (panel, key): _relative(panel, [panel.run(*key, repeat) for repeat in shared[key]], 3 + i)
        for i, panel in enumerate(panels)
        for key in keys
    }
    known = [_trade(study, key, [relative[panel, key] for panel in panels]) for key in keys]
    return [trade for trade in known if trade], known.count(None)


def _repeats(panels: Sequence[Panel], setting: Setting, count: int) -> list[str]:
    """The repeats that every panel has."""
    by_panel = ({run.repeat for run in panel.runs.get(setting, {}).get(count, [])} for panel in panels)
    return sorted(set.intersection(*by_panel))


Relative = tuple[float, Array]
"""Score / unedited score: the mean over runs, and that of each run in each resample, (RESAMPLES, runs)."""


def _trade(study: Study, key: tuple[Setting, int], parts: Sequence[Relative | None]) -> Trade | None:
    success = edits.quality(study.runs(*key), "after", "reliability")
    known = [part for part in parts if part]
    if len(known) < len(parts) or success is None:
        return None
    drawn = np.stack([draw for _, draw in known])  # (tasks, RESAMPLES, runs)
    defined = ~np.isnan(drawn)
    means = np.full(drawn.shape[1:], np.nan)
    np.divide(np.where(defined, drawn, 0).sum(axis=0), defined.sum(axis=0), out=means, where=defined.any(axis=0))
    center = float(np.mean([share for share, _ in known]))
    return Trade(*key, success, compare.interval(center, compare.over_repeats(means)))


def _relative(panel: Panel, runs: Sequence[Run], stream: int) -> Relative | None:
    """None without runs or their records. Tasks are resampled apart, each from a stream of its own.

    NaN where the unedited score of a resample is 0.
    """
    baseline = panel.baseline(runs)
    parts = [ratios(run).get(run.result.headline) for run in (baseline, *runs) if run]
    known = [part for part in parts if part]
    if not runs or len(known) < len(runs) + 1:
        return None
    drawn = compare.resampled(known, stream)
    below = np.where(drawn[:, :1] > 0, drawn[:, :1], np.nan)
    share = float(np.mean([value(part) for part in known[1:]])) / value(known[0])
    return share, drawn[:, 1:] / below


def frontier(points: Sequence[Trade]) -> list[Trade]:
    """The points that no other beats on one count and equals or beats on the other, by rising success."""
    place = {id(p): (p.success.value, p.ability.value) for p in points}

    def beaten(mine: tuple[float, float]) -> bool:
        return any(his != mine and his[0] >= mine[0] and his[1] >= mine[1] for his in place.values())

    return sorted((p for p in points if not beaten(place[id(p)])), key=lambda p: place[id(p)])
