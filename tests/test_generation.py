"""Replies, token for token what plain transformers would say, and every way in which they end, break or are stopped."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
import threading
import time

import pytest
from pico import byte_tokenizer, change_json, load_pico, save_adapter, save_pico

from studio.errors import Damaged, InputError
from studio.events import Finished, Phase, Progress, TextDelta
from studio.fields import limits
from studio.generation import GenerationSettings, Prompt, Reply, StopReason, stream
from studio.generation.decoding import Decoder
from studio.tokenizer import Message


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    """Weights ten times as far apart as usual: it says something else with every token, means it, and never ends."""
    folder = save_pico(tmp_path_factory.mktemp("lively") / "pico", initializer_range=0.2, tie_word_embeddings=False)
    change_json(folder / "generation_config.json", suppress_tokens=[byte_tokenizer().eos_token_id])
    return folder


@pytest.fixture(scope="module")
def loaded(pico):
    return load_pico(pico)


HELLO = Prompt((Message("user", "Hé 😀"),))


def say(loaded, prompt=HELLO, **settings):
    """The reply, and the text that streamed."""
    *events, last = stream(loaded, prompt, GenerationSettings(**{"max_new_tokens": 24, "seed": 1, **settings}))
    assert isinstance(last, Finished)
    assert not any(isinstance(event, Finished) for event in events)
    return last.result, "".join(event.text for event in events if isinstance(event, TextDelta))


def plainly(loaded, text, *, seed=1, **options):
    """The new ids of model.generate() itself."""
    import torch

    ids = loaded.tokenizer(text, return_tensors="pt").input_ids
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return output[0, ids.shape[1] :].tolist()


def hooks_of(model):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


# The same as transformers

WAYS = {
    "greedy": ({"greedy": True}, {"do_sample": False}),
    "sampling": (
        {"temperature": 1.0, "top_p": 1.0, "top_k": 0},
        {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
    ),
    "defaults": ({}, {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "top_k": 50}),
    "top-k": (
        {"temperature": 1.5, "top_p": 1.0, "top_k": 3},
        {"do_sample": True, "temperature": 1.5, "top_p": 1.0, "top_k": 3},
    ),
    "top-p": (
        {"temperature": 2.0, "top_p": 0.1, "top_k": 0},
        {"do_sample": True, "temperature": 2.0, "top_p": 0.1, "top_k": 0},
    ),
    "min-p": (
        {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.9},
        {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.9},
    ),
    "repetition penalty": (
        {"greedy": True, "repetition_penalty": 1.8},
        {"do_sample": False, "repetition_penalty": 1.8},
    ),
    "beams": ({"greedy": True, "beams": 3}, {"do_sample": False, "num_beams": 3}),
    "sampled beams": (
        {"beams": 2, "top_p": 1.0, "top_k": 0, "temperature": 1.0},
        {"do_sample": True, "num_beams": 2, "top_p": 1.0, "top_k": 0, "temperature": 1.0},
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), WAYS.values(), ids=WAYS.keys())
def test_a_reply_is_what_generate_itself_would_say(loaded, ours, theirs):
    for seed in (1, 2):
        reply, streamed = say(loaded, Prompt(text="Once é"), seed=seed, **ours)
        ids = plainly(loaded, "Once é", seed=seed, max_new_tokens=24, **theirs)
        assert reply.tokens == len(ids)
        assert reply.text == streamed == loaded.tokenizer.decode(ids, skip_special_tokens=True)


def test_each_way_of_choosing_says_something_of_its_own(loaded):
    said = {name: say(loaded, Prompt(text="Once é"), **ours)[0].text for name, (ours, _) in WAYS.items()}
    assert len(set(said.values())) >= len(said) - 1, said


def test_a_conversation_is_answered_by_its_template(loaded):
    rendered = "<|user|>\nHé 😀<|end|>\n<|assistant|>\n"
    reply, _ = say(loaded, greedy=True)
    ids = plainly(loaded, rendered, do_sample=False, max_new_tokens=24)
    assert reply.text == loaded.tokenizer.decode(ids, skip_special_tokens=True)
    assert reply.prompt_tokens == len(loaded.tokenizer(rendered).input_ids)


def test_a_reply_is_continued_where_it_breaks_off(loaded):
    messages = (Message("user", "Hi"), Message("assistant", "Once "))
    reply, _ = say(loaded, Prompt(messages, continue_last=True), greedy=True)
    ids = plainly(loaded, "<|user|>\nHi<|end|>\n<|assistant|>\nOnce ", do_sample=False, max_new_tokens=24)
    assert reply.text == loaded.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_speaks(pico, loaded, tmp_path):
    adapted = load_pico(pico, adapter=save_adapter(tmp_path / "lora", pico))
    own = adapted.model.generation_config
    reply, streamed = say(adapted, Prompt(text="Once é"), greedy=True)
    assert reply.text == streamed != say(loaded, Prompt(text="Once é"), greedy=True)[0].text
    assert reply.tokens == len(plainly(adapted, "Once é", do_sample=False, max_new_tokens=24))
    assert adapted.model.generation_config is own


@pytest.mark.parametrize(
    "fields",
    [
        *({"return_dict_in_generate": True, "output_scores": True}, {"stop_strings": ["a"]}, {"max_time": 1e-9}),
        *({"do_sample": True, "min_p": 0.9}, {"do_sample": True, "typical_p": 0.1}, {"min_new_tokens": 1000}),
        *({"no_repeat_ngram_size": 1}, {"prompt_lookup_num_tokens": 3}, {"dola_layers": "high"}, {"max_length": 9}),
        *({"guidance_scale": 1.5}, {"forced_eos_token_id": 7}, {"cache_implementation": "static"}),
    ],
    ids=str,
)
def test_what_a_model_sets_for_itself_does_not_overrule_the_person(broken, loaded, fields):
    change_json(broken / "generation_config.json", **fields)
    theirs = load_pico(broken)
    own = theirs.model.generation_config
    assert say(theirs, temperature=1.5)[0].text == say(loaded, temperature=1.5)[0].text
    assert theirs.model.generation_config is own


def test_tokens_that_a_model_must_never_say_stay_unsaid(broken, loaded):
    first = plainly(loaded, "Once é", do_sample=False, max_new_tokens=1)
    change_json(broken / "generation_config.json", suppress_tokens=first)
    reply, _ = say(load_pico(broken), Prompt(text="Once é"), greedy=True, max_new_tokens=1)
    assert reply.text != loaded.tokenizer.decode(first)


# Text in pieces


def pieces_of(tokenizer, prompt, ids, chance):
    decoder, pieces, at = Decoder(tokenizer, prompt), [], 0
    while at < len(ids):
        step = chance.randint(0, 4)
        pieces.append(decoder.take(ids[at : at + step]))
        at += step
    pieces.append(decoder.finish(ids))
    assert decoder.text == "".join(pieces)
    assert decoder.count == len(ids)
    return pieces


def fallback_tokenizer():
    """Like that of Llama 2: words begin with a bar, and what is in no word is spelled in bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁helowrda.",
        "▁he",
        "llo",
        "▁wor",
        "ld",
        "▁a",
    ]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("prompt", ["hi", "😀😀😀", "aaaaaaa€", "<|user|>\n"])
