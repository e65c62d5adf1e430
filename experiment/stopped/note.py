"""What a run is about to do, on the disk before anything slow starts, so that one that was stopped says what it was."""

import hashlib
import json
from contextlib import suppress

from core.disk.whole import whole
from core.results import without_paths
from experiment.arguments import command
from experiment.plan import Plan

FOLDER = "unfinished"
"""Beside the results' folders: notes and edits of runs that were stopped."""


class Note:
    """`unfinished/<key>.json`: the command of a run, and the settings of each of its results."""

    def __init__(self, plan: Plan) -> None:
        settings = {str(wanted.stem.relative_to(plan.root)): wanted.settings for wanted in plan.wanted}
        self.content = {"command": command(plan.experiment), "results": settings}
        key = hashlib.sha256(json.dumps(without_paths(settings), sort_keys=True).encode()).hexdigest()[:16]
        self.file = plan.root / FOLDER / f"{key}.json"

    def write(self) -> None:
        """UserError if there is no room or no permission."""
        with whole(self.file, "--results DIR names another place") as part:
            part.write_text(json.dumps(self.content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def remove(self) -> None:
        """All is made."""
        self.file.unlink(missing_ok=True)
        with suppress(OSError):
            self.file.parent.rmdir()  # if it is empty
