"""From the words of --lm-eval to yardsticks: found in the folder of --lm-eval-tasks, else among the harness's own."""

import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.messages import first_line
from core.registry import did_you_mean
from experiment.harness.installed import installed
from experiment.harness.member import Member
from experiment.harness.metrics import named
from experiment.harness.seeded import seeded
from experiment.harness.yardstick import Yardstick

logger = logging.getLogger(__name__)


class Yardsticks:
    """Those of one process: each task read once. The harness's 14,000 names are looked through only if they must be."""

    def __init__(self) -> None:
        self._managers: dict[tuple[Path | None, bool], Any] = {}
        self._known: dict[tuple[str, Path | None], list[Yardstick]] = {}

    def of(self, words: Sequence[str], folder: Path | None = None) -> list[Yardstick]:
        """The yardsticks that the words mean, each once: a task, a group with a score of its own, else its members.

        UserError for a name that there is not, data that cannot be read, and what cannot be asked of our engine.
        """
        installed(words, folder)
        for word in words:
            if (word, folder) not in self._known:
                with seeded():
                    self._known[word, folder] = list(self._read(word, folder))
        meant = [yardstick for word in words for yardstick in self._known[word, folder]]
        return list({yardstick.name: yardstick for yardstick in meant}.values())

    def _read(self, word: str, folder: Path | None) -> Iterator[Yardstick]:
        manager = self._manager(word, folder)
        try:
            loaded = manager.load([word])
        except Exception as error:  # the harness, its tasks' code and the loaders of data raise anything
            raise UserError(
                f"--lm-eval: {word}: cannot be read ({type(error).__name__}: {first_line(error)}); its data are those "
                "that its *.yaml names, for most tasks fetched from the Hugging Face hub, once"
            ) from error
        group = loaded.get("groups", {}).get(word)
        if group is not None:
            yield from _of_group(group)
        else:
            yield from map(_of_task, loaded["tasks"].values())

    def _manager(self, word: str, folder: Path | None) -> Any:
        """What knows the word: the folder's own tasks if they do."""
        if folder is not None and word in self._indexed(folder, False).all_tasks:
            return self._indexed(folder, False)
        manager = self._indexed(folder, True)
        if word not in manager.all_tasks:
            raise UserError(
                f"--lm-eval: unknown task '{word}'{did_you_mean(word, manager.all_tasks)}; known are those of "
                f"lm-evaluation-harness {version('lm_eval')}" + ("" if folder is None else f" and of {folder}")
            )
        return manager

    def _indexed(self, folder: Path | None, defaults: bool) -> Any:
        from lm_eval.tasks import TaskManager

        if (folder, defaults) not in self._managers:
            include = None if folder is None else str(folder)
            self._managers[folder, defaults] = TaskManager(include_path=include, include_defaults=defaults)
        return self._managers[folder, defaults]


def _of_task(task: Any) -> Yardstick:
    member = Member(task)
    if left := member.metrics.left_out:
        logger.info("%s: left out: %s, no mean or ratio over records", member.name, ", ".join(left))
    return Yardstick(member.name, [member], version("lm_eval"))


def _of_group(group: Any) -> Iterator[Yardstick]:
    """The group as one, if it has a score; else its members."""
    if not group.has_aggregation:
        for part in group:
            yield from _of_group(part) if hasattr(part, "has_aggregation") else [_of_task(part)]
        return
    members = [Member(task) for task in group.get_all_tasks()]
    kinds = dict.fromkeys(each.name for member in members for each in member.task._filters)
    weighed = {
        named(each.metric, kind): bool(each.weight_by_size)
        for each in group.aggregate_metric_list
        if each.aggregation == "mean" and all(member.metrics.kept.get(each.metric) == "mean" for member in members)
        for kind in each.filter_list or kinds
    }
    if not weighed:
        raise UserError(f"--lm-eval: {group.name}: its score is no mean over records; name its tasks instead")
    yield Yardstick(group.name, members, version("lm_eval"), weighed)
