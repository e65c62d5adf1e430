"""What a device can do and what was used of it."""

import contextlib
import resource
from pathlib import Path

import torch

PEAKS = {
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "A10": (125e12, 31.2e12),
    "RTX A6000": (155e12, 38.7e12),
    "RTX 4090": (165e12, 82.6e12),
    "RTX 3090": (71e12, 35.6e12),
}
"""Part of a device's name -> dense FLOP/s in bfloat16 or float16 with float32 sums, and in float32 (data sheets).

The first that fits counts, so longer names stand before the names in them.
"""


def peak_flops(device: str, dtype: str) -> float | None:
    """FLOP/s of a device's data sheet; None for one that is not in the table, the CPU among them."""
    if not device.startswith("cuda"):
        return None
    return named_peak(torch.cuda.get_device_name(device), dtype)


def named_peak(name: str, dtype: str) -> float | None:
    words = name.replace("-", " ")
    for part, (half, full) in PEAKS.items():
        if f" {part} " in f" {words} ":
            return full if dtype == "float32" else half
    return None


def reset_peak(device: str) -> None:
    """Start the high-water mark again, where the system lets us."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: str) -> int:
    """Most bytes held since `reset_peak`: allocated on the GPU, resident (VmHWM) on the CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
