"""The harness draws from generators that belong to everybody: what it does is done in between."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

PYTHON, NUMPY, TORCH, FEW_SHOT = 0, 1234, 1234, 1234
"""The harness's own seeds."""


@contextmanager
def seeded() -> Iterator[None]:
    """Inside, the generators of Python, NumPy and torch as the harness seeds them; afterwards as they were before."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(PYTHON)
        np.random.seed(NUMPY)
        torch.manual_seed(TORCH)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
