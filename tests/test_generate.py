"""core.lm.generate: batching changes no answer, prompts are cut on the left, greedy is greedy, memory may run out."""

from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from conftest import FAMILIES, WINDOWS, tiny
from pretend import Played
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import Cache

from core.errors import UserError
from core.lm import batches, begun, generate, pieces, reads
from core.lm.batches import in_batches
from core.lm.begun import Begun, Roomy
from core.lm.cached import Growing, stored
from core.lm.generate import complete, expected, fit, greedy, sample, until
from core.lm.kernels import attention as kernel
from core.lm.model import LM
from core.lm.pieces import Prefix, begin, shared_prefix
from core.lm.reads import log_probabilities
from core.lm.tokens import Row, continuation, decode, encode, pad
from core.types import Completion
from tests.reference import likelihood

PROMPTS = [
    "The capital of France is",
    "a",
    "Please identify Person Entity from the given text. Text: Ada wrote to Tom Hill in Paris. Entity:",
    "Is it so? answer:",
    "Q: what is 2 + 2? A:",
    "Anna Bell works as a painter of words, and she is known for the first one of her books, which is",
    "London",
    "for each snippet of text, label it. text: it 's a charming and often affecting journey. answer:",
]


def by_hand(lm: LM, prompt: str, new_tokens: int) -> Row:
    """Greedy decoding with nothing clever: the whole row through the whole model for every token."""
    row = encode(lm, prompt)
    new: Row = []
    for _ in range(new_tokens):
        with torch.no_grad():
            token = int(lm.model(torch.tensor([row + new]), use_cache=False).logits[0, -1].argmax())
        if token == lm.model.generation_config.eos_token_id:
            break
        new.append(token)
    return new


def test_a_row_ends_where_it_is_said_to_be_over(lm: LM) -> None:
    """As greedy decoding until then, and never past an end token; the others go on."""
    rows = [encode(lm, prompt) for prompt in PROMPTS]
    whole = greedy(lm, rows, 8)
    stop = whole[0][2]
    ended = until(begin(lm, rows), 8, lambda ids: stop in ids)
    assert all(finite for _, finite in ended) and len(set(map(len, whole))) >= 1
    for (ids, _), all_ids in zip(ended, whole, strict=True):
        assert ids == all_ids[: len(ids)] and (len(ids) == len(all_ids) or stop in ids)
    every = until(begin(lm, rows), 8, lambda ids: len(ids) == 3)
    assert [ids for ids, _ in every] == [ids[:3] for ids in whole]


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_tokens", [1, 12])
@pytest.mark.parametrize("choices", [(), ("yes", "no")])
def test_a_batch_of_8_equals_8_of_1(lm: LM, new_tokens: int, choices: tuple[str, ...]) -> None:
    together = complete(lm, PROMPTS, new_tokens, choices)
    alone = [complete(lm, [prompt], new_tokens, choices)[0] for prompt in PROMPTS]
    assert together == alone
    assert len({completion.text for completion in together}) > 4  # the model does not say the same to everything


@pytest.mark.parametrize("new_tokens", [1, 12])
@pytest.mark.parametrize("batch_tokens", [1, 40, 75, 200])
def test_the_token_budget_changes_nothing(lm: LM, new_tokens: int, batch_tokens: int) -> None:
    assert complete(lm, PROMPTS, new_tokens, ("a", "b"), batch_tokens) == complete(lm, PROMPTS, new_tokens, ("a", "b"))


@pytest.mark.parametrize("new_tokens", [1, 12])
@pytest.mark.parametrize("batch_tokens", [1, 300, None])
def test_nor_where_prompts_are_longer_than_the_context(lm: LM, new_tokens: int, batch_tokens: int | None) -> None:
    """Some of them start alike, some end alike, so do some that fit."""
    long = [" ".join(f"{word}{i}" for i in range(count)) for word, count in (("so", 90), ("so", 70), ("x", 50))]
    prompts = [f"{a} {b}" for a in (*long, "Hm.") for b in ("is it so?", PROMPTS[0])] + PROMPTS
    together = complete(lm, prompts, new_tokens, ("a", "b"), batch_tokens)
    assert 2 <= sum(completion.truncated for completion in together) <= 6
    assert together == [complete(lm, [prompt], new_tokens, ("a", "b"))[0] for prompt in prompts]


