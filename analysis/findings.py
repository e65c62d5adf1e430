"""All that is computed of one method before it is written about: tests by measure, harm at equal success, retention."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from analysis import harm, words
from analysis.collect import Setting
from analysis.harm import Balance, Equal
from analysis.study import (
    CHOICE,
    DRIFT,
    HEADLINE,
    PROBABILITY,
    REFERENCE,
    RELEASED,
    TEXT,
    Group,
    Point,
    Study,
    family,
    regularised,
)

LIKELIHOODS = (REFERENCE, TEXT, PROBABILITY)
"""Measures that are tested, beside the headline score. A drift is above 0 after any change: its size is shown."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Of one method in one mode."""

    study: Study
    group: Group
    names: Mapping[Setting, str]
    """Its settings, with what a reader calls them; no regulariser comes first."""
    families: Mapping[str, Sequence[Point]]
    """Measure -> its points against the unedited model; HEADLINE, CHOICE and RELEASED too. Only what was measured."""
    rescued: Mapping[str, Sequence[Point]]
    """HEADLINE or a likelihood -> the points with a regulariser against the same edits without one."""
    drift: Sequence[Point]
    """Its size; not tested."""
    balance: Balance
    equals: Sequence[Equal]
    """Harm at equal success, where the most facts hold."""

    @property
    def title(self) -> str:
        return words.group(self.group)

    @property
    def rule_names(self) -> dict[Setting, str]:
        """Its regularisers as a reader calls them, without their parameters."""
        return words.labels(list(dict.fromkeys(map(harm.rule_of, self.names))))

    @property
    def likelihoods(self) -> list[str]:
        """The measures of likelihood that are compared with the unedited model's."""
        known = [name for name in LIKELIHOODS if name in self.families]
        return [name for name in known if any(point.difference for point in self.families[name])]

    @property
    def tested(self) -> list[str]:
        """Those and the headline scores."""
        return [*self.likelihoods, HEADLINE]


def findings(study: Study) -> list[Findings]:
    """Of every method in a study."""
    return [_of(study, group) for group in study.groups]


def _of(study: Study, group: Group) -> Findings:
    labels = words.labels([setting for setting in study.settings if setting.group == group])
    wanted = (HEADLINE, CHOICE, RELEASED, *LIKELIHOODS)
    families = {name: points for name in wanted if (points := family(study.panels, group, name))}
    rescued = {name: regularised(study.panels, group, name) for name in (HEADLINE, *LIKELIHOODS) if name in families}
    drift = [replace(p, p_holm=None) for p in family(study.panels, group, DRIFT) if p.difference]
    balance = harm.balance(study, group)
    return Findings(study, group, labels, families, rescued, drift, balance, balance.at_most())


def first_falls(points: Iterable[Point], setting: Setting) -> list[Point]:
    """The scores that are significantly lower after the smallest number of edits of a setting at which any is."""
    falls = [point for point in points if point.setting == setting and point.fall]
    return [point for point in falls if point.edits == min(other.edits for other in falls)]
