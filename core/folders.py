"""Where things are kept: one table.

Models, data, settings and what is computed once belong to the project and are found from whatever folder a script or
a notebook is started, and wherever it goes from there. Results and the report are the user's and go to the working
directory.
"""

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]
"""The project: the clone that this code is run from."""
REQUIREMENTS = ROOT / "requirements.txt"
PUBLISHED = ROOT / "docs" / "published.yaml"
"""The authors' scores, read off their figures."""

MODELS = ROOT / "hugging_cache"
"""MODELS/NAME: a model's Hugging Face folder."""
DATA = ROOT / "data"
"""The official data: edited-data/, task-data/, training-data/."""
SOURCES = DATA / "SOURCES.json"
"""Where the official data came from."""
SAMPLE = DATA / "sample"
"""A small sample of the same files, part of the repository."""
STATS = DATA / "stats"
"""Second moments: STATS/MODEL/DATASET_stats/*.npz."""
HPARAMS = ROOT / "hparams"
"""HPARAMS/METHOD/MODEL.yaml: settings of an editing method."""
TRAINING_HPARAMS = HPARAMS / "TRAINING"
"""TRAINING_HPARAMS/METHOD/MODEL.yaml: settings of a method's training."""
TRAINED = ROOT / "result" / "models"
"""TRAINED/METHOD/MODEL/: what a method has trained for a model."""
RESULTS = Path("test-result")
REPORT = Path("report")


def of_project(path: str | Path) -> Path:
    """A folder that settings name: a relative one is below the project."""
    return ROOT / path


def written(path: Path) -> str:
    """A path as a result file names it: from the project if it is below it, so that it is the same on every machine."""
    if path.is_absolute() and path.is_relative_to(ROOT):
        path = path.relative_to(ROOT)
    return path.as_posix()


def shortened(text: str) -> str:
    """A message with paths below the project as they are from there, if that is the working directory."""
    with suppress(OSError):
        if os.path.samefile(os.curdir, ROOT):
            return text.replace(f"{ROOT}{os.sep}", "")
    return text
