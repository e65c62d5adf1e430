"""core.lm.tokens on both kinds of tokenizer: byte-level BPE (gpt2) and sentencepiece-like with a BOS (llama)."""

import copy
import random

import pytest
import torch
from conftest import tiny
from tokenizers import processors

from core.errors import UserError
from core.lm.generate import complete
from core.lm.model import LM
from core.lm.tokens import continuation, decode, encode, encode_all, in_template, pad, split_prompt, target_ids
from core.types import Edit

BYTES, PIECES = tiny("gpt2"), tiny("llama")
both = pytest.mark.parametrize("lm", [BYTES, PIECES], ids=["bytes", "pieces"])


@both
def test_names_of_special_tokens_in_a_text_are_text(lm: LM) -> None:
    special = lm.tokenizer.eos_token
    ids = encode(lm, f"a {special} b")
    assert lm.tokenizer.eos_token_id not in ids
    assert lm.tokenizer.decode(ids, skip_special_tokens=True) == f"a {special} b"
    assert lm.tokenizer.eos_token_id not in continuation(lm, f" {special}")


def test_bos_is_kept_where_the_tokenizer_adds_one() -> None:
    assert encode(PIECES, "a b")[0] == PIECES.tokenizer.bos_token_id
    assert encode(PIECES, "a b").count(PIECES.tokenizer.bos_token_id) == 1
    assert BYTES.tokenizer.bos_token_id not in encode(BYTES, "a b")
    assert PIECES.tokenizer.bos_token_id not in continuation(PIECES, " a")


@both
def test_texts_together_are_encoded_as_alone(lm: LM) -> None:
    texts = ["a b", "The Program", f"a {lm.tokenizer.eos_token} b", " 12", "a"]
    assert encode_all(lm, texts) == [encode(lm, text) for text in texts]
    assert encode_all(lm, []) == []


@both
@pytest.mark.parametrize("text", [" yes", "yes", " the Program", "B", " \u00e9t\u00e9", " 12", ""])
def test_continuation_joins_to_the_prompt_text(lm: LM, text: str) -> None:
    prompt = "The answer is"
    joined = encode(lm, prompt) + continuation(lm, text)
    assert lm.tokenizer.decode(joined, skip_special_tokens=True) == prompt + text


def test_continuation_is_plain_tokenisation_for_byte_level_bpe() -> None:
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices("  aeinst.,'1{}<|é中🙂", k=draw.randint(1, 12)))
        if not text[:2].isspace():  # how a run of blanks is split depends on what stands before it
            assert continuation(BYTES, text) == BYTES.tokenizer(text, split_special_tokens=True)["input_ids"], text


def test_continuation_neither_adds_nor_loses_a_blank_with_pieces() -> None:
    plain = PIECES.tokenizer("yes", add_special_tokens=False)["input_ids"]  # "▁yes": a blank put in front
    assert continuation(PIECES, " yes") == plain
    assert continuation(PIECES, "yes") != plain
    assert PIECES.tokenizer.convert_ids_to_tokens(continuation(PIECES, " yes"))[0].count("▁") == 1


def test_a_tokenizer_that_joins_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("gpt2")
    monkeypatch.setattr(lm, "tokenizer", lambda text, **_: {"input_ids": [7] if text == "\n" else [8, 9]})
    with pytest.raises(UserError, match=r"tokenizer of 'tiny-gpt2' joins a line break with ' x'"):
        continuation(lm, " x")


@both
@pytest.mark.parametrize("text", [" yes", "yes", " the Program", "B", " \u00e9t\u00e9", "\u00e9", " 12", "", "\n"])
def test_what_continues_a_prompt_is_decoded_with_its_first_blank(lm: LM, text: str) -> None:
    assert decode(lm, [continuation(lm, text)]) == [text]


def test_decoding_is_plain_for_byte_level_bpe_and_leaves_special_tokens_out() -> None:
    rows = [[7], [200, 5, 3], [BYTES.tokenizer.eos_token_id, 9], []]
    assert decode(BYTES, rows) == BYTES.tokenizer.batch_decode(rows, skip_special_tokens=True)
    ended = [*continuation(PIECES, " yes"), PIECES.tokenizer.eos_token_id]
    assert decode(PIECES, [ended]) == [" yes"]
    assert decode(PIECES, [ended], special=True)[0].replace(" </s>", "</s>") == " yes</s>"


