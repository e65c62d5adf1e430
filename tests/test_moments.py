"""core.lm.moments: second moments against brute force, the authors' file layout, and files that are refused."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN, tiny
from torch import Tensor

from core.errors import UserError
from core.lm import moments
from core.lm.hooks import trace
from core.lm.load import load
from core.lm.model import LM
from core.lm.moments import Corpus, documents, second_moments
from core.lm.tokens import encode
from core.lm.weights import add_


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """30 documents of very different lengths, in two files; one is longer than the context."""
    draw = random.Random(0)
    words = ("the", "first", "day", "of", "Anna", "Bell", "is", "a", "word")
    made = [" ".join(draw.choices(words, k=1 + i * i // 12)) for i in range(30)]
    folder = tmp_path / "texts"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.txt").write_text("\n\n".join(made[:20]))
    (folder / "deeper/b.txt").write_text("\n\n \n\n".join([*made[20:], "word " * 200]))
    (folder / "not.md").write_text("no text of the corpus")
    return folder


def brute_force(lm: LM, chosen: list[str], layer: int) -> Tensor:
    """C: one text at a time, one token at a time, the whole model."""
    total, count = torch.zeros(0), 0
    for text in chosen:
        row = encode(lm, text)[: lm.context]
        with torch.no_grad(), trace(lm.model, lm.mlp_out(layer)) as seen:
            lm.model(torch.tensor([row]))
        for key in seen[lm.mlp_out(layer)].input[0].double():
            total = torch.outer(key, key) if count == 0 else total + torch.outer(key, key)
            count += 1
    return total / count


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_equals_brute_force(lm: LM, texts: Path, tmp_path: Path) -> None:
    """Padding would show: rows of 1 to 128 tokens share batches."""
    corpus = Corpus(str(texts), 31, tmp_path / "stats")
    found = second_moments(lm, (0, 2), corpus)
    for layer in (0, 2):
        assert_close(found[layer], brute_force(lm, documents(str(texts), 31), layer))
    assert found[0].dtype == torch.float64


def test_small_batches_and_one_layer_at_a_time_give_the_same(
    lm: LM, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = second_moments(lm, (1, 2), Corpus(str(texts), 31, tmp_path / "at once"))
    monkeypatch.setattr(moments, "BATCH_ROWS", 2)
    for layer in (1, 2):
        alone = second_moments(lm, (layer,), Corpus(str(texts), 31, tmp_path / "alone"))
        assert_close(alone[layer], at_once[layer])


def test_the_documents_are_the_first_of_the_shuffled_corpus(texts: Path) -> None:
    whole = moments._text_files(texts)
    assert len(whole) == 31  # the blank one is none
    random.Random(1).shuffle(whole)
    assert documents(str(texts), 7) == whole[:7]


def test_a_pass_stops_at_the_deepest_layer(texts: Path, tmp_path: Path) -> None:
    lm, ran = tiny("gpt2"), []
    lm.module(lm.block(2)).register_forward_pre_hook(lambda *_: ran.append(2))
    lm.module(lm.block(1)).register_forward_pre_hook(lambda *_: ran.append(1))
    second_moments(lm, (0, 1), Corpus(str(texts), 31, tmp_path))
    assert set(ran) == {1}


def test_the_file_has_the_authors_layout(texts: Path, tmp_path: Path) -> None:
    lm = tiny("gpt2")
    found = second_moments(lm, (1,), Corpus(str(texts), 31, tmp_path))
    (path,) = tmp_path.glob("tiny-gpt2/*_stats/*")
    assert path.name == "transformer.h.1.mlp.c_proj_float32_mom2_31.npz"
    tokens = sum(len(encode(lm, text)[: lm.context]) for text in documents(str(texts), 31))
    with np.load(path) as stored:
        assert stored["mom2.mom2"].dtype == np.float32
        assert stored["mom2.mom2"].shape == (128, 128)
        assert int(stored["mom2.count"]) == tokens
        assert int(stored["sample_size"]) == 31
        assert stored["mom2.constructor"].dtype.kind == "U"
        assert torch.equal(torch.from_numpy(stored["mom2.mom2"]).double() / tokens, found[1])
    assert Corpus("wikipedia", 5, Path("s")).file(lm, 3) == Path(
        "s/tiny-gpt2/wikipedia_stats/transformer.h.3.mlp.c_proj_float32_mom2_5.npz"
    )


def test_a_stored_file_is_read_not_made_again(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, corpus = tiny("gpt2"), Corpus(str(texts), 31, tmp_path)
    first = second_moments(lm, (1,), corpus)
    monkeypatch.setattr(moments, "_collect", lambda *_: pytest.fail("collected again"))
    assert torch.equal(second_moments(lm, (1,), corpus)[1], first[1])


def test_published_files_load() -> None:
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny")
    corpus = Corpus("wikipedia", 600, GOLDEN / "rome-gpt2-1/stats")
    found = second_moments(lm, (2,), corpus)[2]
    with np.load(corpus.file(lm, 2)) as stored:
        assert "model_sha256" not in stored  # not one of ours
        wanted = stored["mom2.mom2"].astype(np.float64) / int(stored["mom2.count"])
    assert np.array_equal(found.numpy(), wanted)
    assert np.linalg.eigvalsh(wanted).min() > 0


def test_self_generated(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deterministic whatever the run's seed; and equal to the moments over the very texts that were drawn."""
    monkeypatch.setattr(moments, "GENERATED_TOKENS", 12)
    monkeypatch.setattr(moments, "BATCH_ROWS", 4)
    drawn, sample = [], moments.sample

    def spy(lm: LM, rows: list[list[int]], n: int, generator: torch.Generator) -> Tensor:
        new = sample(lm, rows, n, generator)
        drawn.extend(start + row[:-1] for start, row in zip(rows, new.tolist(), strict=True))
        return new

    monkeypatch.setattr(moments, "sample", spy)
    torch.manual_seed(1)
    found = second_moments(lm, (0, 2), Corpus("self-generated", 10, tmp_path / "a"))
    texts = list(drawn)
    assert [len(row) for row in texts] == [12] * 10
    assert len({tuple(row) for row in texts}) == 10
    assert {row[0] for row in texts} == {lm.tokenizer.bos_token_id}
    for layer in (0, 2):
        with torch.no_grad(), trace(lm.model, lm.mlp_out(layer)) as seen:
            lm.model(torch.tensor(texts))
        keys = seen[lm.mlp_out(layer)].input.flatten(0, 1).double()
        assert_close(found[layer], keys.T @ keys / len(keys))
    torch.manual_seed(2)
    again = second_moments(lm, (2,), Corpus("self-generated", 10, tmp_path / "b"))
    assert torch.equal(again[2], found[2])


