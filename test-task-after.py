"""Edit a model, then score it: python test-task-after.py TASK MODE METHOD BEGIN END STEP [BATCH_SIZE] [flags]."""

from core.script import script
from experiment.cli import test_task_after

if __name__ == "__main__":
    script(test_task_after)
