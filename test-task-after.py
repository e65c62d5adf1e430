"""Edit a model, then score it: python test-task-after.py TASK MODE METHOD BEGIN END STEP [BATCH_SIZE] [flags]."""

from core.cli import Plugins, script, test_task_after
from core.registry import discover
from editors.regularizers import NAMES, regularizer

if __name__ == "__main__":
    script(
        lambda: test_task_after(Plugins(discover("tasks", "TASK"), discover("editors", "EDITOR"), NAMES, regularizer))
    )
