"""Score a grid of edited models: python sweep.py CONFIG.yaml [flags]."""

from core.script import script
from experiment.grid_cli import main

if __name__ == "__main__":
    script(main)
