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
from core.results import Result
from experiment.asked import Experiment
from experiment.engines.local import Outcome
from experiment.engines.ray_worker import Delivery, Order, last_line, work
from experiment.models import Models
from experiment.plan import Plan, resolve
from experiment.run import Made, existing
from experiment.show import scores
from experiment.stopped.note import Note

LOSSES = 3
"""How many workers a cell may lose before it fails: it may be what kills them."""


@dataclass
class Job:
    """A cell at work: how many of its results have arrived, how many workers were lost under it."""

    plan: Plan
    locks: ExitStack = field(default_factory=ExitStack)
    made: int = 0
    losses: int = 0

    def ended(self, error: str | None = None) -> Outcome:
        if error is None:
            Note(self.plan).remove()
        self.locks.close()
        return Outcome(self.plan.experiment, self.made, error)

    def absent(self) -> bool:
        """Whether results are still to be made."""
        return len(existing(self.plan)) < len(self.plan.wanted)


def run(cells: Sequence[Experiment], address: str | None = None) -> Iterator[str | Outcome]:
    """What a terminal should show, and each cell's outcome as it ends, on the cluster at `address`.

    "auto" is the cluster that this machine belongs to. Without an address: that of RAY_ADDRESS, else the one this
    machine belongs to, else a new one of this machine alone. UserError if Ray is not installed or there is no cluster.
    """
    return _Driver(_connect(address)).outcomes(cells)


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
    def __init__(self, ray: Any) -> None:
        self.ray, self.models = ray, Models()
        self.task = ray.remote(num_cpus=1, num_returns="streaming", max_retries=0, scheduling_strategy="SPREAD")(work)
        self.jobs: dict[Any, Job] = {}  # by the stream that its results come on

    def outcomes(self, cells: Sequence[Experiment]) -> Iterator[str | Outcome]:
        todo = deque(cells)
        try:
            while todo or self.jobs:
                places = self.ray.cluster_resources()
                # One cell waits for each place, so that none is idle between two of them.
                event: str | Outcome | None
                if todo and len(self.jobs) < 2 * (places.get("GPU") or places.get("CPU") or 1):
                    event = self.begin(todo.popleft())
                else:
                    (stream,), _ = self.ray.wait(list(self.jobs), num_returns=1)
                    event = self.receive(stream)
                if event is not None:
                    yield event
        finally:
            self.end()

    def begin(self, cell: Experiment) -> Outcome | None:
        """Submit a cell; its outcome if there is nothing to make, or no way to."""
        try:
            plan = resolve(cell, self.models)
            there = existing(plan)
            job = Job(plan)
            absent = [wanted for wanted in plan.wanted if str(wanted.stem) not in there]
            job.locks.enter_context(lock.held(wanted.beside("lock") for wanted in absent))
            if absent:
                Note(plan).write()
        except UserError as error:
            return Outcome(cell, 0, str(error))
        return self.submit(job)

    def submit(self, job: Job) -> Outcome | None:
        """Order what is missing from a worker; the outcome if nothing is."""
        try:
            if not job.absent():
                return job.ended()
        except UserError as error:
            return job.ended(str(error))
        on_gpu = "GPU" in self.ray.cluster_resources() and job.plan.experiment.placement.device != "cpu"
        self.jobs[self.task.options(num_gpus=int(on_gpu)).remote(Order.of(job.plan))] = job
        return None

    def receive(self, stream: Any) -> str | Outcome | None:
        """Take in what comes next on a stream: a result, as a terminal should show it, or the cell's outcome."""
        job, error = self.jobs[stream], None
        try:
            delivery: Delivery | str = self.ray.get(next(stream))
            if not isinstance(delivery, str):
                return keep(job, delivery)
            error = delivery
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
            job.ended("stopped")
        if self.jobs:  # time for the workers to remove their folders; one that Ray kills first leaves it
            self.ray.wait([stream.completed() for stream in self.jobs], num_returns=len(self.jobs), timeout=30)
        self.ray.shutdown()


def keep(job: Job, delivery: Delivery) -> str | None:
    """Write a result, unless it is there, and show it. UserError if that cannot be, or other settings made it."""
    stem = job.plan.root / delivery.stem
    wanted = next(wanted for wanted in job.plan.wanted if wanted.stem == stem)
    if results.existing(stem, wanted.settings, job.plan.experiment.overwrite) is not None:
        return None
    results.place(stem, delivery.samples, delivery.summary)
    job.made += 1
    result = Result.from_json(delivery.summary, f"{stem}.json")
    return scores(f"{result.task}: {result.n} records, on {delivery.host}", Made(wanted, result, new=True))
