"""Harm at equal success: what does a regulariser spare that editing less would not have spared as well?

Success is the number of facts that hold: edits times reliability after the last one. Harm is the mean over tasks of the
drift, or of the fall of a log p, against the unedited model; both are in nats per token. A regulariser's curve is the
least harm at which it holds so many facts, over its settings and numbers of edits (its `Spot`s), straight between
neighbours, and from the unedited model on, which holds none and does none. Beyond the most facts that it has held it
has no curve. The control is editing less: no regulariser after fewer edits, and `scale`, which shrinks whole updates.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import compare, edits
from analysis.collect import Setting
from analysis.study import DRIFT, REFERENCE, TEXT, Group, Panel, Study, shared_records
from core.metrics import Array, value
from core.types import Measure

HARMS = {REFERENCE: -1.0, TEXT: -1.0, DRIFT: 1.0}
"""Measure -> the sign of a change that is harm."""
CONTROLS = ("none", "scale")
DEFINED = 0.95
"""The share of resamples in which a difference must be defined to have an interval; in others too few facts hold."""

Key = tuple[Setting, int, str]
"""Setting, number of edits, draw of the edits."""


@dataclass(frozen=True, eq=False)
class Spot:
    """One setting after so many edits. Both are (1 + RESAMPLES,): as measured, then in each resample.

    Records are resampled, and draws of the edits; NaN where a resample holds none of the spot's draws.
    """

    setting: Setting
    edits: int
    held: Array
    """Facts."""
    harm: Array
    """Nats per token."""


@dataclass(frozen=True, eq=False)
class Equal:
    """A regulariser's harm minus the control's where as many facts hold."""

    rule: Setting
    """Without the regulariser's parameters."""
    measure: str
    against: Spot | None
    """The control's spot whose number of facts it is; None: the largest number that both hold."""
    facts: float
    most: float
    """The largest number that the regulariser holds."""
    own: float
    control: float
    difference: Measure | None
    """None where the regulariser never holds so many, or none at all. No interval if it does not in many resamples."""
    p: float | None
    p_holm: float | None = None

    @property
    def significant(self) -> bool:
        return self.p_holm is not None and self.p_holm < compare.LEVEL


@dataclass(frozen=True, eq=False)
class Balance:
    """What one method's results say about harm and success."""

    spots: Mapping[str, Sequence[Spot]]
    """By measure; without those that no result has."""
    lacking: int
    """How many settings and numbers of edits lack a measure in some task, and are left out."""

    def curve(self, measure: str, rule: Setting) -> list[Spot]:
        """The spots of one regulariser."""
        return [spot for spot in self.spots[measure] if rule_of(spot.setting) == rule]

    def control(self, measure: str, rule: Setting) -> list[Spot]:
        """Those of editing less, with the same settings of the method."""
        return [spot for name in CONTROLS for spot in self.curve(measure, replace(rule, regularizer=name))]

    @property
    def rules(self) -> list[Setting]:
        """The regularisers, but for the control."""
        rules = dict.fromkeys(rule_of(spot.setting) for spots in self.spots.values() for spot in spots)
        return [rule for rule in rules if rule.regularizer not in CONTROLS]

    def at_most(self) -> list[Equal]:
        """Each regulariser by each measure, where the most facts hold that both it and the control do."""
        return corrected(
            equal(rule, measure, curve, control)
            for rule in self.rules
            for measure in self.spots
            if (curve := self.curve(measure, rule)) and (control := self.control(measure, rule))
        )

    def at_each(self, measure: str) -> list[Equal]:
        """Each regulariser where as many facts hold as at each of the control's spots."""
        return corrected(
            equal(rule, measure, curve, self.control(measure, rule), spot)
            for rule in self.rules
            if (curve := self.curve(measure, rule))
            for spot in self.control(measure, rule)
        )


def rule_of(setting: Setting) -> Setting:
    """What the settings of one regulariser share."""
    return replace(setting, keep=None, parameters="{}")


def balance(study: Study, group: Group) -> Balance:
    """Harm and success of one method: no spots where results have no measures of likelihood."""
    found = {measure: spots(study, group, measure) for measure in HARMS}
    known = {measure: mine for measure, (mine, _) in found.items() if mine}
    return Balance(known, max((found[measure][1] for measure in known), default=0))


def spots(study: Study, group: Group, measure: str) -> tuple[list[Spot], int]:
    """A spot for each setting and number of edits that has the measure in all tasks, and how many lack some of them."""
    settings = [setting for setting in study.settings if setting.group == group]
    total: dict[Key, Array] = {}
    tasks: Counter[Key] = Counter()
    panels = [found for i, panel in enumerate(study.panels) if (found := _harms(panel, settings, measure, 3 + i))]
    for key, harm in (item for found in panels for item in found.items()):
        total[key] = total[key] + harm if key in total else harm
        tasks[key] += 1
    whole = {key: harm / len(panels) for key, harm in total.items() if tasks[key] == len(panels)}
    kin: dict[Setting, set[str]] = {}
    for setting, _, draw in whole:
        kin.setdefault(_compared(setting), set()).add(draw)
    weights = {those: _drawn(sorted(draws)) for those, draws in kin.items()}
    places = dict.fromkeys(key[:2] for key in total)
    by_draw = {place: {key[2]: harm for key, harm in whole.items() if key[:2] == place} for place in places}
    made = [
        spot
        for place, harms in by_draw.items()
        if (spot := _spot(study, *place, harms, weights.get(_compared(place[0]), {})))
    ]
    return made, len(places) - len(made)


