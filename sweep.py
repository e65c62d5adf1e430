"""Score a grid of edited models: python sweep.py CONFIG.yaml [flags]."""

from core.script import script
from experiment.cli import sweep

if __name__ == "__main__":
    script(sweep)
