"""MEND's network, its factors and its edits. Training is in test_mend_train.py."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED, FAMILIES, GOLDEN, ROOT, edit_model, tiny
from reference import mend as naive
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import mend_batches
from core import hparams
from core.errors import UserError
from core.lm.forward import final_states
from core.lm.load import load
from core.lm.model import LM, orient
from core.lm.reads import Reads
from core.lm.tokens import Padded, target_ids
from core.lm.weights import add_, preserved
from core.types import Edit
from edit_sets.zsre import EDIT_SET
from editors import mend
from editors.mend import MEND
from editors.mend import archive as archive
from editors.mend.factors import edited, gradient_factors, reads_of, shapes_of, shares
from editors.mend.network import Factors, Network, Statistics, seeded
from editors.mend.outcome import outcome
from editors.mend.settings import BEST, MENDSettings
from experiment import quality

CASE = GOLDEN / "mend-gpt2"
Check = Callable[[LM], Callable[[], None]]


def settings(lm: LM, **more: object) -> MENDSettings:
    """The two projections of the last two blocks (gpt2: Conv1D, else Linear), a small network."""
    names = [f"{path}.weight" for layer in (2, 3) for path in (lm.mlp_in(layer), lm.mlp_out(layer))]
    return dataclasses.replace(MENDSettings(inner_params=tuple(names), rank=8), **more)  # type: ignore[arg-type]


def network(lm: LM, hp: MENDSettings, seed: int = 0) -> Network:
    """A network that is not the identity, with statistics, in evaluation mode."""
    net = seeded(shapes_of(lm, hp.inner_params), hp)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * parameter.abs().max().clamp(min=0.1) * torch.randn(parameter.shape, generator=generator)
    for module in net.modules():
        if isinstance(module, Statistics):
            module(torch.randn(50, len(module.mean), generator=generator))
    return net.eval()


def archived(lm: LM, hp: MENDSettings, net: Network) -> Path:
    path = hp.archive(lm.name) / BEST
    archive.save(path, net.state_dict(), archive.header(lm, hp, net.shapes))
    return path


def gradient(lm: LM, hp: MENDSettings, edits: list[Edit]) -> dict[str, Tensor]:
    """autograd's gradient of the edit loss with respect to each weight, in the weight's own layout."""
    weights = {n: lm.model.get_parameter(n).detach().clone().requires_grad_() for n in hp.inner_params}
    found = torch.autograd.grad(naive.edit_loss(lm, edits, weights), list(weights.values()))
    return dict(zip(weights, found, strict=True))


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def batch_factors(lm: LM, reads: Reads, names: list[str]) -> tuple[Tensor, dict[str, Factors]]:
    share = shares(reads, torch.zeros(len(reads.tokens.ids), dtype=torch.long), MENDSettings.batch_loss)

    def loss() -> Tensor:
        return -(share * reads.wanted(reads.logp(lm, final_states(lm, reads.tokens)))).sum()

    return gradient_factors(lm, names, loss, torch.arange(len(reads.tokens.ids)))


def test_factors_are_the_weight_gradient(lm: LM, edits: list[Edit], unchanged: Check) -> None:
    """sum_r g_r x_r^T over a padded batch == autograd's gradient of the same loss, edits one by one without pads."""
    check, hp = unchanged(lm), settings(lm)
    loss, factors = batch_factors(
        lm, reads_of(lm, [(e.prompt, target_ids(lm, e.target)) for e in edits]), list(hp.inner_params)
    )
    assert loss == pytest.approx(float(naive.edit_loss(lm, edits, {})), rel=1e-5)
    for name, wanted in gradient(lm, hp, edits).items():
        found = orient(lm.module(name.removesuffix(".weight")), factors[name].product())
        assert relative(found, wanted) < 1e-5
        assert set(factors[name].owner.tolist()) == {0, 1, 2, 3}
    check()
    assert not any(module._forward_hooks for module in lm.model.modules())


