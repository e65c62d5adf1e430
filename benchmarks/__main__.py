"""Run all benchmarks, or those named: python -m benchmarks [evaluation rome memit ... yardsticks gpu]."""

import importlib
import os
import platform
import sys

import torch

ALL = (
    "products",
    "evaluation",
    "alike",
    "measures",
    "rome",
    "memit",
    "sequence",
    "kn",
    "stats",
    "mend",
    "yardsticks",
    "peers",
)
"""Those of the embedded model on the CPU. `gpu` takes full-size models: with a GPU, or by its name."""


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, {platform.machine()}")
    for name in sys.argv[1:] or (*ALL, *(["gpu"] if torch.cuda.is_available() else [])):
        print(f"\n{name}", flush=True)
        for line in importlib.import_module(f"benchmarks.{name}").run():
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
