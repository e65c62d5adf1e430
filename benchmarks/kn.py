"""KN's integrated gradients for one edit at a 16-token prompt, against the naive twin."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks._common import embedded, hparams_file, printed, sample_edits, seconds
from benchmarks._flops import share
from core import hparams
from core.lm.tokens import encode
from editors.kn import KN, KNSettings
from tests.reference import kn as naive

TOKENS = 16
NAIVE_LAYERS = 3


def run() -> Iterator[str]:
    """The naive twin takes minutes: it is timed on every tenth layer (its layers all cost the same)."""
    lm = embedded()
    hp = hparams.load(KNSettings, hparams_file("KN"))
    edit = sample_edits(1)[0]
    while len(encode(lm, edit.prompt)) < TOKENS:
        edit = replace(edit, prompt=f"So {edit.prompt}")
    editor = KN(lm, hp)
    editor.scores(edit)  # warm
    ours = seconds(lambda: editor.scores(edit))
    layers = range(0, lm.n_layers, lm.n_layers // NAIVE_LAYERS)
    some = seconds(lambda: naive.scores(lm, hp, edit, layers))
    other = some * lm.n_layers / len(layers)
    yield f"{len(encode(lm, edit.prompt))} tokens, {hp.steps} steps, {lm.n_layers} layers, old answer {edit.old!r}"
    yield f"ours {ours:.1f} s an edit, naive twin {other:.0f} s ({len(layers)} layers timed): {other / ours:.1f}x"
    yield share(lambda: editor.scores(edit))


if __name__ == "__main__":
    printed(run, flagless="kn")
