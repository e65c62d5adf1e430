"""The first sentences of a report: what was run, what broke first, and what saved it. Each can be quoted alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from analysis import edits, words
from analysis.collect import Setting
from analysis.findings import Findings, first_falls
from analysis.harm import HARMS, Equal
from analysis.html import quotes
from analysis.html.blocks import Quotes
from analysis.study import HEADLINE, REFERENCE, Point, Study

LESS = "editing less"
"""What regularisers are compared with: no regulariser after fewer edits, and `scale`."""


def summary(study: Study, found: Sequence[Findings]) -> Quotes:
    """What was run; per method what broke first and what saved it; and what p is corrected for."""
    if not found:
        only = "Only the unedited model was measured: there is nothing to compare it with."
        return Quotes([f"{_unedited(study)} {only}"])
    lines = [ran(study, found), *(line for f in found for line in (broke(f), saved(f)) if line)]
    bare = [f.group[0] for f in found if all(setting.regularizer == "none" for setting in f.names)]
    if bare:
        lines.append(f"No regulariser was tried with {words.listed(list(dict.fromkeys(bare)))}.")
    return Quotes(lines, [" ".join(tests(found))])


def _unedited(study: Study) -> str:
    part = f", the first {words.counted(study.limit, 'record')} of each" if study.limit else ""
    return f"{words.counted(len(study.panels), 'task')}{part}."


def ran(study: Study, found: Sequence[Findings]) -> str:
    """Tasks, methods, settings, numbers of edits and repeats."""
    part = f" (the first {words.counted(study.limit, 'record')} of each)" if study.limit else ""
    tasks, methods = words.counted(len(study.panels), "task"), "; ".join(map(_ran, found))
    return f"What was run: {tasks}{part}, before any edit and after {methods}."


def _ran(f: Findings) -> str:
    counts = sorted({count for setting in f.names for count in f.study.counts(setting)})
    repeats = max(len(f.study.runs(setting, count)) for setting in f.names for count in f.study.counts(setting))
    again = f", up to {repeats} repeats" if repeats > 1 else ""
    numbers = words.listed([f"{count:,}" for count in counts])
    noun = "edit" if counts == [1] else "edits"
    return f"{numbers} {noun} by {f.title}, with {words.listed(list(f.names.values()))}{again}"


def broke(f: Findings) -> str:
    """The first fall that is shown without a regulariser, by likelihood and by headline score."""
    setting, name = next(iter(f.names.items()))
    last = max(f.study.counts(setting))
    falls = {wanted: first_falls(f.families.get(wanted, ()), setting) for wanted in f.tested}
    likely = [falls[wanted] for wanted in f.likelihoods if falls[wanted]]
    first = min(likely, key=lambda points: points[0].edits, default=[])
    lead = f"What {f.group[0]} broke first, with {name}: "
    if not f.likelihoods:
        said = _fall(falls[HEADLINE]) or f"no headline score is shown to fall up to {words.counted(last, 'edit')}"
    elif first:
        said = f"{_fall(first)}; {_headline(falls[HEADLINE], last)}"
    else:
        said = f"no log p is shown to fall up to {words.counted(last, 'edit')}; {_headline(falls[HEADLINE], last)}"
    return " ".join([f"{lead}{said}.", *_collapsed(f, setting), *_held(f, setting, last)])


def _fall(points: Sequence[Point]) -> str:
    """The largest of the falls after the same number of edits, and where else."""
    if not points:
        return ""
    largest = min(points, key=lambda point: point.difference.measure.value if point.difference else 0.0)
    others = [point.panel.title for point in points if point is not largest]
    also = f", and also in {words.some(others, 'other task')}" if others else ""
    runs = f" (mean of {len(largest.runs)} runs)" if len(largest.runs) > 1 else ""
    start = f"{quotes.score(largest)} fell after {words.counted(largest.edits, 'edit')}{runs}"
    return f"{start}, {quotes.change(largest)}{also}"


def _headline(points: Sequence[Point], last: int) -> str:
    if not points:
        return f"no headline score is shown to fall up to {words.counted(last, 'edit')}"
    scores = words.some([quotes.score(point) for point in points], "score")
    return f"the first headline falls are shown after {words.counted(points[0].edits, 'edit')}, in {scores}"


def _collapsed(f: Findings, setting: Setting) -> Iterator[str]:
    runs = [run for panel in f.study.panels for run in panel.up_to(setting, max(f.study.counts(setting)))]
    found = edits.collapse(runs)
    if found:
        tasks = dict.fromkeys(run.result.task for run in runs if run.edits == found[0] and run.result.collapsed)
        where = words.some(list(tasks), "task")
        yield f"The model has collapsed after {words.counted(found[0], 'edit')}: {found[1]} ({where})."


def _held(f: Findings, setting: Setting, last: int) -> Iterator[str]:
    success = edits.quality(f.study.runs(setting, last), "after", "reliability")
    if success:
        bounds = f" {words.bounds(success, 2)}".rstrip()
        yield f"Of {words.counted(last, 'edit')}, {words.number(success.value, 2)}{bounds} hold after the last."


def saved(f: Findings) -> str:
    """Whether a regulariser does less harm than editing less where as many facts hold, or else keeps a score."""
    if f.equals:
        return _spared(f)
    points = f.rescued.get(HEADLINE, [])
    if not points:
        return ""
    kept = [point for point in points if point.significant and not point.fall]
    largest = max(kept or points, key=lambda point: point.difference.measure.value if point.difference else -1.0)
    among = f"{words.counted(len(points), 'comparison')} with the same edits without one"
    said = f"none of the regularisers is shown to keep a score in {among}; the largest gain is"
    if kept:
        said = f"{words.counted(len(kept), 'score')} significantly higher in {among}; the largest gain is"
    return f"What saved it from {f.group[0]}: {said} {_gain(f, largest)}."


def _gain(f: Findings, point: Point) -> str:
    """A score with a regulariser, without it, and how many of the edits hold."""
    assert point.difference and point.p_holm is not None
    without, own, gap = words.change(point.difference.before, point.measure.value, point.difference.measure)
    bare = replace(point.setting, regularizer="none", keep=None, parameters="{}")
    successes = [edits.quality(f.study.runs(s, point.edits), "after", "reliability") for s in (point.setting, bare)]
    held = [words.number(success.value, 2) for success in successes if success]
    holding = f"; of the edits {held[0]} hold instead of {held[1]}" if len(held) == 2 else ""
    start = f"{quotes.score(point)} after {words.counted(point.edits, 'edit')} with {f.names[point.setting]}"
    test = f"{words.p_value(point.p_holm)}, {quotes.TESTS[point.difference.test]}"
    return f"{start}, {own} instead of {without} (difference {gap}, {test}){holding}"


def _spared(f: Findings) -> str:
    """Which regularisers do less harm than editing less where as many facts hold, and which more."""
    known = [(equal, equal.difference.value) for equal in f.equals if equal.difference]
    shown = [(equal, gap) for equal, gap in known if equal.significant]
    less, more = ([e for e, gap in shown if gap < 0], [e for e, gap in shown if gap > 0])
    none = f"none of the regularisers is shown to do less harm than {LESS} where as many facts hold"
    said = [_compared(f, less, "less") if less else none, *([_compared(f, more, "more")] if more else [])]
    if not known:
        said = ["nothing can be said, as none of the regularisers holds a fact"]
    elif not shown:
        best = min(known, key=lambda pair: pair[1])[0]
        said.append(f"the best is {f.rule_names[best.rule]}, {_gap(best)}")
    return f"What saved it from {f.group[0]}: {'; '.join(said)}."


def _compared(f: Findings, equals: Sequence[Equal], verb: str) -> str:
    """Which regularisers these are, and the one with the largest difference by the measure that comes first."""
    names = list(dict.fromkeys(f.rule_names[equal.rule] for equal in equals))
    measure = next(measure for measure in HARMS if any(equal.measure == measure for equal in equals))
    mine = [(equal, abs(equal.difference.value)) for equal in equals if equal.measure == measure and equal.difference]
    largest = max(mine, key=lambda pair: pair[1])[0]
    if len(names) == 1:
        return f"{names[0]} does {verb} harm than {LESS}, {_gap(largest)}"
    most = f.rule_names[largest.rule]
    return f"{words.listed(names)} do {verb} harm than {LESS}, {most} with the largest difference, {_gap(largest)}"


def _gap(equal: Equal) -> str:
    assert equal.difference
    less, own, gap = words.change(equal.control, equal.own, equal.difference)
    p = f", {words.p_value(equal.p_holm)}, paired bootstrap" if equal.p_holm is not None else ""
    held = "fact is" if round(equal.facts, 1) == 1 else "facts are"
    return (
        f"{words.HARMS[equal.measure]} {own} instead of {less} {words.NATS} where {equal.facts:.3g} {held} held "
        f"(difference {gap}{p})"
    )


def tests(found: Sequence[Findings]) -> Iterator[str]:
    """What p is corrected for, a sentence for each kind of family."""
    counted = []
    for wanted, what in ((REFERENCE, "log p of the reference"), (HEADLINE, "headline scores")):
        sizes = [len(quotes.tested(f.families[wanted])) for f in found if wanted in f.families]
        if any(sizes):
            counted.append(f"{what} {words.listed([f'{n:,}' for n in sizes])}")
    if not counted:
        yield "No unedited result of this model on the same data and limit: scores are compared with nothing."
        return
    yield (
        "p is corrected by Holm's method for all comparisons of one method by one measure: its settings, tasks and "
        f"numbers of edits ({'; '.join(counted)}); significant means {quotes.BELOW}."
    )
    equal = [f"{sum(e.p is not None for e in f.equals)}" for f in found if f.equals]
    if equal:
        yield f"At equal success: for a method's regularisers by measures ({words.listed(equal)})."