@pytest.mark.parametrize("new_tokens", [1, 12])
@pytest.mark.parametrize("prompts", [[""], ["London", ""]])
def test_an_empty_prompt_is_refused_where_no_bos_begins_it(prompts: list[str], new_tokens: int) -> None:
    with pytest.raises(UserError, match="a prompt is empty: 'tiny-gpt2' has nothing to go on from"):
        complete(tiny("gpt2"), prompts, new_tokens)
    with pytest.raises(UserError, match="a prompt is empty"):
        expected(tiny("gpt2"), prompts, new_tokens, [[]] * len(prompts))
    llama = tiny("llama")
    found = complete(llama, prompts, new_tokens)
    assert found == [complete(llama, [prompt], new_tokens)[0] for prompt in prompts]
    assert found[-1].text == decode(llama, greedy(llama, [[llama.tokenizer.bos_token_id]], new_tokens))[0]


def test_numbers_of_tokens_that_make_no_sense(lm: LM) -> None:
    with pytest.raises(UserError, match="max_new_tokens: expected 1 or more, got 0"):
        complete(lm, PROMPTS, 0)
    for budget in (0, -1):
        with pytest.raises(UserError, match=f"tokens of a batch: expected 1 or more, got {budget}"):
            complete(lm, PROMPTS, 1, batch_tokens=budget)


def test_completions_are_greedy(lm: LM) -> None:
    for new_tokens in (1, 6):
        wanted = decode(lm, [by_hand(lm, p, new_tokens) for p in PROMPTS])
        assert [completion.text for completion in complete(lm, PROMPTS, new_tokens)] == wanted


def test_the_models_own_generation_settings_play_no_part(lm: LM) -> None:
    plain = complete(lm, PROMPTS, 12)
    lm.model.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, temperature=0.1, min_length=99)
    own = lm.model.generation_config
    assert complete(lm, PROMPTS, 12) == plain
    assert lm.model.generation_config is own


