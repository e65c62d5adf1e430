"""Where the cells of a sweep run: in this process, in one process per GPU, or on a cluster."""

import contextlib
import ctypes
import io
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from threading import RLock
from typing import NoReturn

import torch
from tqdm import tqdm

from core.errors import UserError
from experiment.edit_session import Plugins
from experiment.grid import Cell


@dataclass(frozen=True)
class Outcome:
    """A finished cell: how many results it made, and the one line of its error if it failed."""

    cell: Cell
    made: int
    error: str | None = None


def local(cells: Sequence[Cell], plugins: Plugins, workers: int | None = None) -> Iterator[Outcome]:
    """Cell after cell on `workers` processes (default: one per visible GPU, else this process alone)."""
    workers = min(workers or torch.cuda.device_count() or 1, len(cells))
    if workers <= 1:
        yield from (_run(cell, plugins) for cell in cells)
        return
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for place in range(workers):
        places.put(place)
    # Read when torch starts in a worker: threads of several workers that wait for one core spin it away.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    with ProcessPoolExecutor(workers, context, _begin, (places, torch.cuda.device_count())) as pool:
        try:
            for future in as_completed([pool.submit(_captured, cell, plugins) for cell in cells]):
                outcome, told = future.result()
                print(told, end="", flush=True)
                yield outcome
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()  # the pool would wait for the cells that it has begun
            raise


def _run(cell: Cell, plugins: Plugins) -> Outcome:
    made = 0
    try:
        for _ in cell.run(plugins):
            made += 1
    except UserError as error:
        return Outcome(cell, made, str(error))
    return Outcome(cell, made)


def _begin(places: "multiprocessing.Queue[int]", gpus: int) -> None:
    """A worker's start: its own GPU, and an end when the sweep ends, even by SIGKILL.

    SIGTERM ends it, after the cell it is at has saved its edits; a ^C, which reaches all processes of a terminal, is
    the sweep's to act on.
    """
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[places.get() % gpus]
    tqdm.set_lock(RLock())  # its own is a semaphore, which a worker that is stopped would not give back
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once: a second one would cut off what the first one saves
    raise SystemExit(128 + number)


def _captured(cell: Cell, plugins: Plugins) -> tuple[Outcome, str]:
    """The cell's outcome and what a terminal would show of it, so that workers do not talk at the same time."""
    try:
        with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(told):
            outcome = _run(cell, plugins)
    except SystemExit as end:
        os._exit(int(end.code or 0))  # the pool would take this for the outcome of the cell, and hand out the next one
    return outcome, re.sub(r"[^\n]*\r", "", told.getvalue())