def test_pieces_of_any_bytes_join_to_what_decoding_at_once_gives(prompt):
    tokenizer, chance = byte_tokenizer(), random.Random(prompt)
    before = tokenizer(prompt).input_ids
    for pool in (range(261), range(5, 261), tokenizer("hé €😀\ufffd").input_ids):
        for _ in range(40):
            ids = chance.choices(pool, k=chance.randint(1, 40))
            assert "".join(pieces_of(tokenizer, before, ids, chance)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("prompt", ["hello", "hello wor", "😀😀😀", "hello.\n"])
@pytest.mark.parametrize("text", ["hello world", " hello 😀😀 é", "€", "\n\n", "é ", "a\U0001f469\u200d\U0001f680b"])
def test_pieces_in_byte_fallback_keep_spaces_and_characters(prompt, text):
    tokenizer, chance = fallback_tokenizer(), random.Random(text)
    before, both = tokenizer(prompt).input_ids, tokenizer(prompt + text).input_ids
    assert both[: len(before)] == before
    for _ in range(10):
        assert "".join(pieces_of(tokenizer, before, both[len(before) :], chance)) == text


def test_broken_bytes_in_byte_fallback_are_shown_rather_than_raised():
    tokenizer, chance = fallback_tokenizer(), random.Random(0)
    newline, broken, word = (tokenizer.convert_tokens_to_ids(t) for t in ("<0x0A>", "<0xE2>", "▁wor"))
    pieces = pieces_of(tokenizer, tokenizer("hello").input_ids, [newline, broken, word], chance)
    assert "".join(pieces) in ("\n\ufffd wor", "\ufffd\ufffd wor")
    for _ in range(200):
        pieces_of(tokenizer, tokenizer("hello\n").input_ids, chance.choices(range(len(tokenizer)), k=20), chance)


def test_a_character_is_never_shown_in_halves():
    tokenizer = byte_tokenizer()
    decoder, ids = Decoder(tokenizer, tokenizer("x").input_ids), tokenizer("a€😀").input_ids
    assert [decoder.take([token]) for token in ids] == ["a", "", "", "€", "", "", "", "😀"]


def test_a_reply_that_ends_within_a_character_shows_that_it_does():
    tokenizer = byte_tokenizer()
    decoder = Decoder(tokenizer, tokenizer("x").input_ids)
    assert decoder.take(tokenizer("a€").input_ids[:2]) == ""
    assert decoder.finish(tokenizer("a€").input_ids[:2]) == "a\ufffd"


def test_a_tokenizer_without_a_rust_part_streams_too(pico, tmp_path):
    from transformers import ByT5Tokenizer

    slow = dataclasses.replace(load_pico(save_pico(tmp_path / "wide", vocab_size=400)), tokenizer=ByT5Tokenizer())
    assert not hasattr(slow.tokenizer, "backend_tokenizer")
    reply, streamed = say(slow, Prompt(text="hé"), temperature=2.0, top_k=0, top_p=1.0)
    assert reply.text == streamed != ""


# Seeds


def test_a_seed_repeats_a_reply_also_after_another_one(loaded):
    first, _ = say(loaded, seed=7, temperature=1.5)
    other, _ = say(loaded, seed=8, temperature=1.5)
    again, _ = say(loaded, seed=7, temperature=1.5)
    assert first.text == again.text != other.text
    assert (first.seed, other.seed) == (7, 8)


def test_without_a_seed_one_is_drawn_told_and_repeats_the_reply(loaded):
    first, _ = say(loaded, seed=None, temperature=1.5)
    other, _ = say(loaded, seed=None, temperature=1.5)
    again, _ = say(loaded, seed=first.seed, temperature=1.5)
    assert first.seed != other.seed
    assert again.text == first.text


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_first_and_the_last_seed_work(loaded, seed):
    assert say(loaded, seed=seed)[0].seed == seed


def test_randomness_and_gradients_are_left_as_they_were(loaded):
    import torch

    state, grad = torch.random.get_rng_state(), torch.is_grad_enabled()
    work = stream(loaded, HELLO, GenerationSettings(max_new_tokens=30, seed=1))
    for _ in work:
        assert torch.is_grad_enabled() is grad
        assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


# Room and reasons


@pytest.mark.parametrize(("tokens", "room"), [(511, 1), (510, 2), (500, 12)])
def test_a_reply_ends_where_the_context_is_full(loaded, tokens, room):
    reply, _ = say(loaded, Prompt(text="x" * tokens), greedy=True, max_new_tokens=100)
    assert (reply.prompt_tokens, reply.tokens, reply.stop, reply.context) == (tokens, room, StopReason.CONTEXT, 512)


@pytest.mark.parametrize("tokens", [512, 5000])
def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(loaded, tokens):
    with pytest.raises(InputError, match=rf"{tokens:,} tokens and this model reads at most 512"):
        say(loaded, Prompt(text="x" * tokens))
    assert say(loaded)[0].tokens == 24


def test_a_model_that_names_no_context_has_no_limit(loaded):
    endless = dataclasses.replace(loaded, resident=dataclasses.replace(loaded.resident, context=None))
    reply, _ = say(endless, Prompt(text="x" * 600), greedy=True)
    assert (reply.tokens, reply.stop, reply.context) == (24, StopReason.LENGTH, None)


def test_a_reply_ends_at_the_longest_that_was_asked_for(loaded):
    assert [say(loaded, greedy=True, max_new_tokens=n)[0].stop for n in (1, 24)] == [StopReason.LENGTH] * 2
    assert [say(loaded, greedy=True, max_new_tokens=n)[0].tokens for n in (1, 24)] == [1, 24]


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("beams", [1, 2])
def test_a_reply_ends_when_the_model_says_so(broken, loaded, as_list, beams):
    ids = plainly(loaded, "Once é", do_sample=False, max_new_tokens=24)
    end = next(token for index, token in enumerate(ids) if index > 2 and token not in ids[:index])
    change_json(broken / "generation_config.json", eos_token_id=[9999, end] if as_list else end)
    reply, streamed = say(load_pico(broken), Prompt(text="Once é"), greedy=True, beams=beams)
    assert reply.stop is StopReason.END
    assert reply.text == streamed
    if beams == 1:
        assert reply.tokens == ids.index(end) + 1


def test_a_model_that_names_no_end_uses_that_of_its_tokenizer(broken, loaded):
    ids = plainly(loaded, "Once é", do_sample=False, max_new_tokens=24)
    end = next(token for index, token in enumerate(ids) if index > 2 and token not in ids[:index])
    change_json(broken / "generation_config.json", eos_token_id=None)
    ending = load_pico(broken)
    ending.tokenizer.eos_token = ending.tokenizer.convert_ids_to_tokens(end)
    assert say(ending, Prompt(text="Once é"), greedy=True)[0].stop is StopReason.END


def test_a_reply_tells_its_numbers(loaded):
    start = time.monotonic()
    reply, _ = say(loaded, greedy=True, max_new_tokens=200)
    assert 0 < reply.first_token_seconds < reply.seconds <= time.monotonic() - start
    assert reply.tokens_per_second == 199 / (reply.seconds - reply.first_token_seconds)
    assert say(loaded, max_new_tokens=1)[0].tokens_per_second == 0


def test_beams_show_their_text_when_it_is_complete(loaded):
    events = list(stream(loaded, HELLO, GenerationSettings(max_new_tokens=100, beams=4, greedy=True)))
    texts = [index for index, event in enumerate(events) if isinstance(event, TextDelta)]
    assert texts == [len(events) - 2]
    counts = [event.done for event in events if isinstance(event, Progress) and event.phase is Phase.DECODE]
    assert counts == sorted(counts)


# What is refused


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_prompt_is_refused(text):
    for fields in ({"text": text}, {"messages": (Message("user", text),)}):
        with pytest.raises(InputError, match="no prompt"):
            Prompt(**fields)
    with pytest.raises(InputError, match="no prompt"):
        Prompt()


@pytest.mark.parametrize("fields", [{"text": "x"}, {"messages": (Message("user", "x"),)}], ids=["text", "question"])
def test_there_must_be_a_reply_to_continue(fields):
    with pytest.raises(InputError, match="no reply to continue"):
        Prompt(**fields, continue_last=True)


@pytest.mark.parametrize(
    "fields", [{"text": "a\udcff"}, {"messages": (Message("system", "\ud800"), Message("user", "x"))}]
)
def test_bytes_that_are_no_text_are_refused(fields):
    with pytest.raises(InputError, match="not text"):
        Prompt(**fields)


def test_a_prompt_that_comes_to_nothing_is_refused(loaded):
    silent = byte_tokenizer()
    silent.chat_template = "{{ '' }}"
    with pytest.raises(InputError, match="empty once"):
        say(dataclasses.replace(loaded, tokenizer=silent))


def test_a_tokenizer_of_another_model_is_found_out(loaded):
    larger = byte_tokenizer()
    larger.add_tokens(["new"])
    with pytest.raises(Damaged, match=r"number 261, and the model knows 261"):
        say(dataclasses.replace(loaded, tokenizer=larger), Prompt(text="new"))


@pytest.mark.parametrize("name", limits(GenerationSettings))
def test_a_setting_out_of_bounds_is_named_with_its_bounds(name):
    bounds = limits(GenerationSettings)[name]
    for value in (bounds["min"] - 1, bounds["max"] + 1, float("nan"), float("inf"), "1", [1], True):
        with pytest.raises(InputError) as caught:
            GenerationSettings(**{name: value})
        assert caught.value.message.startswith(name.replace("_", " ").capitalize())
        assert str(bounds["max"]) in caught.value.hint
    for value in (bounds["min"], bounds["max"]):
        assert getattr(GenerationSettings(**{name: value}), name) == value


@pytest.mark.parametrize("fields", [{"max_new_tokens": 5.5}, {"seed": 1.0}, {"beams": None}, {"temperature": None}])
def test_a_number_of_the_wrong_kind_is_refused(fields):
    with pytest.raises(InputError):
        GenerationSettings(**fields)


def test_every_setting_says_what_it_is_for():
    assert all(field.metadata["help"] for field in dataclasses.fields(GenerationSettings))


# Stopping, and threads


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Large enough for a prefill that takes its time: 20 million weights."""
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8}
    return load_pico(save_pico(tmp_path_factory.mktemp("large"), context=8192, **shape))


def test_stopping_a_reply_takes_a_moment_and_changes_nothing(loaded):
    before, hooks = say(loaded, temperature=1.5)[0], hooks_of(loaded.model)
    work = stream(loaded, HELLO, GenerationSettings(max_new_tokens=480, seed=1))
    while not isinstance(next(work), TextDelta):
        """Until it speaks."""
    start = time.monotonic()
    work.close()
    assert time.monotonic() - start < 3
    assert hooks_of(loaded.model) == hooks
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("studio-work")]
    assert say(loaded, temperature=1.5)[0].text == before.text


def test_stopping_within_the_prefill_of_a_long_prompt_takes_a_moment(large):
    import torch

    before, hooks, state = say(large, greedy=True)[0], hooks_of(large.model), torch.random.get_rng_state()
    work = stream(large, Prompt(text="x" * 2000), GenerationSettings(max_new_tokens=10))
    assert next(work) == Progress(Phase.PREFILL)
    while not next(work).total:
        """Until the first layer is at work."""
    start = time.monotonic()
    work.close()
    assert time.monotonic() - start < 3
    assert hooks_of(large.model) == hooks
    assert torch.equal(torch.random.get_rng_state(), state)
    assert say(large, greedy=True)[0].text == before.text


def test_a_prefill_tells_how_far_it_is_and_never_goes_back(large):
    *events, last = stream(large, Prompt(text="x" * 500), GenerationSettings(max_new_tokens=4, greedy=True))
    layers = [event.done for event in events if isinstance(event, Progress) and event.phase is Phase.PREFILL]
    assert layers == sorted(layers)
    assert {event.total for event in events if isinstance(event, Progress) and event.done} <= {8, None}
    assert isinstance(last.result, Reply)


def test_a_prefill_is_looked_into_more_often_than_decoding(loaded):
    work, hooks = stream(loaded, HELLO, GenerationSettings(max_new_tokens=480, seed=1)), set()
    while not isinstance(event := next(work), Finished):
        if isinstance(event, TextDelta):
            hooks.add(hooks_of(loaded.model))
    # One hook a layer while it decodes, so that streaming stays as fast as generate().
    assert hooks <= {0, 2}
    assert hooks_of(loaded.model) == 0


def test_a_reply_is_never_begun_when_nobody_listens(loaded):
    stream(loaded, HELLO, GenerationSettings()).close()
    assert hooks_of(loaded.model) == 0


def test_each_event_may_be_asked_for_by_another_thread(loaded):
    import torch

    expected, _ = say(loaded, temperature=1.5, max_new_tokens=60)
    work = stream(loaded, HELLO, GenerationSettings(temperature=1.5, max_new_tokens=60, seed=1))
    events, modes = [], []

    def step():
        events.append(next(work, None))
        modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    while not events or events[-1] is not None:
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert events[-2].result.text == expected.text
    assert set(modes) == {(True, False)}


def test_a_broken_template_leaves_the_model_as_it_was(broken, loaded):
    jinja = broken / "chat_template.jinja"
    assert jinja.is_file() or "chat_template" in json.loads((broken / "tokenizer_config.json").read_text())
    jinja.write_text("{{ raise_exception('never') }}")
    shy = load_pico(broken)
    with pytest.raises(InputError, match="never"):
        say(shy)
    assert (
        say(shy, Prompt(text="Once é"), greedy=True)[0].text == say(loaded, Prompt(text="Once é"), greedy=True)[0].text
    )
    assert sys.gettrace() is None or "coverage" in str(sys.gettrace())
    shutil.rmtree(broken)
