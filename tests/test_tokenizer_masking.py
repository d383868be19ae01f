"""Which tokens are trained on: proven for every shape of template that real models have, or refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chat_templates import CALL, IM, SHAPES, SYSTEM, TALK, TOOLS, byte_level, shaped, taught

from studio.errors import InputError, Unsupported
from studio.tokenizer import (
    Message,
    encode,
    mask_conversation,
    masked_completion,
    masked_text,
    render,
)
from studio.tokenizer import masking as masking_module

PROVEN = [name for name, shape in SHAPES.items() if isinstance(shape.taught, list)]
REFUSED = [name for name in SHAPES if name not in PROVEN]


@pytest.mark.parametrize("name", PROVEN)
def test_every_reply_is_trained_on_with_its_end_and_nothing_else_is(name):
    tokenizer = shaped(name)
    masked = mask_conversation(tokenizer, TALK)
    assert taught(tokenizer, masked) == SHAPES[name].taught
    assert [masked.text[slice(*span)] for span in masked.spans] == SHAPES[name].taught


@pytest.mark.parametrize("name", PROVEN)
def test_the_last_reply_alone_can_be_trained_on(name):
    tokenizer = shaped(name)
    masked = mask_conversation(tokenizer, TALK, trained="last")
    assert taught(tokenizer, masked) == SHAPES[name].taught[-1:]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_proven_is_refused_with_the_reason(name):
    with pytest.raises(Unsupported, match=f"cannot be proven: {SHAPES[name].taught}"):
        mask_conversation(shaped(name), TALK)


def test_a_template_that_drops_earlier_reasoning_is_proven_for_the_last_reply():
    tokenizer, (said,) = shaped("qwen3"), SHAPES["qwen3"].last
    assert taught(tokenizer, mask_conversation(tokenizer, TALK, trained="last")) == [said]
    thinking = (*TALK[:1], Message("assistant", "<think>\nHm\n</think>\n\nHey"), *TALK[2:])
    with pytest.raises(Unsupported, match=r"turn 2 reads .*<think>.*, and .*Hey"):
        mask_conversation(tokenizer, thinking)
    assert "Hm" not in mask_conversation(tokenizer, thinking, trained="last").text


def test_a_prompt_that_opens_the_reasoning_is_no_prefix_of_a_history_without_it():
    with pytest.raises(Unsupported, match=SHAPES["r1"].last):
        mask_conversation(shaped("r1"), TALK, trained="last")


@pytest.mark.parametrize("name", SHAPES)
def test_everything_can_be_trained_on(name):
    masked = mask_conversation(shaped(name), TALK, trained="all")
    assert all(masked.trained)
    assert masked.how == "everything"


# One text everywhere


@pytest.mark.parametrize("name", PROVEN)
def test_chat_and_training_read_the_same_tokens(name):
    from studio.generation import Prompt
    from studio.generation.streaming import _prompt_ids

    tokenizer = shaped(name)
    masked = mask_conversation(tokenizer, TALK, trained="last")
    asked = _prompt_ids(tokenizer, Prompt(TALK[:3]))
    assert masked.text == render(tokenizer, TALK, generation_prompt=False)
    assert list(masked.ids) == encode(tokenizer, masked.text, special_tokens=False)
    assert list(masked.ids[: len(asked)]) == asked
    first = masked.trained.index(True)
    # Chat hands over where the trained part begins; a template that marks less begins no earlier.
    assert first == len(asked)


@pytest.mark.parametrize("name", PROVEN)
def test_the_turns_cover_the_text_in_order(name):
    masked = mask_conversation(shaped(name), TALK)
    assert [turn.role for turn in masked.turns] == [message.role for message in TALK]
    assert masked.turns[0].start == 0
    assert masked.turns[-1].end == len(masked.text)
    assert all(one.end == other.start for one, other in zip(masked.turns, masked.turns[1:], strict=False))
    said = [masked.text[turn.start : turn.end] for turn in masked.turns]
    assert all(message.content in text for message, text in zip(TALK, said, strict=True))


def test_turns_that_a_template_runs_together_share_a_span():
    masked = mask_conversation(shaped("llama2"), SYSTEM)
    system, user = masked.turns[:2]
    assert (system.start, system.end) == (user.start, user.end)
    assert masked.text[user.start : user.end] == "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST]"


# Two ways


def test_by_blocks_and_by_prefixes_is_the_same_where_both_work():
    masked = mask_conversation(shaped("generation"), TALK)
    assert (masked.how, masked.note, masked.ends_trained) == ("generation", "", True)
    assert masked.trained == mask_conversation(shaped("chatml"), TALK).trained


def test_blocks_are_those_of_transformers():
    for name in ("generation", "generation-without-end"):
        tokenizer = shaped(name)
        turns = [{"role": message.role, "content": message.content} for message in SYSTEM]
        theirs = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        masked = mask_conversation(tokenizer, SYSTEM)
        assert list(masked.ids) == theirs["input_ids"]
        assert [int(trained) for trained in masked.trained] == theirs["assistant_masks"]


def test_blocks_that_leave_out_the_end_are_followed_and_the_difference_is_said():
    masked = mask_conversation(shaped("generation-without-end"), TALK)
    assert (masked.how, masked.ends_trained) == ("generation", False)
    assert "leaves out '<|im_end|>'" in masked.note
    assert "differ in 2 of" in masked.note


def test_blocks_whose_place_is_not_known_are_not_used():
    masked = mask_conversation(shaped("generation-in-a-macro"), TALK)
    assert (masked.how, masked.ends_trained) == ("prefix", True)


def test_a_block_that_prefixes_cannot_prove_says_so():
    template = SHAPES["generation"].template.replace("{{- m.content }}", "{{- m.content if loop.last else 'cut' }}")
    masked = mask_conversation(byte_level(template, IM), TALK)
    assert masked.how == "generation"
    assert "Comparing prefixes does not prove it" in masked.note


# Tools


def test_calls_of_tools_are_trained_on_and_what_a_tool_says_is_not():
    tokenizer = shaped("llama3")
    masked = mask_conversation(tokenizer, CALL, tools=TOOLS)
    said = '{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>'
    assert taught(tokenizer, masked) == [said, "No.<|eot_id|>"]
    qwen = shaped("qwen3")
    masked = mask_conversation(qwen, CALL[:2], tools=TOOLS)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'
    assert taught(qwen, masked) == [f"<think>\n\n</think>\n\n{call}"]


# Tokens that reach across a border


def test_a_border_inside_of_a_token_is_refused():
    plain = "{% for m in messages %}{{ m.role + ':' + m.content + '</s>' }}{% endfor %}"
    plain += "{{ 'assistant:' if add_generation_prompt }}"
    talk = TALK[:2]
    tokenizer = byte_level(plain, ["<s>", "</s>"])
    assert taught(tokenizer, mask_conversation(tokenizer, talk)) == ["Hey</s>"]
    merging = byte_level(plain, ["<s>", "</s>"], merges=((":", "H"),))
    with pytest.raises(Unsupported, match="a token reaches across the border of “assistant:” and “Hey</s>”"):
        mask_conversation(merging, talk)


@pytest.mark.parametrize("name", ["chatml", "llama2", "alpaca"])
def test_a_proof_from_the_last_special_token_is_one_from_the_beginning(monkeypatch, name):
    merges = ((":", "H"), ("H", "i"), ("s", "\u010a"), ("<", "/"))
    tokenizer = byte_level(SHAPES[name].template, SHAPES[name].special, merges=merges)
    text = render(tokenizer, (Message("user", "Hi:Hi </ s\n é</s"), *TALK[1:]), generation_prompt=False)
    short = masking_module.Edges(tokenizer, text)
    monkeypatch.setattr(masking_module.Edges, "_separators", lambda self, starts: {})
    long = masking_module.Edges(tokenizer, text)
    found = [(edge(short, place), edge(long, place)) for place in range(len(text) + 1)]
    assert all(one == other for one, other in found)
    assert {one is None for one, _ in found} == {True, False}


def edge(edges, place):
    try:
        return edges.at(place)
    except Unsupported:
        return None


# Odd conversations


def test_a_conversation_without_a_reply_trains_nothing():
    masked = mask_conversation(shaped("chatml"), TALK[:1])
    assert not any(masked.trained)
    assert (masked.spans, masked.ends_trained) == ((), None)


@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_a_template_that_refuses_a_system_prompt_says_so(name):
    with pytest.raises(InputError, match="it says"):
        mask_conversation(shaped(name), SYSTEM)


def test_a_conversation_that_begins_with_a_reply_is_proven_or_refused():
    tokenizer = shaped("chatml")
    assert taught(tokenizer, mask_conversation(tokenizer, TALK[1:])) == SHAPES["chatml"].taught
    with pytest.raises(Unsupported, match="up to turn 1 cannot be rendered by itself"):
        mask_conversation(shaped("llama3"), TALK[1:])


def test_a_reply_that_is_empty_still_ends():
    tokenizer = shaped("chatml")
    talk = (TALK[0], replace(TALK[1], content=""))
    assert taught(tokenizer, mask_conversation(tokenizer, talk)) == ["<|im_end|>"]


def test_another_template_can_be_masked_with():
    tokenizer = shaped("alpaca")
    masked = mask_conversation(tokenizer, TALK, template=SHAPES["zephyr"].template)
    assert taught(tokenizer, masked) == SHAPES["zephyr"].taught
    assert tokenizer.chat_template == SHAPES["alpaca"].template


def test_a_template_that_is_slow_turn_by_turn_is_given_up(monkeypatch):
    monkeypatch.setattr(masking_module, "MASK_SECONDS", -1.0)
    with pytest.raises(InputError, match="seconds for the turns of one conversation"):
        mask_conversation(shaped("chatml"), TALK)


def test_a_tokenizer_without_a_rust_part_is_proven_too():
    from transformers import ByT5Tokenizer

    template = SHAPES["zephyr"].template
    tokenizer = ByT5Tokenizer(chat_template=template)
    assert taught(tokenizer, mask_conversation(tokenizer, TALK)) == SHAPES["zephyr"].taught


# Plain text


def with_opening(special=("<s>", "</s>")):
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level(None, list(special))
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def test_a_completion_is_trained_on_and_its_prompt_is_not():
    tokenizer = with_opening()
    masked = masked_completion(tokenizer, "2 + 2 =", " 4")
    assert tokenizer.decode(masked.ids) == "<s>2 + 2 = 4</s>"
    assert taught(tokenizer, masked) == [" 4</s>"]
    prompt = encode(tokenizer, "2 + 2 =", special_tokens=True)
    assert list(masked.ids[: len(prompt)]) == prompt
    assert masked.ends_trained


def test_an_end_that_is_there_is_not_written_twice():
    tokenizer = with_opening()
    assert tokenizer.decode(masked_completion(tokenizer, "a", "b</s>").ids) == "<s>ab</s>"
    assert tokenizer.decode(masked_text(tokenizer, "ab</s>").ids) == "<s>ab</s>"


def test_a_plain_text_is_trained_on_as_a_whole():
    tokenizer = with_opening()
    masked = masked_text(tokenizer, "ab")
    assert tokenizer.decode(masked.ids) == "<s>ab</s>"
    assert all(masked.trained)
    assert masked.how == "everything"


def test_a_prompt_that_ends_inside_of_a_token_is_refused():
    tokenizer = byte_level(None, ["<s>", "</s>"], merges=((":", "H"),))
    with pytest.raises(Unsupported, match="ends inside of a token: “A:” and “Hey” run together"):
        masked_completion(tokenizer, "A:", "Hey")


def test_nothing_to_learn_is_said():
    with pytest.raises(InputError, match="completion is empty"):
        masked_completion(with_opening(), "a", "")
    with pytest.raises(InputError, match="text is empty"):
        masked_text(with_opening(), "")


def test_without_an_end_token_none_is_claimed():
    tokenizer = with_opening()
    tokenizer.eos_token = None
    assert masked_text(tokenizer, "a").ends_trained is False