def test_the_model_is_only_read(
    lm: LM, texts: Path, tmp_path: Path, unchanged: Callable[[LM], Callable[[], None]]
) -> None:
    check = unchanged(lm)
    second_moments(lm, (1,), Corpus(str(texts), 5, tmp_path))
    second_moments(lm, (1,), Corpus("self-generated", 2, tmp_path))
    check()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


# --- refused -------------------------------------------------------------------------------------------------------


def test_a_file_of_another_model_or_number_is_refused(texts: Path, tmp_path: Path) -> None:
    lm, corpus = tiny("gpt2"), Corpus(str(texts), 5, tmp_path)
    second_moments(lm, (1,), corpus)
    other = tiny("gpt2", seed=1)
    assert other.fingerprint != lm.fingerprint
    with pytest.raises(UserError, match="made with another model of the name 'tiny-gpt2'"):
        second_moments(other, (1,), corpus)
    more = Corpus(str(texts), 6, tmp_path)
    corpus.file(lm, 1).rename(more.file(lm, 1))
    with pytest.raises(UserError, match="made from 5 documents, the settings want 6"):
        second_moments(lm, (1,), more)


def test_a_file_made_with_another_tokenizer_is_refused(tiny_folder: Path, texts: Path, tmp_path: Path) -> None:
    """One that does not say, or a model that has no files, is taken as it is."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "m"))
    lm, corpus = load(folder, "m", "cpu"), Corpus(str(texts), 5, tmp_path)
    second_moments(lm, (1,), corpus)
    other = folder / "tokenizer_config.json"
    other.write_text(other.read_text(encoding="utf-8") + " ", encoding="utf-8")
    mended = load(folder, "m", "cpu")
    assert mended.fingerprint == lm.fingerprint
    with pytest.raises(
        UserError, match=r"made with other tokenizer files than .*m has; delete it to have it made anew"
    ):
        second_moments(mended, (1,), corpus)
    second_moments(LM(lm.model, lm.tokenizer, "m", fingerprint=lm.fingerprint), (1,), corpus)
    with np.load(corpus.file(lm, 1)) as stored:
        older = {key: stored[key] for key in stored if key != "tokenizer_sha256"}
    np.savez(corpus.file(lm, 1), **older)
    second_moments(mended, (1,), corpus)


def test_the_moments_of_an_edited_model_are_those_of_the_model_on_disk(texts: Path, tmp_path: Path) -> None:
    lm = load(GOLDEN / "models/gpt2-tiny", "gpt2-tiny")
    before = lm.fingerprint
    name = f"{lm.mlp_out(0)}.weight"
    add_(lm.model, {name: torch.ones_like(lm.model.get_parameter(name))})
    assert lm.fingerprint == before


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off", "npy", "keys"])
def test_a_damaged_file_is_refused(content: Any, texts: Path, tmp_path: Path) -> None:
    lm, corpus = tiny("gpt2"), Corpus(str(texts), 5, tmp_path)
    path = corpus.file(lm, 1)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        if content == "npy":
            np.save(file, np.ones(3))
        elif content == "keys":
            np.savez(file, sample_size=np.array(5))
        else:
            file.write(content)
    with pytest.raises(UserError, match=f"{path.name}: not a file of second moments"):
        second_moments(lm, (1,), corpus)


def test_a_corpus_that_is_not_to_be_had(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="31 documents, but mom2_n_samples asks for 32"):
        documents(str(texts), 32)
    with pytest.raises(UserError, match="expected wikipedia, self-generated or UTF-8 text files"):
        documents("wikipedai", 1)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="expected wikipedia, self-generated or UTF-8 text files"):
        documents(str(tmp_path / "latin.txt"), 1)

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError, match=r"^[^\n]*self-generated[^\n]*ConnectionError: no network\)$"):
        documents("wikipedia", 1)


def test_a_write_that_fails_leaves_nothing(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    lm, corpus = tiny("gpt2"), Corpus(str(texts), 5, tmp_path / "stats")
    for place in ("os.replace", "numpy.savez"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(UserError, match="No space left on device; stats_dir"):
                second_moments(lm, (1,), corpus)
        assert not [path for path in (tmp_path / "stats").rglob("*") if path.is_file()]
    assert second_moments(lm, (1,), corpus)


def test_the_first_pass_says_what_it_is(texts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once for all layers, before it begins; not where they are there."""
    caplog.set_level("INFO", "core.lm.moments")
    lm, corpus = tiny("gpt2"), Corpus(str(texts), 4, tmp_path / "stats")
    for _ in range(2):
        second_moments(lm, [1, 2], corpus)
    (line,) = caplog.messages
    assert line.startswith("second moments of tiny-gpt2, layers 1, 2: ") and str(corpus.stats_dir) in line