def _compared(setting: Setting) -> Setting:
    """What the settings share that are held against one another: all but the regulariser."""
    return replace(rule_of(setting), regularizer="")


def _drawn(draws: Sequence[str]) -> dict[str, Array]:
    """How often each draw of edits is there as measured (once), and in each resample: (1 + RESAMPLES,)."""
    counts = np.concatenate([np.ones((1, len(draws))), compare.resamples(len(draws), stream=1)])
    return dict(zip(draws, counts.T, strict=True))


def _harms(panel: Panel, settings: Sequence[Setting], measure: str, stream: int) -> dict[Key, Array]:
    """The harm that runs did to one task, as measured and in each resample of its records: (1 + RESAMPLES,)."""
    runs = [
        run
        for setting in settings
        for _, repeats in sorted(panel.runs.get(setting, {}).items())
        for run in repeats
        if measure in run.result.metrics
    ]
    bases = {run: base for run in runs if (base := panel.baseline([run])) and measure in base.result.metrics}
    involved = list(dict.fromkeys([*bases.values(), *bases]))
    parts = shared_records(involved, measure)
    if not parts:
        return {}
    scores = np.concatenate([[[value(part) for part in parts]], compare.resampled(parts, stream)])
    column = dict(zip(involved, scores.T, strict=True))
    return {
        (run.edit, run.edits, run.draw): HARMS[measure] * (column[run] - column[base])
        for run, base in bases.items()
        if run.edit
    }


def _spot(
    study: Study, setting: Setting, count: int, harms: Mapping[str, Array], weights: Mapping[str, Array]
) -> Spot | None:
    """The mean over draws, `weights` being how often each is drawn; None where it is not known how many edits hold."""
    success = {
        run.draw: part.value
        for run in study.runs(setting, count)
        if (part := edits.quality((run,), "after", "reliability"))
    }
    draws = [draw for draw in harms if draw in success]
    if not draws:
        return None
    weight = np.stack([weights[draw] for draw in draws])  # (draws, 1 + RESAMPLES)
    with np.errstate(invalid="ignore"):
        weight = weight / weight.sum(axis=0)
    held = count * np.array([success[draw] for draw in draws]) @ weight
    return Spot(setting, count, held, (weight * np.stack([harms[draw] for draw in draws])).sum(axis=0))


def least(curve: Sequence[Spot], facts: Array) -> Array:
    """The least harm at which a curve holds so many facts, each (1 + RESAMPLES,); NaN where it never does.

    It is read off the straight line between two spots that no other beats: of those that hold as many or more the one
    that does least, and of those that hold fewer and do less still the one that holds most.
    """
    held = np.stack([np.zeros_like(facts), *(spot.held for spot in curve)])  # the unedited model comes first
    harm = np.stack([np.zeros_like(facts), *(spot.harm for spot in curve)])
    enough = held >= facts  # never for NaN
    top = np.where(enough, harm, np.inf).min(axis=0)
    right = np.where(enough & (harm == top), held, -np.inf).max(axis=0)
    fewer = (held < facts) & (harm < top)
    left = np.where(fewer, held, -np.inf).max(axis=0)
    bottom = np.where(fewer & (held == left), harm, np.inf).min(axis=0)
    with np.errstate(invalid="ignore"):
        between = bottom + (facts - left) / (right - left) * (top - bottom)
    return np.where(np.isinf(top), np.nan, np.where(np.isinf(left), top, between))


def most(curve: Sequence[Spot]) -> Array:
    """The largest number of facts that a curve holds, (1 + RESAMPLES,)."""
    largest: Array = np.fmax.reduce([spot.held for spot in curve])
    return largest


def bends(curve: Sequence[Spot]) -> list[tuple[float, float]]:
    """Where the curve has its corners, from few facts to many: the spots that no other beats, as measured."""
    places = {(0.0, 0.0), *((float(spot.held[0]), float(spot.harm[0])) for spot in curve)}
    return sorted(
        mine
        for mine in places
        if not any(other != mine and other[0] >= mine[0] and other[1] <= mine[1] for other in places)
    )


def equal(
    rule: Setting, measure: str, curve: Sequence[Spot], control: Sequence[Spot], against: Spot | None = None
) -> Equal:
    """Where the curve holds as many facts as the control at `against`, or else where the most hold that both do."""
    facts = against.held if against else np.minimum(most(curve), most(control))
    theirs = against.harm if against else least(control, facts)
    own = least(curve, facts)
    gap = own - theirs
    drawn = gap[1:][~np.isnan(gap[1:])]
    difference, p = None, None
    if facts[0] > 0 and not np.isnan(gap[0]):
        difference = Measure(float(gap[0]), float("nan"), float("nan"))
        if len(drawn) >= DEFINED * compare.RESAMPLES:
            difference, p = compare.interval(float(gap[0]), drawn), compare.bootstrap_p(drawn)
    at, end, mine, less = (float(part[0]) for part in (facts, most(curve), own, theirs))
    return Equal(rule, measure, against, at, end, mine, less, difference, p)


def corrected(found: Iterable[Equal]) -> list[Equal]:
    """The same with their p corrected for how many there are (Holm)."""
    found = list(found)
    adjusted = iter(compare.holm([part.p for part in found if part.p is not None]))
    return [part if part.p is None else replace(part, p_holm=next(adjusted)) for part in found]