VARIANTS = {
    "combine": {},
    "unshared": {"shared": False},
    "each by its own": {"combine": False},
    "one sided": {"combine": False, "one_sided": True},
    "x only": {"combine": False, "x_only": True},
    "delta only": {"combine": False, "delta_only": True},
    "three layers": {"n_hidden": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_fresh_network_without_norm_steps_along_the_gradient(
    variant: str, lm: LM, edits: list[Edit], tmp_path: Path, unchanged: Check
) -> None:
    """Fresh, norm off: Delta = + edit_lr * lr_scale * gradient; the sign is the network's to learn."""
    hp = settings(lm, norm=False, edit_lr=0.3, lr_scale=2.0, archive_dir=str(tmp_path), **VARIANTS[variant])
    archived(lm, hp, seeded(shapes_of(lm, hp.inner_params), hp))
    editor, check = MEND(lm, hp), unchanged(lm)
    deltas, notes = editor.deltas(edits)
    check()
    for name, wanted in gradient(lm, hp, edits).items():
        assert deltas[name].shape == wanted.shape
        torch.testing.assert_close(deltas[name], 0.6 * wanted, rtol=1e-5, atol=1e-6)
    assert notes["edit_loss_before"] == pytest.approx(float(naive.edit_loss(lm, edits, {})), rel=1e-5)


def test_one_sided_transforms_the_narrower_factor(lm: LM) -> None:
    hp = settings(lm, combine=False, one_sided=True)
    net = seeded(shapes_of(lm, hp.inner_params), hp)
    for (d_in, d_out), transform in zip(dict.fromkeys(net.shapes.values()), net.transforms.values(), strict=True):
        assert (transform.x is None, transform.g is None) == (d_in > d_out, d_in <= d_out)


def test_shared_networks_tell_weights_apart_by_scale_and_offset() -> None:
    shapes = {"a.weight": (4, 6), "b.weight": (6, 4), "c.weight": (4, 6)}
    hp = MENDSettings(inner_params=tuple(shapes), rank=3, norm=False, edit_lr=1.0)
    shared, alone = seeded(shapes, hp), seeded(shapes, dataclasses.replace(hp, shared=False))
    assert list(shared.transforms) == ["4x6", "6x4"] and len(alone.transforms) == 3
    assert shared.transforms["4x6"].both.layers[0].scale.shape == (2, 10)
    assert not any("scale" in name for name, _ in alone.named_parameters())
    with torch.no_grad():
        shared.transforms["4x6"].both.layers[0].shift[1] = 7.0
    ones = {
        n: Factors(torch.ones(1, i), torch.ones(1, o), torch.zeros(1, dtype=torch.long)) for n, (i, o) in shapes.items()
    }
    out = shared(ones)
    assert out["a.weight"].x.tolist() == [[1.0] * 4] and out["c.weight"].x.tolist() == [[8.0] * 4]


def test_fresh_layers_can_learn() -> None:
    """All pre-activations of a fresh layer are 0, where relu's gradient is 0: the clamp's is 1 there."""
    hp = MENDSettings(inner_params=("a.weight",), rank=3, norm=False)
    net = seeded({"a.weight": (4, 6)}, hp)
    rows = Factors(torch.randn(5, 4), torch.randn(5, 6), torch.zeros(5, dtype=torch.long))
    net({"a.weight": rows})["a.weight"].product().sum().backward()
    assert all(layer.u.grad.abs().sum() > 0 for layer in net.transforms["4x6"].both.layers)


def test_xavier_has_no_residual() -> None:
    hp = MENDSettings(inner_params=("a.weight",), rank=3, norm=False, init="xavier", edit_lr=1.0)
    net = seeded({"a.weight": (4, 6)}, hp)
    rows = Factors(torch.randn(5, 4), torch.randn(5, 6), torch.zeros(5, dtype=torch.long))
    out = net({"a.weight": rows})["a.weight"]
    assert (torch.cat([out.x, out.g], 1) >= 0).all() and out.g.any()


def test_statistics_are_those_of_all_rows() -> None:
    """Merged in parts of any size, zero included: mean and unbiased deviation of all that was seen in training."""
    rows = 5 + 3 * torch.randn(40, 7)
    module = Statistics(7)
    for part in rows.split([12, 1, 20, 7]):
        module(part)
    module(rows[:0])
    module.eval()
    torch.testing.assert_close(module(rows), (rows - rows.mean(0)) / (rows.std(0) + 1e-7))
    assert module.count == 40


def test_edited_is_the_model_with_the_update_added(lm: LM, edits: list[Edit]) -> None:
    """Rows of two updates in one batch, each with its own, against the weights really changed."""
    hp = settings(lm, norm=False, edit_lr=0.5)
    reads = reads_of(lm, [(e.prompt, target_ids(lm, e.target)) for e in edits])
    factors = batch_factors(lm, reads, list(hp.inner_params))[1]
    tokens, owner = reads.tokens, torch.tensor([2, 0, 2, 1])
    with edited(lm, factors, owner):
        found = final_states(lm, tokens)
    for row, update in enumerate(owner.tolist()):
        deltas = {}
        for name, f in factors.items():
            mine = Factors(*(part[f.owner == update] for part in (f.x, f.g, f.owner)))
            deltas[name] = orient(lm.module(name.removesuffix(".weight")), mine.product())
        with preserved(lm.model, deltas):
            add_(lm.model, deltas)
            alone = final_states(lm, tokens.rows(torch.tensor([row])))
        kept = tokens.mask[row].bool()
        torch.testing.assert_close(found[row][kept], alone[0][kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"shared": False, "norm": False},
        {"train_base": True, "combine": False},
        {"batch_loss": "sum"},
        {"loc_answers": "said"},
    ],
)
def test_outcome_equals_the_naive_twin(more: dict[str, object], lm: LM, edits: list[Edit]) -> None:
    """Loss of three updates, one of them of two edits and one without an unrelated question; and its gradient."""
    hp = settings(lm, edit_lr=0.02, **more)
    net, updates = network(lm, hp), [[edits[0], edits[1]], [edits[2]], [edits[3]]]
    found = outcome(lm, net, updates, hp)["loss/total_edit"]
    wanted = torch.stack([naive.total(lm, net, update, hp) for update in updates])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    parameters = list(net.parameters())
    for a, b in zip(*(torch.autograd.grad(loss.sum(), parameters) for loss in (found, wanted)), strict=True):
        assert relative(a, b) < 1e-3


def golden_network(tag: str, lm: LM, hp: MENDSettings) -> Network:
    """The released code's network. Its edit rates stand in the order of the model's parameters: c_fc before c_proj."""
    raw, shapes = load_file(CASE / f"expected/mend_archive_{tag}.safetensors"), shapes_of(lm, hp.inner_params)
    theirs = sorted(shapes)
    tensors = {"edit_lrs": torch.stack([raw["edit_lrs"][theirs.index(name)] for name in shapes])}
    for d_in, d_out in set(shapes.values()):
        old, new = f"mend.({d_in}, {d_out})", f"transforms.{d_in}x{d_out}"
        tensors[f"{new}.statistics.count"] = raw[f"{old}.k"][0].long()
        tensors[f"{new}.statistics.mean"] = torch.cat([raw[f"{old}.u_mean"], raw[f"{old}.v_mean"]])
        tensors[f"{new}.statistics.squares"] = torch.cat([raw[f"{old}.u_s"], raw[f"{old}.v_s"]])
        for layer in range(hp.n_hidden + 1):
            names = {"u": "u", "v": "v", "bias": "bias", "scale": "mode_scale.weight", "shift": "mode_shift.weight"}
            for mine, name in names.items():
                tensors[f"{new}.both.layers.{layer}.{mine}"] = raw[f"{old}.mlp.layers.{layer}.{name}"]
    net = Network(shapes, hp).eval()
    net.load_state_dict(tensors)
    return net


@pytest.mark.parametrize("tag", ["fresh", "trained"])
def test_golden(tag: str) -> None:
    """The released code's edit of three records at once, up to the slips of its batch, which are put in here by hand:

    the pad in front of the shortest target (id 0) counts as a target token, and positions count pads on the left.
    """
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny", "cpu")
    hp = hparams.load(MENDSettings, CASE / "hparams.yaml")
    records = EDIT_SET.records(CASE / "zsre.json")
    reads = reads_of(lm, [(e.prompt, target_ids(lm, e.target)) for e in (records[i] for i in (0, 1, 3))])
    t = reads.tokens
    slipped = Reads(
        Padded(t.ids, t.mask, torch.arange(t.ids.shape[1]).expand_as(t.ids)),
        *(
            torch.cat([part, torch.tensor([more])])
            for part, more in ((reads.row, 2), (reads.column, 7), (reads.token, 0))
        ),
    )
    with torch.no_grad():
        updates = golden_network(tag, lm, hp)(batch_factors(lm, slipped, list(hp.inner_params))[1])
    for name, after in load_file(CASE / f"expected/weights_{tag}_evalmode.safetensors").items():
        delta = orient(lm.module(name.removesuffix(".weight")), updates[name].product())
        assert relative(delta, after - lm.model.get_parameter(name)) < 1e-4


def test_a_large_batch_is_read_in_parts(
    lm: LM, edits: list[Edit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hp = settings(lm, archive_dir=str(tmp_path))
    archived(lm, hp, network(lm, hp))
    editor = MEND(lm, hp)
    whole, notes = editor.deltas(edits)
    monkeypatch.setitem(mend.BATCH_TOKENS, "cpu", 50)
    parts, of_parts = editor.deltas(edits)
    assert of_parts["edit_loss_before"] == pytest.approx(notes["edit_loss_before"], rel=1e-5)
    for name, delta in whole.items():
        assert relative(parts[name], delta) < 1e-4


@pytest.mark.parametrize(("room", "norm"), [(2048, False), (50, True)])
def test_the_sum_makes_of_a_batch_what_its_edits_make_alone(
    room: int, norm: bool, lm: LM, edits: list[Edit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a network that is not linear and targets of unlike length; read at once, and in parts.

    The loss is the sum of each edit's own mean. The mean makes other updates of the same batch, of one edit the same.
    """
    monkeypatch.setitem(mend.BATCH_TOKENS, "cpu", room)
    longer = [dataclasses.replace(edits[0], target="basketball and tennis"), *edits[1:]]
    hp = settings(lm, archive_dir=str(tmp_path), batch_loss="sum", norm=norm)
    archived(lm, hp, network(lm, hp))
    summing, meaning = MEND(lm, hp), MEND(lm, dataclasses.replace(hp, batch_loss="mean"))
    batch, notes = summing.deltas(longer)
    alone = [summing.deltas([edit]) for edit in longer]
    assert len({one["target_tokens"] for _, one in alone}) > 1
    assert notes["edit_loss_before"] == pytest.approx(sum(one["edit_loss_before"] for _, one in alone), rel=1e-5)
    assert notes["edit_loss_before"] == pytest.approx(float(naive.edit_loss(lm, longer, {}, "sum")), rel=1e-5)
    mean, single = meaning.deltas(longer)[0], meaning.deltas(longer[:1])[0]
    for name, delta in batch.items():
        assert relative(delta, sum((deltas[name] for deltas, _ in alone), torch.zeros(()))) < 1e-4
        assert relative(mean[name], delta) > 1e-3
        assert torch.equal(single[name], alone[0][0][name])


def test_edits_in_sequence_and_in_bfloat16(edits: list[Edit], tmp_path: Path) -> None:
    lm = tiny("llama")
    hp = settings(lm, archive_dir=str(tmp_path))
    archived(lm, hp, network(lm, hp))
    updates, own = edit_model(lm, MEND(lm, hp), [edits[:3], edits[3:]])
    assert len(updates) == 2 and len(own) == 4 and set(updates[0].norms) == set(hp.inner_params)
    again = tiny("llama")
    editor = MEND(again, hp)
    again.model.to(torch.bfloat16)
    assert all(d.dtype == torch.float32 and d.isfinite().all() for d in editor.deltas(edits)[0].values())


def test_weights_are_matched_by_name(lm: LM, edits: list[Edit], tmp_path: Path) -> None:
    """The same weights in another order in the settings: the same edit."""
    hp = settings(lm, archive_dir=str(tmp_path))
    archived(lm, hp, network(lm, hp))
    turned = dataclasses.replace(hp, inner_params=hp.inner_params[::-1])
    one, other = MEND(lm, hp).deltas(edits)[0], MEND(lm, turned).deltas(edits)[0]
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(lm: LM, hp: MENDSettings) -> str:
    with pytest.raises(UserError) as caught:
        MEND(lm, hp)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_refusals(tmp_path: Path) -> None:
    lm = tiny("gpt2")
    hp = settings(lm, archive_dir=str(tmp_path))
    assert "run `python train_MEND.py --model tiny-gpt2`" in refusal(lm, hp)
    archived(lm, hp, network(lm, hp))
    other = tiny("gpt2", seed=1)
    assert "was trained for 'tiny-gpt2' with other weights" in refusal(other, hp)
    assert "trained with rank: 8, the settings say 4" in refusal(lm, dataclasses.replace(hp, rank=4))
    fewer = dataclasses.replace(hp, inner_params=hp.inner_params[:2])
    assert "trained with inner_params" in refusal(lm, fewer)


def test_the_batch_loss_of_an_archive(tmp_path: Path) -> None:
    """It must be that of the training, unless this knew single edits only; older archives knew the mean only."""
    lm = tiny("gpt2")
    hp = settings(lm, archive_dir=str(tmp_path))
    summing = dataclasses.replace(hp, batch_loss="sum")
    archived(lm, hp, network(lm, hp))
    assert MEND(lm, hp) and MEND(lm, summing)
    for more in ({"batch_size": 2}, {"batch_sizes": (1, 2)}):
        made = dataclasses.replace(summing, **more)  # type: ignore[arg-type]
        path = archived(lm, made, network(lm, made))
        assert MEND(lm, summing)
        assert "trained with batch_loss: 'sum', the settings say 'mean'" in refusal(lm, hp)
    tensors, head = archive.load(path)
    older = {key: value for key, value in head["settings"].items() if key not in MENDSettings.added()}
    archive.save(path, tensors, {**head, "settings": {**older, "batch_size": 2}})
    assert MEND(lm, hp)
    assert "trained with batch_loss: 'mean', the settings say 'sum'" in refusal(lm, summing)


def test_results_of_before_these_settings_stay_equal(lm: LM) -> None:
    """At their defaults, which are the released way, results do not name them."""
    hp = settings(lm)
    assert not MENDSettings.added().keys() & hparams.recorded(hp).keys() and hparams.recorded(hp)["batch_size"] == 1
    assert hparams.recorded(dataclasses.replace(hp, batch_loss="sum")) == {**hparams.recorded(hp), "batch_loss": "sum"}


@pytest.mark.parametrize(
    ("then", "now", "well"), [("a", "b", False), ("a", "a", True), (None, "b", True), ("a", None, True)]
)
def test_an_archive_trained_with_another_tokenizer(
    then: str | None, now: str | None, well: bool, tmp_path: Path
) -> None:
    """Older archives do not say, and a model in memory has no files: these are taken as they are."""
    lm = tiny("gpt2")
    hp = settings(lm, archive_dir=str(tmp_path))
    vars(lm)["tokenizer_sha256"] = then
    archived(lm, hp, network(lm, hp))
    vars(lm)["tokenizer_sha256"] = now
    if well:
        assert MEND(lm, hp)
    else:
        assert "was trained with other tokenizer files than 'tiny-gpt2' has; put those back" in refusal(lm, hp)


def test_damaged_archives(tmp_path: Path) -> None:
    lm = tiny("gpt2")
    hp = settings(lm, archive_dir=str(tmp_path))
    net = network(lm, hp)
    path = archived(lm, hp, net)
    whole, head, tensors = path.read_bytes(), archive.header(lm, hp, net.shapes), net.state_dict()
    for damaged in (b"", b"not safetensors at all", whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(damaged)
        assert "train it again" in refusal(lm, hp)
    for wrong in ({}, {"format": 99}, {"shapes": {}}, {"shapes": "x"}, {"settings": {}}, {"fingerprint": None}):
        archive.save(path, tensors, {**head, **wrong} if wrong else {})
        assert "train" in refusal(lm, hp)
    archive.save(path, {**tensors, "edit_lrs": torch.zeros(1)}, head)
    assert "damaged" in refusal(lm, hp)


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "transformer.h.2.mlp.c_fc.bias", "transformer.h.9.mlp.c_fc.weight", "x"]
)
def test_inner_parameters_are_linear_weights_of_a_block(name: str) -> None:
    with pytest.raises(UserError, match="inner_params: "):
        shapes_of(tiny("gpt2"), [name])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dropout: 0.1", "dropout: only 0.0 is supported"),
        ("half: true", "use --dtype"),
        ("hidden_dim: 64", "hidden_dim: only None"),
        ("no_grad_layers: [1]", "no_grad_layers: only None"),
        ("x_only: true", "combine: true .* excludes x_only"),
        ("{combine: false, x_only: true, delta_only: true}", "x_only and delta_only exclude"),
        ("init: zero", "init: expected one of id, xavier"),
        ("act: gelu", "act: expected one of relu"),
        ("mlp_class: MLP", "mlp_class: expected one of IDMLP"),
        ("opt: SGD", "opt: expected one of Adam"),
        ("early_stop_key: loss", "early_stop_key: expected one of"),
        ("rank: 0", "rank: expected 1 or more"),
        ("max_iters: 0", "max_iters: expected 1 or more"),
        ("batch_loss: max", "batch_loss: expected one of mean, sum"),
        ("{train_base: true, loc_answers: said}", "train_base: .* loc_answers: given"),
        ("batch_sizes: [1, 0]", "batch_sizes: expected numbers from 1 on"),
        ("{batch_size: 2, batch_sizes: [1, 2]}", "in place of a batch_size"),
        ("combined: true", "unknown key 'combined': did you mean 'combine'"),
    ],
)
def test_switches_are_honoured_or_refused(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    inner = "inner_params: [a.weight]"
    file.write_text(f"{{{inner}, {line[1:]}" if line.startswith("{") else f"{inner}\n{line}\n")
    with pytest.raises(UserError, match=message):
        hparams.load(MENDSettings, file)


@pytest.mark.parametrize("file", sorted(ROOT.glob("hparams/**/MEND/*.yaml")), ids=lambda f: str(f.relative_to(ROOT)))
def test_shipped_settings(file: Path) -> None:
    hp = hparams.load(MENDSettings, file)
    training = hparams.load(MENDSettings, ROOT / "hparams/TRAINING/MEND" / file.name)
    assert hp.network() == training.network() and hp.inner_params == training.inner_params
    assert hp.batch_loss == training.batch_loss
    if file.stem != "smollm2-135m":
        assert (hp.rank, training.lr, training.edit_lr) == (1920, 1e-6, 1e-4)
        assert training.max_iters == (20000 if file.stem == "qwen2.5-7b" else 100000)
        assert (training.batch_loss, training.batch_size, training.batch_sizes) == ("mean", 1, ())
    elif EMBEDDED.is_dir():
        assert json.loads((EMBEDDED / "config.json").read_text())["num_hidden_layers"] == 30


def test_families_are_covered() -> None:
    assert FAMILIES == ("gpt2", "gptj", "llama")


def test_quality_by_edits_an_update(lm: LM, edits: list[Edit], tmp_path: Path, unchanged: Check) -> None:
    """benchmarks.mend_batches: a line per size, each update on the unedited model, which comes out as it went in."""
    hp = settings(lm, archive_dir=str(tmp_path), batch_loss="sum", edit_lr=0.02)
    archived(lm, hp, network(lm, hp))
    check, editor = unchanged(lm), MEND(lm, hp)
    found = list(mend_batches.probes(lm, editor, edits, 3))
    deltas = editor.deltas(edits[3:])[0]
    with preserved(lm.model, deltas):
        add_(lm.model, deltas)
        assert found[3:] == quality.probe(lm, edits[3:])
    assert found[3:] != quality.probe(lm, edits[3:])
    lines = list(mend_batches.measured(lm, hp, edits, [1, 4]))
    assert [line.split(", ")[1] for line in lines] == ["1 an update", "4 an update"]
    assert all(f"  {name} " in line for line in lines for name in mend_batches.SHOWN)
    check()