@pytest.mark.parametrize("ending", ["<s> $A </s>", "$A </s>", "<s> $A </s> </s>"])
def test_an_end_token_that_the_tokenizer_adds_is_left_out(ending: str) -> None:
    """A prompt goes on, and the subject's last token is the subject's."""
    lm, plain = tiny("llama"), tiny("llama")
    ids = [(token, plain.tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    lm.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=ending, special_tokens=ids)
    assert lm.tokenizer("a b")["input_ids"][-1] == lm.tokenizer.eos_token_id
    start = 0 if ending.startswith("<s>") else 1
    assert encode(lm, "a b") == encode(plain, "a b")[start:]
    edit = Edit("Where was Anna Bell born?", "Anna Bell", "x", "y")
    row, at = in_template(lm, "So. {}", edit)
    wanted, there = in_template(plain, "So. {}", edit)
    assert (row, at) == (wanted[start:], there - start)
    if not start:
        assert complete(lm, ["a b", "The first day"], 4) == complete(plain, ["a b", "The first day"], 4)


@both
def test_a_token_without_an_embedding_is_refused(lm: LM) -> None:
    lm = LM(lm.model, copy.deepcopy(lm.tokenizer), lm.name)
    lm.tokenizer.add_tokens(["Zyx"])
    for read in (encode, continuation):
        with pytest.raises(
            UserError, match=rf"^'a Zyx' has token {len(lm.tokenizer) - 1}, but '{lm.name}' has"
        ) as caught:
            read(lm, "a Zyx")
        assert len(str(caught.value).splitlines()) == 1
        assert read(lm, "a b")


@both
def test_a_target_gets_exactly_one_blank(lm: LM) -> None:
    assert target_ids(lm, "Rome") == target_ids(lm, " Rome") == continuation(lm, " Rome")


def test_split_prompt() -> None:
    assert split_prompt(Edit("Is Ann in Ann Arbor?", "Ann", "x", "y")) == ("Is Ann in ", " Arbor?")
    assert split_prompt(Edit("Ann", "Ann", "x", "y")) == ("", "")
    for subject in ("Bob", ""):
        with pytest.raises(UserError, match=r"edit 4: the subject .* is not in its prompt 'Is Ann in\?'"):
            split_prompt(Edit("Is Ann in?", subject, "x", "y", index=4))


@both
@pytest.mark.parametrize("template", ["{}", "So it is. {}", "You say {} and more"])
@pytest.mark.parametrize("prompt", ["Anna Bell is", "Where was Anna Bell born?", "They know of Anna Bell"])
def test_the_subjects_last_token(lm: LM, template: str, prompt: str) -> None:
    ids, at = in_template(lm, template, Edit(prompt, "Anna Bell", "x", "y"))
    assert ids == encode(lm, template.replace("{}", prompt))
    upto = lm.tokenizer.decode(ids[: at + 1], skip_special_tokens=True)
    assert upto.endswith("Anna Bell")
    assert len(lm.tokenizer.decode(ids[:at], skip_special_tokens=True)) < len(upto)


def test_braces_in_a_prompt_are_text() -> None:
    ids, _ = in_template(BYTES, "So. {}", Edit("What is {} in Python?", "Python", "x", "y"))
    assert BYTES.tokenizer.decode(ids) == "So. What is {} in Python?"


def test_pad_on_the_left() -> None:
    padded = pad(BYTES, [[5, 6, 7], [8]])
    fill = BYTES.pad_id
    assert padded.ids.tolist() == [[5, 6, 7], [fill, fill, 8]]
    assert padded.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert padded.positions.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_pad_aligned_at_a_token_of_each_row() -> None:
    padded, fill = pad(BYTES, [[5, 6, 7], [8, 9]], [0, 1]), BYTES.pad_id
    assert padded.ids.tolist() == [[fill, 5, 6, 7], [8, 9, fill, fill]]
    assert padded.mask.tolist() == [[0, 1, 1, 1], [1, 1, 0, 0]]
    assert padded.positions[0, 1:].tolist() == [0, 1, 2]
    assert padded.positions[1, :2].tolist() == [0, 1]
    assert padded.ids[:, 1].tolist() == [5, 9]  # the marked tokens share a column


def test_columns_and_rows_of_a_rectangle() -> None:
    padded = pad(BYTES, [[5, 6, 7], [8]])
    right = padded.columns(1)
    assert right.ids.tolist() == [[6, 7], [BYTES.pad_id, 8]]
    assert right.mask.shape == (2, 3)  # still over the cached columns
    assert right.positions.tolist() == [[1, 2], [0, 0]]
    assert padded.rows(torch.tensor([1, 1])).ids.tolist() == [[BYTES.pad_id, BYTES.pad_id, 8]] * 2
