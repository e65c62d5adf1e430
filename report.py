"""Turn result files into one self-contained report: python report.py [RESULTS] [--out DIR]; --help lists the flags."""

from analysis.cli import main
from core.script import script

if __name__ == "__main__":
    script(main)
