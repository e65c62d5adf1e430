"""Score a model on one of the eight tasks: python test-task.py TASK [flags]; --help lists them."""

from core.cli import script, test_task
from core.registry import discover

if __name__ == "__main__":
    script(lambda: test_task(discover("tasks", "TASK")))
