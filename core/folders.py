"""Where the repository keeps things: one table. Relative to the working directory, but for what belongs to the code."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""
REQUIREMENTS = ROOT / "requirements.txt"
PUBLISHED = ROOT / "docs" / "published.yaml"
"""The authors' scores, read off their figures."""

MODELS = Path("hugging_cache")
"""MODELS/NAME: a model's Hugging Face folder."""
DATA = Path("data")
"""The official data: edited-data/, task-data/, training-data/."""
SOURCES = DATA / "SOURCES.json"
"""Where the official data came from."""
SAMPLE = DATA / "sample"
"""A small sample of the same files, part of the repository."""
STATS = DATA / "stats"
"""Second moments: STATS/MODEL/DATASET_stats/*.npz."""
HPARAMS = Path("hparams")
"""HPARAMS/METHOD/MODEL.yaml: settings of an editing method."""
TRAINING_HPARAMS = HPARAMS / "TRAINING"
"""TRAINING_HPARAMS/METHOD/MODEL.yaml: settings of a method's training."""
TRAINED = Path("result/models")
"""TRAINED/METHOD/MODEL/: what a method has trained for a model."""
RESULTS = Path("test-result")
REPORT = Path("report")
