"""Train MEND's network for a model: python train_MEND.py [--model NAME] [flags]."""

import dataclasses
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from core import hparams
from core.disk.lock import held
from core.errors import UserError
from core.folders import shortened
from core.results import writable
from core.script import Parser, positive, script
from core.types import DTYPES
from edit_sets.zsre import EDIT_SET
from inputs.sources import find_data, find_model, settings_file

if TYPE_CHECKING:
    from editors.mend.settings import MENDSettings


def arguments() -> Namespace:
    p = Parser(description="Train MEND's network for a model, on pairs of a fact and an unrelated question.")
    p.add_argument("--model", help="name in hugging_cache/ or a folder (default: gpt2-xl, else the embedded one)")
    p.add_argument("--device", help="e.g. cuda, cuda:1 or cpu (default: cuda if available)")
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of the model's weights (default: float32)")
    p.add_argument("--device-map", metavar="MAP", help="auto, balanced or sequential: spread the layers over all GPUs")
    p.add_argument("--attn", metavar="NAME", help="attention: sdpa, eager or flash_attention_2 (default: the model's)")
    p.add_argument("--data", type=Path, metavar="DIR", help="folder with training-data/ to use instead of data/")
    p.add_argument("--hparams", type=Path, metavar="FILE", help="default: hparams/TRAINING/MEND/MODEL.yaml")
    p.add_argument("--out", type=Path, metavar="DIR", help="default: result/models/MEND/MODEL")
    p.add_argument("--max-iters", type=positive, metavar="N", help="updates to train on (default: as in the settings)")
    p.add_argument("--seed", type=int, help="of the network's weights and the order (default: as in the settings)")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--overwrite", action="store_true", help="start again in place of an existing training")
    return p.parse_args()


def settings(args: Namespace, name: str) -> "MENDSettings":
    """The training settings, with what the command line says instead."""
    from editors.mend.settings import MENDSettings

    hp = hparams.load(MENDSettings, settings_file("MEND", name, args.hparams, args.model, training=True))
    if hp.eval_only:
        raise UserError("eval_only: true leaves nothing to train; test-task-after.py measures a trained network")
    given = {"max_iters": args.max_iters, "seed": args.seed}
    return dataclasses.replace(hp, **{key: value for key, value in given.items() if value is not None})


def main() -> None:
    args = arguments()
    from core.lm.load import load  # with torch, which --help does without
    from editors.mend.training import Records, Training, existing

    name, model_folder = find_model(args.model)
    hp = settings(args, name)
    parts = zip(("train", "validation"), EDIT_SET.training_files, strict=True)
    sources = {part: find_data(file, args.data) for part, file in parts}
    train, validation = (EDIT_SET.training(source.path) for source in sources.values())
    records = Records(train, validation, {part: source.describe() for part, source in sources.items()})
    folder = args.out or hp.archive(name)
    writable(folder, "--out")
    with held([folder / ".lock"], "training here", hint="--out DIR names another place"):
        earlier = existing(folder, args.resume or args.overwrite)
        lm = load(model_folder, name, args.device, args.dtype, device_map=args.device_map, attn=args.attn)
        training = Training(lm, hp, records, folder)
        if args.resume:
            training.resume()
        else:
            for file in earlier:
                file.unlink()
        start = time.perf_counter()
        metrics = training.run()
        for line in training.summary(metrics, time.perf_counter() - start):
            print(shortened(line))


if __name__ == "__main__":
    script(main)
