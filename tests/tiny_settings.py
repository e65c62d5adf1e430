"""Settings of ROME and MEMIT that suit the tiny models of four layers: what most tests edit with."""

from pathlib import Path
from typing import Any

import yaml

TARGET: dict[str, Any] = dict(
    v_num_grad_steps=3,
    v_lr=0.5,
    v_loss_layer=3,
    v_weight_decay=0.5,
    clamp_norm_factor=4.0,
    kl_factor=0.0625,
    context_templates=("{}", "The first day. {}"),
)
"""The search for a value, which both have in common."""
ROME: dict[str, Any] = dict(layers=(1,), mom2_adjustment=False, **TARGET)
ROME_YAML: str = yaml.safe_dump(ROME)


def corpus(folder: Path) -> dict[str, Any]:
    """Where second moments come from: forty short texts, which are written into `folder`."""
    texts = folder / "corpus.txt"
    texts.write_text("\n\n".join(f"The number {i} is a word in text {i * i}." for i in range(40)))
    return dict(mom2_dataset=str(texts), mom2_n_samples=40, stats_dir=str(folder / "stats"))
