"""MEND's files: one safetensors file each, whose header says in JSON what made it. Loading one never runs code.

`best.safetensors` holds the network an edit uses, `last.safetensors` that and what training needs to go on.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.disk.whole import whole
from core.errors import UserError
from core.lm.model import LM
from core.messages import short
from core.provenance import environment
from core.results import plain
from editors.mend.network import Network, Shape
from editors.mend.settings import MENDSettings

LAST = "last.safetensors"
RESUME = "with room there, --resume goes on"
"""What to do when a training run cannot write."""
FORMAT = 1
Header = dict[str, Any]


def header(lm: LM, hp: MENDSettings, shapes: Mapping[str, Shape], **more: Any) -> Header:
    """What a file says of itself: the model it is for, the weights it edits, the settings, the versions."""
    head: Header = plain(
        {
            "format": FORMAT,
            "model": lm.name,
            "fingerprint": lm.fingerprint,
            "tokenizer": lm.tokenizer_sha256,
            "shapes": dict(shapes),
            "settings": asdict(hp),
            "environment": environment(str(lm.device)),
            **more,
        }
    )
    return head


def save(path: Path, tensors: Mapping[str, Tensor], head: Header) -> None:
    """Write a file whole or not at all; for one who holds the lock of its folder. UserError if it cannot be written."""
    with whole(path, RESUME, locked=True) as new:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, new, {"mend": json.dumps(head)})
        new.chmod(0o644)  # safetensors makes files that only their owner can read


def load(path: Path) -> tuple[dict[str, Tensor], Header]:
    """Tensors and header of a file. UserError if it is not whole, or not one of these."""
    try:
        with safe_open(path, "pt") as file:
            head = json.loads((file.metadata() or {})["mend"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if head["format"] != FORMAT:
            raise UserError(f"{path}: of format {short(head['format'])}, expected {FORMAT}; train it again")
        kinds = {"model": str, "fingerprint": str, "shapes": dict, "settings": dict}
        if not all(isinstance(head[key], kind) for key, kind in kinds.items()):
            raise TypeError("an entry of the header is of another type")
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("a tensor holds NaN or infinity")
        head["settings"] = {**plain(MENDSettings.added()), **head["settings"]}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        raise UserError(
            f"{path}: not a MEND archive, or a damaged one ({type(error).__name__}); train it again"
        ) from error
    return tensors, head


def check(path: Path, head: Header, lm: LM) -> None:
    """Raise UserError unless the file was made for this very model."""
    if head["fingerprint"] != lm.fingerprint:
        raise UserError(
            f"{path} was trained for {short(head['model'])} with other weights ({short(head['fingerprint'], 15)}) than "
            f"'{lm.name}' has ({lm.fingerprint[:12]}...); run `python train_MEND.py --model {lm.name}`"
        )
    then, now = head.get("tokenizer"), lm.tokenizer_sha256  # older files do not say, models in memory have no files
    if then is not None and now is not None and then != now:
        raise UserError(
            f"{path} was trained with other tokenizer files than '{lm.name}' has; put those back, or run "
            f"`python train_MEND.py --model {lm.name}`"
        )


def fill(net: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the tensors into the network. UserError if they do not fit."""
    try:
        net.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise UserError(f"{path}: its tensors do not fit its header: a damaged archive; train it again") from error
