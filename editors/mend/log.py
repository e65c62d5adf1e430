"""What training leaves to look at: metrics.jsonl, curves.png, and TensorBoard events where that is installed."""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.script import postponed

METRICS, CURVES = "metrics.jsonl", "curves.png"
PANELS = {
    "loss": ("loss/total_edit", "loss/edit", "loss/loc"),
    "edit accuracy (rephrase)": ("edit/acc",),
    "locality (unrelated answer kept)": ("loc/acc",),
}


class Log:
    """The records of a training run up to `iteration`, and those it adds: one JSON object a line.

    A training record holds means over the updates since the one before; a validation record has names in _val.
    """

    def __init__(self, folder: Path, iteration: int = 0) -> None:
        self.folder = folder
        self.records = [record for record in _read(folder / METRICS) if record["iteration"] <= iteration]
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        temporary = folder / f".{METRICS}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / METRICS)
        self.sums: dict[str, float] = {}
        self.count = 0
        self.events: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count one optimiser step into the running means."""
        self.count += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def running(self) -> dict[str, float]:
        """Means since the last flush."""
        return {name: value / self.count for name, value in self.sums.items()}

    def flush(self, iteration: int) -> None:
        """Write the running means as a record, and start again."""
        if self.count:
            self.write(iteration, self.running())
        self.sums, self.count = {}, 0

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        record = {"iteration": iteration, **metrics}
        self.records.append(record)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.events is not None:
            for name, value in metrics.items():
                self.events.add_scalar(name, value, iteration)
            self.events.flush()

    @postponed()
    def draw(self) -> None:
        """Training curves as a picture: dashed while training, solid on the validation records."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported here: an edit needs no picture
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, names) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            for colour, name in enumerate(names):
                for key, style in ((name, "--"), (f"{name}_val", "-")):
                    points = [(r["iteration"], r[key]) for r in self.records if key in r]
                    if points:
                        axes.plot(*zip(*points, strict=True), style, color=f"C{colour}", label=key, marker=".")
            axes.set(title=title, xlabel="iteration")
            if axes.lines:
                axes.legend(fontsize="small")
        temporary = self.folder / f".{CURVES}.tmp"
        figure.savefig(temporary, format="png", dpi=110)
        os.replace(temporary, self.folder / CURVES)

    def close(self) -> None:
        if self.events is not None:
            self.events.close()


def _read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, up to a line that is not whole: a kill may have cut it off."""
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            int(record["iteration"])
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        records.append(record)
    return records
