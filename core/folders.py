"""Where things are kept: one table.

Models, data, settings and what is computed once belong to the project and are found from whatever folder a script or
a notebook is started. Results and the report are the user's and go to the working directory.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The project: the clone that this code is run from."""
REQUIREMENTS = ROOT / "requirements.txt"
PUBLISHED = ROOT / "docs" / "published.yaml"
"""The authors' scores, read off their figures."""

PROJECT = Path() if Path().absolute().samefile(ROOT) else ROOT
"""The project as its paths are written: short where the program was started in it."""
MODELS = PROJECT / "hugging_cache"
"""MODELS/NAME: a model's Hugging Face folder."""
DATA = PROJECT / "data"
"""The official data: edited-data/, task-data/, training-data/."""
SOURCES = DATA / "SOURCES.json"
"""Where the official data came from."""
SAMPLE = DATA / "sample"
"""A small sample of the same files, part of the repository."""
STATS = DATA / "stats"
"""Second moments: STATS/MODEL/DATASET_stats/*.npz."""
HPARAMS = PROJECT / "hparams"
"""HPARAMS/METHOD/MODEL.yaml: settings of an editing method."""
TRAINING_HPARAMS = HPARAMS / "TRAINING"
"""TRAINING_HPARAMS/METHOD/MODEL.yaml: settings of a method's training."""
TRAINED = PROJECT / "result" / "models"
"""TRAINED/METHOD/MODEL/: what a method has trained for a model."""
RESULTS = Path("test-result")
REPORT = Path("report")


def of_project(path: str | Path) -> Path:
    """A folder that settings name: a relative one is below the project."""
    return PROJECT / path


def written(path: Path) -> str:
    """A path as a result file names it: from the project if it is below it, so that it is the same on every machine."""
    if path.is_absolute() and path.is_relative_to(ROOT):
        path = path.relative_to(ROOT)
    return path.as_posix()
