"""Score a model on one of the eight tasks: python test-task.py TASK [flags]; --help lists them."""

from core.script import script
from experiment.cli import test_task

if __name__ == "__main__":
    script(test_task)
