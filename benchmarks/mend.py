"""MEND: training steps a second, against the naive twin that makes a matrix of every token's gradient."""

from collections.abc import Iterator

from benchmarks._common import embedded, hparams_file, printed, versus
from benchmarks._flops import share
from core import folders, hparams
from edit_sets.zsre import EDIT_SET
from editors.mend.factors import shapes_of
from editors.mend.network import seeded
from editors.mend.outcome import outcome
from editors.mend.settings import MENDSettings
from tests.reference import mend as naive


def run() -> Iterator[str]:
    lm = embedded()
    hp = hparams.load(MENDSettings, hparams_file("TRAINING/MEND"))
    edits = EDIT_SET.training(folders.SAMPLE / "training-data/zsre_mend_train.json")[: hp.accumulate_bs]
    net = seeded(shapes_of(lm, hp.inner_params), hp)

    def ours() -> None:
        outcome(lm, net, [[edit] for edit in edits], hp)["loss/total_edit"].mean().backward()

    def other() -> None:
        for edit in edits:
            (naive.total(lm, net, [edit], hp) / len(edits)).backward()

    ours()  # the statistics; and warm
    net.eval()
    fast, slow = versus(ours, other, rounds=3)
    yield f"a training step of {len(edits)} edits, {len(hp.inner_params)} weights, rank {hp.rank}"
    yield f"ours {1 / fast:.3f} steps/s, naive twin {1 / slow:.3f} steps/s: {slow / fast:.1f}x"
    yield share(ours)


if __name__ == "__main__":
    printed(run, flagless="mend")
