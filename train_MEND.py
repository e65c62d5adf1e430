"""Train MEND's network for a model: python train_MEND.py [--model NAME] [flags]."""

import dataclasses
import time
from argparse import Namespace
from pathlib import Path

from core import hparams, readers
from core.disk.lock import held
from core.errors import Interrupted, UserError
from core.lm.model import DTYPES, load
from core.results import writable
from core.script import Parser, positive, script
from editors.mend.archive import LAST
from editors.mend.settings import BEST, MENDSettings
from editors.mend.training import Records, Training
from inputs.sources import find_data, find_model

FILES = {"train": "training-data/zsre_mend_train.json", "validation": "training-data/zsre_mend_eval.json"}


def arguments() -> Namespace:
    p = Parser(description="Train MEND's network for a model, on pairs of a fact and an unrelated question.")
    p.add_argument("--model", help="name in hugging_cache/ or a folder (default: gpt2-xl if there, else the embedded)")
    p.add_argument("--device", help="e.g. cuda, cuda:1 or cpu (default: cuda if there)")
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of the model's weights (default: float32)")
    p.add_argument("--device-map", metavar="MAP", help="auto, balanced or sequential: spread the layers over all GPUs")
    p.add_argument("--attn", metavar="NAME", help="attention: sdpa, eager or flash_attention_2 (default: the model's)")
    p.add_argument("--data", type=Path, metavar="DIR", help="folder with training-data/ to use instead of data/")
    p.add_argument("--hparams", type=Path, metavar="FILE", help="default: hparams/TRAINING/MEND/MODEL.yaml")
    p.add_argument("--out", type=Path, metavar="DIR", help="default: result/models/MEND/MODEL")
    p.add_argument("--max-iters", type=positive, metavar="N", help="updates to train on (default: as in the settings)")
    p.add_argument("--seed", type=int, help="of the network's weights and the order (default: as in the settings)")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--overwrite", action="store_true", help="start again where there is a training already")
    return p.parse_args()


def settings(args: Namespace, name: str) -> MENDSettings:
    """The training settings, with what the command line says instead."""
    hp = hparams.load(MENDSettings, args.hparams or Path("hparams/TRAINING/MEND") / f"{name}.yaml")
    if hp.eval_only:
        raise UserError("eval_only: true leaves nothing to train; test-task-after.py measures a trained network")
    given = {"max_iters": args.max_iters, "seed": args.seed}
    return dataclasses.replace(hp, **{key: value for key, value in given.items() if value is not None})


def main() -> None:
    args = arguments()
    name, model_folder = find_model(args.model)
    hp = settings(args, name)
    sources = {part: find_data(file, args.data) for part, file in FILES.items()}
    train, validation = (readers.training(sources[part].path) for part in FILES)
    records = Records(train, validation, {part: source.describe() for part, source in sources.items()})
    folder = args.out or hp.archive(name)
    writable(folder, "--out")
    with held([folder / ".lock"], "training here"):
        there = startable(folder, args)
        lm = load(model_folder, name, args.device, args.dtype, device_map=args.device_map, attn=args.attn)
        training = Training(lm, hp, records, folder)
        if args.resume:
            training.resume()
        else:
            for file in there:
                file.unlink()
        start = time.perf_counter()
        found = run(training)
        report(training, found, time.perf_counter() - start)


def startable(folder: Path, args: Namespace) -> list[Path]:
    """The files of a training that is there already. UserError unless the command line says what to do with them."""
    there = [folder / file for file in (LAST, BEST) if (folder / file).is_file()]
    if there and not (args.resume or args.overwrite):
        resume = "--resume goes on with that training, " if there[0].name == LAST else ""
        raise UserError(f"{there[0]} exists: {resume}--overwrite starts again")
    return there


def run(training: Training) -> dict[str, float]:
    """Train; what ends it early says what is kept."""
    try:
        return training.run()
    except KeyboardInterrupt as signal:
        kept = f"iteration {training.saved} of {training.hp.max_iters} is kept in {training.folder}; --resume goes on"
        told = f"{kept} from there" if training.saved else "nothing is kept yet; --overwrite starts again"
        raise Interrupted(told) from signal
    except OSError as error:
        raise UserError(
            f"cannot write {training.folder}: {error.strerror}; with room there, --resume goes on"
        ) from error


def report(training: Training, found: dict[str, float], seconds: float) -> None:
    p, records, hp = training.progress, training.records, training.hp
    measured = len(records.validation) if hp.final_eval else hp.val_steps * hp.val_batch_size
    minutes = f"{seconds / 60:.1f} minutes"
    print(f"\nMEND for {training.lm.name}: {p.iteration} iterations on {len(records.train)} records, {minutes}")
    if p.skipped:
        print(f"{p.skipped} steps left out: their gradient was not finite")
    print(f"best at iteration {p.best_iteration}; on {min(measured, len(records.validation))} validation records:")
    for name, value in found.items():
        print(f"  {name:<20} {value:8.4f}")
    print(f"-> {training.folder}")


if __name__ == "__main__":
    script(main)
