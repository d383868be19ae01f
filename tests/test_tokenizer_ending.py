"""Where a reply ends, whether that is trained on, and whether a model that ends there would be stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chat_templates import CALL, CHATML, IM, SHAPES, TALK, TOOLS, byte_level, shaped, taught

from studio.errors import Unsupported
from studio.tokenizer import end_of_turn, mask_conversation

PROVEN = [name for name, shape in SHAPES.items() if isinstance(shape.taught, list)]


@pytest.mark.parametrize("name", PROVEN)
def test_whether_the_end_is_trained_is_told(name):
    expected = name not in ("alpaca", "generation-without-end")
    assert mask_conversation(shaped(name), TALK).ends_trained is expected


@pytest.mark.parametrize(("name", "expected"), [("chatml", True), ("phi3", True), ("alpaca", False), ("qwen3", None)])
def test_whether_the_end_is_trained_is_told_where_all_is(name, expected):
    masked = mask_conversation(shaped(name), TALK, trained="all")
    assert masked.ends_trained is expected
    assert bool(masked.note) is (expected is None)


def test_a_reply_that_reads_like_its_end_is_no_end():
    tokenizer = shaped("chatml")
    for said in ("im", "end", ">", "<|im_end|>"):
        masked = mask_conversation(tokenizer, (TALK[0], replace(TALK[1], content=said)))
        assert taught(tokenizer, masked) == [f"{said}<|im_end|>"]


def test_special_tokens_inside_of_a_reply_are_not_taken_for_its_end():
    special = [*IM[:2], "<think>", "</think>", "<tool_call>", "</tool_call>", IM[2]]
    tokenizer = byte_level(SHAPES["qwen3"].template, special)
    masked = mask_conversation(tokenizer, CALL[:2], tools=TOOLS)
    assert taught(tokenizer, masked)[0].endswith("}\n</tool_call><|im_end|>")
    empty = mask_conversation(tokenizer, (TALK[0], replace(TALK[1], content="")))
    assert taught(tokenizer, empty) == ["<think>\n\n</think>\n\n<|im_end|>"]
    call = (replace(TALK[1], content="<tool_call>{}</tool_call>"),)
    assert mask_conversation(tokenizer, call, template=SHAPES["generation-without-end"].template).ends_trained is False


def test_a_reply_that_ends_with_another_token_than_others_has_an_end():
    template = CHATML.replace("'<|im_end|>'", "('<|eom|>' if m.tool_calls else '<|im_end|>')")
    tokenizer = byte_level(template, [*IM[:2], "<|eom|>", IM[2]])
    masked = mask_conversation(tokenizer, CALL)
    assert taught(tokenizer, masked) == ["<|eom|>", "No.<|im_end|>"]
    assert masked.ends_trained


def test_a_reply_in_several_blocks_ends_with_the_last_of_them():
    template = (
        "{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}|{% generation %}{{ '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    tokenizer = byte_level(template, IM)
    masked = mask_conversation(tokenizer, TALK)
    assert taught(tokenizer, masked) == ["Hey", "<|im_end|>", "Yes.", "<|im_end|>"]
    assert masked.ends_trained


ENDS = {
    "chatml": ("<|im_end|>", True),
    "llama3": ("<|eot_id|>", True),
    "mistral": ("</s>", True),
    "gemma": ("<end_of_turn>", True),
    "qwen3": ("<|im_end|>", True),
    "phi3": ("<|end|>", False),
    "deepseek": ("<｜end▁of▁sentence｜>", True),
    "alpaca": (None, False),
}


@pytest.mark.parametrize(("name", "token", "is_eos"), [(name, *end) for name, end in ENDS.items()])
def test_the_token_that_ends_a_turn_is_found_by_rendering(name, token, is_eos):
    found = end_of_turn(shaped(name), None)
    assert (found.token, found.is_eos, found.stops) == (token, is_eos, is_eos)
    assert bool(found.consequence) is not is_eos


def test_a_model_stops_where_its_generation_config_says():
    tokenizer = shaped("phi3")
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end_of_turn(tokenizer, [tokenizer.eos_token_id, end]).consequence == ""
    assert end_of_turn(tokenizer, end).stops
    told = end_of_turn(tokenizer, tokenizer.eos_token_id)
    assert told.special
    assert told.consequence == (
        f"The model would not stop: a reply ends with <|end|> ({end}), and generation ends at <|endoftext|> (5)."
    )
    assert "plain text, '\\n\\n'" in end_of_turn(shaped("alpaca"), None).consequence
    with pytest.raises(Unsupported, match="writes a reply 2 times"):
        end_of_turn(byte_level(CHATML + CHATML, IM), None)
