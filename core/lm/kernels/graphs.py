"""A computation that is made again and again: a GPU records it once, and plays it back without Python in the way.

A step of a large model is thousands of small kernels, and a GPU waits for their launches: a search for v* kept an H100
busy for a fifth of its time. A CUDA graph launches them all at once. What a recorded computation reads and writes has
to stay where it is: it changes tensors in place, and asks the device nothing.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

Work = Callable[[], object]


class Recorder:
    """Records on one device. All that it records shares memory, so nothing that is read later may be left there."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.known: set[str] = set()  # kinds of work that have been run as they are
        # kept: the memory would go with the last graph that uses it
        self.first = self.recorded(lambda: torch.zeros(1, device=device))

    def recorded(self, work: Work) -> torch.cuda.CUDAGraph:
        """What `work` would do, without doing it."""
        with suppress(torch.OutOfMemoryError):  # while it records, torch does not give back what it holds unused
            return self._recorded(work)
        torch.cuda.empty_cache()
        return self._recorded(work)

    def _recorded(self, work: Work) -> torch.cuda.CUDAGraph:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream), _nothing_collected():
            graph.capture_begin(self.pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with suppress(RuntimeError):  # that the recording cannot be ended says less
                    graph.capture_end()
                raise
            graph.capture_end()
        here.wait_stream(self.stream)
        return graph


class Recording:
    """One computation: called with it again and again, which records it at once and plays it back.

    The first of a kind runs once as it is, which loads kernels. With no recorder all calls run it. The computation is
    not kept: it may hold what holds the recording, and a GPU's memory should go at once.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, work: Work) -> None:
        kind = getattr(work, "__qualname__", "")
        if self.recorder is None or kind not in self.recorder.known:
            work()
            if self.recorder is not None:
                self.recorder.known.add(kind)
            return
        if self.graph is None:
            self.graph = self.recorder.recorded(work)
        self.graph.replay()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """An old recording that is collected now would spoil the new one."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
