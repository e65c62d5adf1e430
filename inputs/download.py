"""Plain files from the web, whole and as expected or not at all."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from core.disk.whole import whole
from core.errors import UserError

TIMEOUT = 30.0
"""Seconds without a byte."""


def download(url: str, path: Path, pin: str | None = None) -> None:
    """Fetch `url` to `path`, which appears whole or not at all.

    `pin` is "sha256:<hex>", or "git:<hex>" for a git blob id or its beginning. Raises UserError with the reason.
    """
    with whole(path) as part:
        try:
            _fetch(url, part)
        except urllib.error.HTTPError as error:
            raise UserError(f"{url}: the server answers {error.code} ({error.reason})") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(f"{url}: cannot be fetched ({reason})") from error
        if pin and not fits(part, pin):
            raise UserError(f"{url}: is not the file expected, {pin}; it was not kept")


def _fetch(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, path.open("wb") as file:
        while chunk := answer.read(1 << 20):
            file.write(chunk)
        stated = answer.headers.get("Content-Length")
        if stated is not None and file.tell() != int(stated):
            raise OSError(f"the transfer broke: {file.tell()} of {stated} bytes")


def fits(path: Path, pin: str) -> bool:
    """Whether the file's content has the hash of `pin`."""
    kind, _, wanted = pin.partition(":")
    content = path.read_bytes()
    if kind == "git":
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest().startswith(wanted)
    assert kind == "sha256", pin
    return hashlib.sha256(content).hexdigest() == wanted
