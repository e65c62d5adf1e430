"""The cells of a sweep as tasks on a Ray cluster; their results are written here, by the process that asked for them.

Workers share no file system with it: their results come as they are made (experiment/engines/ray_worker.py). If a
worker or its node is lost, its cell starts again elsewhere, without the results that have arrived.
"""

import importlib
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from core import results
from core.disk import lock
from core.errors import UserError
from experiment.edit_session import Plugins
from experiment.engines.local import Outcome
from experiment.engines.ray_worker import Made, Order, last_line, work
from experiment.grid import Cell
from experiment.run import Session, show

LOSSES = 3
"""How many workers a cell may lose before it fails: it may be what kills them."""


@dataclass
class Job:
    """A cell at work: how many of its results have arrived, how many workers were lost under it."""

    cell: Cell
    session: Session
    locks: ExitStack = field(default_factory=ExitStack)
    made: int = 0
    losses: int = 0

    def ended(self, error: str | None = None) -> Outcome:
        self.locks.close()
        return Outcome(self.cell, self.made, error)


def run(cells: Sequence[Cell], plugins: Plugins, address: str | None = None) -> Iterator[Outcome]:
    """Each cell as it ends, on the cluster at `address` ("auto": the one this machine belongs to).

    Without an address: that of RAY_ADDRESS, else the one this machine belongs to, else a new one of this machine alone.
    UserError if Ray is not installed or there is no cluster.
    """
    return _Driver(_connect(address), plugins).outcomes(cells)


def _connect(address: str | None) -> Any:
    """The module ray, connected."""
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UserError("--engine ray: Ray is missing; pip install -r requirements-cluster.txt") from error
    stop = signal.getsignal(signal.SIGTERM)
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address not in (None, "auto", "local"):
            host, _, port = str(address).rpartition(":")
            socket.create_connection((host, int(port)), 10).close()  # Ray itself would try for minutes
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        told = f"no Ray cluster at {address}: {last_line(error)}; --address takes auto, or HOST:PORT of its head"
        raise UserError(told) from error
    finally:
        signal.signal(signal.SIGTERM, stop)  # Ray puts its own in its place
    return ray


class _Driver:
    def __init__(self, ray: Any, plugins: Plugins) -> None:
        self.ray, self.plugins = ray, plugins
        self.task = ray.remote(num_cpus=1, num_returns="streaming", max_retries=0, scheduling_strategy="SPREAD")(work)
        self.jobs: dict[Any, Job] = {}  # by the stream that its results come on

    def outcomes(self, cells: Sequence[Cell]) -> Iterator[Outcome]:
        todo = deque(cells)
        try:
            while todo or self.jobs:
                places = self.ray.cluster_resources()
                if todo and len(self.jobs) < 2 * (places.get("GPU") or places.get("CPU") or 1):  # the next lie ready
                    ended = self.begin(todo.popleft())
                else:
                    (stream,), _ = self.ray.wait(list(self.jobs), num_returns=1)
                    ended = self.receive(stream)
                if ended:
                    yield ended
        finally:
            self.end()

    def begin(self, cell: Cell) -> Outcome | None:
        """Submit a cell; its outcome if there is nothing to make, or no way to."""
        try:
            job = Job(cell, cell.session(self.plugins))
            job.locks.enter_context(lock.held(job.session.beside(w, "lock") for w in job.session.missing()))
        except UserError as error:
            return Outcome(cell, 0, str(error))
        return self.submit(job)

    def submit(self, job: Job) -> Outcome | None:
        """Order what is missing from a worker; the outcome if nothing is."""
        session = job.session
        try:
            missing = session.missing()
        except UserError as error:
            return job.ended(str(error))
        if not missing:
            return job.ended()
        order = Order.of(job.cell, session, missing)
        on_gpu = "GPU" in self.ray.cluster_resources() and session.args.device != "cpu"
        self.jobs[self.task.options(num_gpus=int(on_gpu)).remote(order, self.plugins)] = job
        return None

    def receive(self, stream: Any) -> Outcome | None:
        """Take in what comes next on a stream; the outcome if that was the last."""
        job, error = self.jobs[stream], None
        try:
            made: Made | str = self.ray.get(next(stream))
            if not isinstance(made, str):
                keep(job, made)
                return None
            error = made
        except StopIteration:
            pass
        except UserError as unwritable:
            self.ray.cancel(stream)
            error = str(unwritable)
        except self.ray.exceptions.RayTaskError as failure:  # outside our code, which returns its errors
            error = f"{last_line(failure)}; every node needs the repository at the same path"
        except self.ray.exceptions.RayError as loss:
            job.losses += 1
            error = f"workers lost under it: {job.losses}, the last so: {last_line(loss)}"
            if job.losses <= LOSSES:
                del self.jobs[stream]
                return self.submit(job)
        del self.jobs[stream]
        return job.ended(error)

    def end(self) -> None:
        """Stop what is at work, and leave the cluster."""
        for stream, job in self.jobs.items():
            self.ray.cancel(stream)
            job.ended()
        if self.jobs:  # time for the workers to remove their folders; one that Ray kills first leaves it
            self.ray.wait([stream.completed() for stream in self.jobs], num_returns=len(self.jobs), timeout=30)
        self.ray.shutdown()


def keep(job: Job, made: Made) -> None:
    """Write a result, unless it is there. UserError if it cannot be written or is there with other settings."""
    path, result = job.session.root / made.stem, results.Result.from_json(made.summary, made.stem)
    if results.existing(path, result.settings, job.session.args.overwrite) is None:
        results.place(path, made.samples, made.summary)
        job.made += 1
        print(f"\n{result.task}: {result.n} records, on {made.host}")
        show(path, result)
