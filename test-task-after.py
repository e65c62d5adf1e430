"""Edit a model, then score it: python test-task-after.py TASK MODE METHOD BEGIN END STEP [BATCH_SIZE] [flags]."""

from core.registry import discover
from core.script import script
from editors.regularizers import REGULARIZERS, make
from experiment.cli import Plugins, test_task_after

if __name__ == "__main__":
    script(
        lambda: test_task_after(Plugins(discover("tasks", "TASK"), discover("editors", "EDITOR"), REGULARIZERS, make))
    )
