"""Where the cells of a sweep run: in this process, or in one process per GPU."""

import contextlib
import ctypes
import io
import multiprocessing
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from threading import RLock
from typing import NoReturn

import torch
from tqdm import tqdm

from core.errors import UserError
from core.script import KEPT, log_to_stderr
from experiment.asked import Experiment
from experiment.models import Models
from experiment.plan import resolve
from experiment.run import Made, run
from experiment.show import text

KILLED = f"its process was killed, also when it ran alone: perhaps for lack of memory; {KEPT}"


@dataclass(frozen=True)
class Outcome:
    """A finished cell: how many results it made, and the one line of its error if it failed."""

    cell: Experiment
    made: int
    error: str | None = None


def local(cells: Sequence[Experiment], workers: int | None = None) -> Iterator[str | Outcome]:
    """Cell after cell on `workers` processes (default: one per visible GPU, else this process alone).

    Yields what a terminal should show, and the outcome of each cell as it ends. A worker loads and hashes a model once
    for all its cells that follow each other.
    """
    workers = min(workers or torch.cuda.device_count() or 1, len(cells))
    if workers <= 1:
        models = Models()
        for cell in cells:
            yield from _run(cell, models)
        return
    # Read when torch starts in a worker: threads of several workers that wait for one core spin it away.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    todo, lost = deque(cells), deque[Experiment]()
    while todo:
        lost += yield from _processes(todo, min(workers, len(todo)))
    if lost:
        yield f"{len(lost)} cells were at work when a worker was killed: they are run again, one by one"
    while lost:
        for cell in (yield from _processes(lost, 1)):
            yield Outcome(cell, 0, KILLED)


def _processes(todo: deque[Experiment], workers: int) -> Generator[str | Outcome, None, list[Experiment]]:
    """Run cells from `todo` until it is empty, or a process is killed; returns the cells then at work."""
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for place in range(workers):
        places.put(place)
    running: dict[Future[tuple[str, Outcome]], Experiment] = {}
    killed, lost = False, []
    with ProcessPoolExecutor(workers, context, _begin, (places, torch.cuda.device_count())) as pool:
        try:
            while running or (todo and not killed):
                while todo and not killed and len(running) < workers:  # no more: what is submitted is at work
                    try:
                        running[pool.submit(_captured, todo[0])] = todo[0]
                        todo.popleft()
                    except BrokenProcessPool:
                        killed = True
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    try:
                        yield from future.result()
                    except BrokenProcessPool:
                        killed = True
                        lost.append(cell)
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()  # the pool would wait for the cells that it has begun
            raise
    return lost


def _run(cell: Experiment, models: Models) -> Iterator[str | Outcome]:
    made = 0
    try:
        plan = resolve(cell, models)
        for event in run(plan, models):
            made += isinstance(event, Made) and event.new
            yield text(event, plan)
    except UserError as error:
        yield Outcome(cell, made, str(error))
    else:
        yield Outcome(cell, made)


def _begin(places: "multiprocessing.Queue[int]", gpus: int) -> None:
    """A worker's start: its own GPU, and an end when the sweep ends, even by SIGKILL.

    SIGTERM ends it, after the cell it is at has saved its edits; a ^C, which reaches all processes of a terminal, is
    the sweep's to act on.
    """
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[places.get() % gpus]
    log_to_stderr()
    tqdm.set_lock(RLock())  # its own is a semaphore, which a worker that is stopped would not give back
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once: a second one would cut off what the first one saves
    raise SystemExit(128 + number)


@cache
def _models() -> Models:
    """Those of this process."""
    return Models()


def _captured(cell: Experiment) -> tuple[str, Outcome]:
    """What a terminal would show of the cell, and its outcome: workers do not talk at the same time."""
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(shown):
            for event in _run(cell, _models()):
                if isinstance(event, Outcome):
                    outcome = event
                else:
                    shown.write(f"{event}\n")
    except SystemExit as end:
        os._exit(int(end.code or 0))  # the pool would take this for the outcome of the cell, and hand out the next one
    return re.sub(r"[^\n]*\r", "", shown.getvalue()), outcome
