"""core.lm.kernels.graphs: who records, and on a GPU that what is played back is what was recorded."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from conftest import tiny

from core.lm.kernels.graphs import Recorder, Recording


def test_who_records() -> None:
    lm = tiny("llama")
    assert lm.recorder is None
    if not torch.cuda.is_available():
        return
    lm.model.to("cuda")
    assert lm.recorder is not None and lm.recorder is lm.recorder
    lm.model.config._attn_implementation = "flash_attention_2"
    assert lm.recorder is None


@pytest.mark.parametrize(("failures", "records"), [(0, 1), (1, 2), (2, 2)])
def test_what_is_held_unused_is_given_back_once(failures: int, records: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that runs out of memory is tried again without it, and then is the caller's to put right."""
    recorder, happened = object.__new__(Recorder), list[str]()

    def recorded(self: Recorder, work: object) -> str:
        happened.append("record")
        if happened.count("record") <= failures:
            raise torch.OutOfMemoryError
        return "a recording"

    monkeypatch.setattr(Recorder, "_recorded", recorded)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: happened.append("give back"))
    with pytest.raises(torch.OutOfMemoryError) if failures == 2 else nullcontext():
        assert recorder.recorded(lambda: None) == "a recording"
    assert happened == ["record", "give back", "record"][: 2 * records - 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_is_played_back() -> None:
    """Python runs twice for the first of a kind, then once; two recordings do not get in each other's way."""
    recorder, counts, ran = Recorder(torch.device("cuda")), torch.zeros(2, 1000, device="cuda"), [0, 0]

    def work(i: int) -> None:
        ran[i] += 1
        counts[i] += (counts[i] + 1).square() - counts[i].square() - 2 * counts[i]  # 1, through temporary memory

    both = [Recording(recorder), Recording(recorder)]
    for _ in range(5):
        for i, recording in enumerate(both):
            recording(partial(work, i))
    both[1](partial(work, 1))
    assert ran == [2, 1] and counts[0].tolist() == [5] * 1000 and counts[1].tolist() == [6] * 1000