def test_an_end_of_sequence_ends_a_completion() -> None:
    lm = tiny("gpt2")
    row = encode(lm, PROMPTS[0])
    said = greedy(lm, [row], 6)[0]
    assert len(said) == 6
    for ends in (said[3], [lm.model.config.vocab_size - 1, said[3]]):
        lm.model.generation_config.eos_token_id = ends
        cut = said[: said.index(said[3])]
        assert greedy(lm, [row, encode(lm, PROMPTS[1])], 6)[0] == cut
        (completion,) = complete(lm, PROMPTS[:1], 6)
        assert completion.text == lm.tokenizer.decode(cut) and completion.ended
        assert completion.seen == lm.tokenizer.decode([*cut, said[3]])
    assert greedy(lm, [row], 6, past_end=True)[0] == said
    lm.model.generation_config.eos_token_id = None
    (completion,) = complete(lm, PROMPTS[:1], 6)
    assert (completion.ended, completion.full) == (False, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_have_ended_leave_the_batch(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most twice as many rows go through a step as are still going, and each says what it says alone."""
    lm, went = tiny(family), []
    rows = [
        encode(lm, f"{a} {b} of {c}") for a in ("The", "No") for b in ("mayor", "river") for c in ("Rome", "Ohio", "us")
    ]
    lm.model.generation_config.eos_token_id = list(range(0, lm.model.config.vocab_size, 4))
    alone = [greedy(lm, [row], 8)[0] for row in rows]
    step = Begun.step
    monkeypatch.setattr(Begun, "step", lambda self, ids: (went.append(len(ids)), step(self, ids)))
    assert greedy(lm, rows, 8) == alone
    going = [sum(len(row) > column for row in alone) for column in range(7)]
    assert len({*going}) > 2, "they end at different steps"
    going = going[: going.index(0)] if 0 in going else going
    assert len(went) == len(going) and all(n <= max(2 * still - 1, 1) for n, still in zip(went, going, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_can_be_recorded(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for what is to come every step is the same computation in the same place, and says the same."""
    lm, new, places = tiny(family), 12, []
    lm.model.generation_config.eos_token_id = list(range(0, lm.model.config.vocab_size, 9))
    wanted = complete(lm, PROMPTS, new)
    assert len({*(len(completion.text) for completion in wanted)}) > 2, "they end at different steps"
    advance = Roomy._advance

    def watched(self: Any) -> None:
        attended.clear()
        advance(self)
        counts.append(len(attended))
        held = [self.ids, self.mask, self.positions, self.last, self.at, *chain(*stored(self.cache))]
        places.append((len(self.ids), [x.data_ptr() for x in held]))

    attended, counts, attention = [], [], kernel.attention
    monkeypatch.setattr(kernel, "attention", lambda *of, **more: attended.append(1) or attention(*of, **more))
    monkeypatch.setattr(LM, "recorder", property(lambda self: object()))
    monkeypatch.setattr(begun, "Recording", Played)
    monkeypatch.setattr(Roomy, "_advance", watched)
    assert complete(lm, PROMPTS, new) == wanted
    assert {*counts} == {0 if family == "gptj" else lm.n_layers}, "GPT-J's attention is its own"
    assert len(places) > 5
    assert [isinstance(pieces.begin(lm, [[5, 6]]).going_on(new), Roomy) for new in (2, 3)] == [False, True]
    assert all(a[1] == b[1] for a, b in pairwise(places) if a[0] == b[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_copies_no_keys(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay where they are until rows leave the batch, and then with room for those to come."""
    lm, places = tiny(family), []
    lm.model.generation_config.eos_token_id = list(range(0, lm.model.config.vocab_size, 5))
    step = Begun.step

    def watched(self: Begun, ids: Tensor) -> None:
        before = [x.data_ptr() for x in chain(*stored(self.cache))]
        step(self, ids)
        held = [*chain(*stored(self.cache))]
        assert before == [x.data_ptr() for x in held]
        assert {x.shape[2] for x in held} == {self.mask.shape[1]}
        places.append(len(ids))

    monkeypatch.setattr(Begun, "step", watched)
    found = complete(lm, PROMPTS, 24)
    assert len({*places}) > 1 and len(places) > 5, "rows left"
    monkeypatch.setattr(Begun, "step", step)
    monkeypatch.setattr(Begun, "going_on", lambda self, tokens: self)
    assert complete(lm, PROMPTS, 24) == found


def test_nothing_is_said_where_nothing_is_asked(lm: LM) -> None:
    """No token at all, and answers that are all empty."""
    assert greedy(lm, [[5, 6], [3, 4, 5]], 0) == [[], []]
    assert [(said, len(logp)) for said, logp in generate.answered(lm, [[5, 6], [3]], [[], []])] == [([], 0), ([], 0)]


def test_what_is_said_and_how_likely_the_answer_is_come_from_one_pass(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, answers = [encode(lm, p) for p in PROMPTS], [continuation(lm, a) for a in (" yes", " the mayor of Rome")]
    pairs = [(row, answer) for row in rows for answer in answers]
    chances = likelihood.log_probabilities(lm, *zip(*((row, [answer]) for row, answer in pairs), strict=True))
    wanted = [(greedy(lm, [row], len(own))[0], chance) for (row, own), (chance,) in zip(pairs, chances, strict=True)]
    began: list[int] = []
    monkeypatch.setattr(generate, "begin", lambda lm, rows: (began.extend(map(len, rows)), begin(lm, rows))[1])
    found = generate.answered(lm, *zip(*pairs, strict=True))
    assert sorted(began) == sorted(len(row) for row, _ in pairs)
    for (said, logp), (text, chance) in zip(found, wanted, strict=True):
        assert said == text
        torch.testing.assert_close(logp, chance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 60, 4096])
def test_how_likely_several_answers_are(lm: LM, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one token and of several; each row goes through once, and an answer's number is the same twice."""
    rows, answers = (
        [encode(lm, p) for p in PROMPTS],
        [continuation(lm, a) for a in (" yes", " the mayor of Rome", " a")],
    )
    asked = [[answers[1], answers[0][:1], answers[1]], *([answers[0], answers[1]] for _ in rows[2:]), [answers[2][:1]]]
    monkeypatch.setitem(batches.BATCH_TOKENS, "cpu", budget)
    began: list[int] = []
    monkeypatch.setattr(reads, "begin", lambda lm, rows: (began.extend(map(len, rows)), begin(lm, rows))[1])
    found = log_probabilities(lm, rows, asked)
    assert sorted(began) == sorted(map(len, rows)) and {len(logp) for each in found for logp in each} > {1}
    assert torch.equal(found[0][0], found[0][2])
    for logps, wanted in zip(found, likelihood.log_probabilities(lm, rows, asked), strict=True):
        torch.testing.assert_close(logps, wanted, rtol=1e-4, atol=1e-5)
    assert log_probabilities(lm, [], []) == []


def test_special_tokens_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    monkeypatch.setattr(
        generate, "_continued", lambda lm, begun, *_: [([lm.tokenizer.eos_token_id], True)] * len(begun.last)
    )
    (said,) = complete(lm, ["a"], 2)
    assert said == Completion("", ended=True, full=lm.tokenizer.eos_token)
    assert said.seen == lm.tokenizer.eos_token


def test_nothing_to_complete() -> None:
    assert complete(tiny("gpt2"), [], 5) == complete(tiny("gpt2"), [], 1, ("a", "b")) == []


@pytest.mark.parametrize("family", WINDOWS)
@pytest.mark.parametrize("start", ["", "Please say yes or no to it when you have read all of the text. "])
@pytest.mark.parametrize("new_tokens", [1, 6])
def test_a_batch_equals_its_rows_where_windows_are_shorter(family: str, start: str, new_tokens: int) -> None:
    """Rows of unequal length, behind a prefix that all share or not."""
    lm = tiny(family, **WINDOWS[family])
    prompts = [f"{start}{'very ' * i}big is the {i}" for i in (0, 1, 2, 5, 9, 14, 20)] + [
        f"{start}London",
        f"{start}Is",
    ]
    for choices in ((), ("yes", "no")):
        together = complete(lm, prompts, new_tokens, choices)
        assert together == [complete(lm, [prompt], new_tokens, choices)[0] for prompt in prompts]
    if new_tokens == 6:
        assert [c.text for c in together] == decode(lm, [by_hand(lm, prompt, new_tokens) for prompt in prompts])


@pytest.mark.parametrize("new_tokens", [1, 6])
def test_a_long_row_does_not_change_its_neighbours_with_longrope(new_tokens: int) -> None:
    """Its factors for long rows are not used: the context is that of training before the stretch."""
    rope = dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0] * 4, long_factor=[1.0, 9.0, 30.0, 90.0])
    lm = tiny("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    assert (lm.context, lm.model.config.max_position_embeddings) == (32, 128)
    prompts = [*PROMPTS, "very " * 60 + "big is"]
    together = complete(lm, prompts, new_tokens, ("yes", "no"))
    assert together == [complete(lm, [prompt], new_tokens, ("yes", "no"))[0] for prompt in prompts]
    assert [c.truncated for c in together][-1]


@pytest.mark.parametrize("tokens", [{"pad_token": "<pad>"}, {"eos_token": "<eos>"}])
def test_a_pad_or_end_token_without_an_embedding(tokens: dict[str, str]) -> None:
    lm = tiny("gpt2")
    wanted = [completion.text for completion in complete(lm, PROMPTS, 4)]
    lm.tokenizer.add_special_tokens(tokens)
    assert len(lm.tokenizer) > lm.vocabulary > lm.pad_id
    assert [completion.text for completion in complete(lm, PROMPTS, 4)] == wanted


# --- label words ---------------------------------------------------------------------------------------------------


def test_the_choice_is_the_likeliest_label_word_behind_a_blank(lm: LM) -> None:
    words = ("yes", "no", "the", "Program")
    first = [continuation(lm, f" {word}")[0] for word in words]
    for prompt, completion in zip(PROMPTS, complete(lm, PROMPTS, 3, words), strict=True):
        with torch.no_grad():
            logits = lm.model(torch.tensor([encode(lm, prompt)])).logits[0, -1]
        assert completion.choice == words[int(logits[first].argmax())]
        assert completion.text == complete(lm, [prompt], 3)[0].text


def test_label_words_must_differ_in_their_first_token(lm: LM) -> None:
    with pytest.raises(
        UserError, match=f"tokenizer of '{lm.name}' starts two of the label words yes, yes with the same"
    ):
        complete(lm, ["a"], 1, ("yes", "yes"))


def test_a_tokenizer_whose_blanks_are_tokens_of_their_own() -> None:
    """All label words then start with the same token."""
    lm = tiny("gpt2")
    lm.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    assert continuation(lm, " yes")[0] == continuation(lm, " no")[0]
    with pytest.raises(UserError, match="choose a model whose tokens hold the blank") as caught:
        complete(lm, ["a"], 1, ("yes", "no"))
    assert len(str(caught.value).splitlines()) == 1


def test_one_token_takes_one_forward_pass_with_logits_at_one_position(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pieces.PASS, "cpu", 1)
    passes: list[int] = []
    heads: list[tuple[int, ...]] = []
    lm.model.base_model.register_forward_hook(lambda module, given, out: passes.append(len(out.last_hidden_state)))
    lm.model.get_output_embeddings().register_forward_hook(lambda module, given, out: heads.append(out.shape[:-1]))
    complete(lm, PROMPTS, 1, ("yes", "no"))
    shared = [1] if lm.tokenizer.bos_token_id in encode(lm, "a") else []  # BOS is a prefix, run once
    assert (passes, heads) == ([*shared, 8], [(8,)])


# --- truncation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_over_long_prompt_loses_tokens_on_its_left(family: str) -> None:
    lm = tiny(family)
    long = " ".join(f"word{i}" for i in range(100)) + " The capital of France is"
    row = encode(lm, long)
    kept, cut = fit(lm, row, 10)
    assert cut
    assert len(row) > len(kept) == lm.context - 10 == 118
    assert kept[-100:] == row[-100:]
    if family == "llama":  # BOS stays
        assert kept == [lm.tokenizer.bos_token_id, *row[-117:]]
    else:
        assert kept == row[-118:]
    found = complete(lm, ["a", long, "London"], 10)
    assert [completion.truncated for completion in found] == [False, True, False]
    assert found[1].text == decode(lm, greedy(lm, [kept], 10))[0]


def test_a_prompt_that_just_fits() -> None:
    lm = tiny("gpt2")
    assert fit(lm, [5] * 118, 10) == ([5] * 118, False)
    assert fit(lm, [4] + [5] * 118, 10) == ([5] * 118, True)


@pytest.mark.parametrize("new_tokens", [127, 128, 200])
def test_a_context_that_has_no_room_for_a_prompt(new_tokens: int) -> None:
    with pytest.raises(UserError, match=f"'tiny-gpt2' takes 128 tokens in all, too few for {new_tokens} new ones"):
        complete(tiny("gpt2"), ["a", "b"], new_tokens)
    assert complete(tiny("gpt2"), ["The capital of France"], 126)[0].truncated


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_tokens", [1, 5])
def test_out_of_memory_halves_the_budget_and_retries(lm: LM, new_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pieces.PASS, "cpu", 1)  # so that a batch is one piece
    wanted, sizes, forward = complete(lm, PROMPTS, new_tokens), [], lm.model.base_model.forward

    def small(**kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("as if")
        return forward(**kwargs)

    monkeypatch.setattr(lm.model.base_model, "forward", small)
    assert complete(lm, PROMPTS, new_tokens) == wanted
    assert [size for size in sizes if size > 1][:3] == [8, 4, 2]  # beside the prefix, one row


def test_one_row_that_does_not_fit_is_an_error(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("as if")

    monkeypatch.setattr(lm.model.base_model, "forward", never)
    with pytest.raises(torch.OutOfMemoryError):
        complete(lm, PROMPTS, 1)


def test_batches_are_sorted_and_within_the_budget() -> None:
    lm, batches = tiny("gpt2"), []
    rows = [[0] * n for n in (3, 9, 1, 5, 5, 2, 20)]

    def work(batch: list[Row]) -> list[int]:
        batches.append([len(row) for row in batch])
        return [10 * len(row) for row in batch]

    assert in_batches(rows, work, lm, len, 12) == [30, 90, 10, 50, 50, 20, 200]
    assert batches == [[20], [9], [5, 5], [3, 2, 1]]


# --- sampling ------------------------------------------------------------------------------------------------------


def test_sampling_follows_what_chooses(lm: LM) -> None:
    row = encode(lm, PROMPTS[0])

    def draw(seed: int, rows: list[Row], n: int = 8) -> list[Row]:
        generator = torch.Generator().manual_seed(seed)
        ids: list[Row] = sample(
            lm, rows, n, lambda z: torch.multinomial(z.softmax(-1), 1, generator=generator)
        ).tolist()
        return ids

    def likeliest(rows: list[Row], n: int) -> list[Row]:
        ids: list[Row] = sample(lm, rows, n, lambda logits: logits.argmax(-1, keepdim=True)).tolist()
        return ids

    assert draw(1, [row] * 3) == draw(1, [row] * 3) != draw(2, [row] * 3)
    assert likeliest([row], 8)[0] == greedy(lm, [row], 8, past_end=True)[0]
    assert likeliest([row, row[:2]], 1) == [greedy(lm, [r], 1, past_end=True)[0] for r in (row, row[:2])]
    with torch.no_grad():
        chances = lm.model(torch.tensor([row])).logits[0, -1].softmax(-1)
    drawn = torch.bincount(torch.tensor(draw(4, [row] * 2000, 1)).flatten(), minlength=len(chances)) / 2000
    assert (drawn - chances).abs().max() < 0.05


def test_a_shared_prefix_is_run_once_and_changes_nothing(lm: LM) -> None:
    """Logits behind the cached prefix are those of the whole row, for rows of any length; one row shares nothing."""
    texts = [
        "Say yes or no. Is London big? answer:",
        "Say yes or no. Rome? answer:",
        "Say yes or no. Is Tom Hill a man",
    ]
    rows = [encode(lm, text) for text in texts]
    prefix = shared_prefix(lm, rows, 1)
    assert prefix.length >= len(encode(lm, "Say yes or no.")) - 1
    assert all(row[: prefix.length] == rows[0][: prefix.length] for row in rows)
    tokens = pad(lm, [row[prefix.length :] for row in rows])
    with torch.no_grad():
        behind = lm.model(
            tokens.ids,
            attention_mask=torch.nn.functional.pad(tokens.mask, (prefix.length, 0), value=1),
            position_ids=tokens.positions + prefix.length,
            past_key_values=Cache(
                layers=[Growing(k.expand(3, -1, -1, -1), v.expand(3, -1, -1, -1)) for k, v in prefix.layers]
            ),
            use_cache=True,
        ).logits[:, -1]
        whole = torch.cat([lm.model(torch.tensor([row])).logits[:, -1] for row in rows])
    torch.testing.assert_close(behind, whole, rtol=1e-4, atol=1e-5)
    assert shared_prefix(lm, rows[:1], 1) == Prefix(may_share=True)
    assert shared_prefix(lm, [rows[0], rows[0]], 1).length == len(rows[0]) - 1
    assert complete(lm, texts, 1) == [complete(lm, [text], 1)[0] for text in texts]


def test_a_bar_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    complete(tiny("gpt2"), ["Anna Bell is", "a word"], 2)
    err = capsys.readouterr().err
    assert err.startswith("\rcompletions: ") and "row" in err
