"""The edited model on the disk: an ordinary Hugging Face folder, whole or not at all, with a note of what made it."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from core.disk.lock import beside, held
from core.disk.whole import clear, whole
from core.errors import UserError
from core.lm.model import LM
from core.results import differences, recorded, same, without_paths

NOTE = "editing.json"
"""Beside the weights: the settings that decide them, refused updates, and the environment."""


def exported(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether `folder` holds the model edited with these settings; what killed attempts have left beside it is removed.

    UserError if it holds anything else.
    """
    if not folder.name:  # "." or "/"
        raise UserError(f"{folder} exists already; name a new folder")
    if not folder.parent.is_dir():
        return False
    with _alone(folder):
        clear(folder)
        return _there(folder, settings)


def export(lm: LM, folder: Path, note: dict[str, Any]) -> None:
    """Save model, tokenizer and `note`, whose "settings" tell this model from others. UserError as `exported`."""
    with _alone(folder):
        if _there(folder, note["settings"]):
            return
        with whole(folder) as new:
            lm.model.save_pretrained(new)
            lm.tokenizer.save_pretrained(new)
            (new / NOTE).write_text(json.dumps(note, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _there(folder: Path, settings: dict[str, Any]) -> bool:
    if not folder.exists():
        return False
    try:
        made_with = json.loads((folder / NOTE).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{folder} exists already; name a new folder or move it away") from None
    if same(made_with, settings):
        return True
    differing = differences(without_paths(made_with), without_paths(recorded(settings, made_with)))
    raise UserError(f"{folder} holds a model edited with other settings ({differing}); name a new folder")


def _alone(folder: Path) -> AbstractContextManager[None]:
    return held([beside(folder)], "saving this model", hint="--save-model DIR names another place")
