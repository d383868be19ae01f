"""Advice on how conversations are read and trained on, from real tokenizers in the shapes of real models."""

from __future__ import annotations

import pytest
from chat_templates import DEEPSEEK, SHAPES, shaped

from studio import advice
from studio.tokenizer import Message, end_of_turn, mask_conversation, ways_to_model

TALK = (Message("user", "Hi"), Message("assistant", "Hey"), Message("user", "So?"), Message("assistant", "Yes."))


def told(tokenizer, *, eos=None, template=None):
    masked = mask_conversation(tokenizer, TALK, trained="last")
    ways = ways_to_model(tokenizer, TALK[:1], template=template)
    return advice.on_conversation(masked, end_of_turn(tokenizer, eos), ways)


@pytest.mark.parametrize("name", ["chatml", "generation", "llama3", "mistral", "llama2", "gemma", "qwen3", "deepseek"])
def test_a_template_that_is_sound_gets_no_advice(name):
    assert told(shaped(name)) == []


def test_an_end_that_the_template_keeps_out_of_training_is_named():
    (found,) = told(shaped("generation-without-end"))
    assert (found.id, found.severity) == ("eos-not-trained", "warning")
    assert found.why.startswith("The end of a turn, <|im_end|> (2), is not among what is trained")


def test_a_template_without_an_end_is_told():
    (found,) = told(shaped("alpaca"))
    assert found.why.startswith("No token that ends a turn is among what is trained")


def test_an_end_at_which_generation_does_not_stop_is_told():
    (found,) = told(shaped("phi3"))
    assert found.id == "eos-not-trained"
    assert "would not stop: a reply ends with <|end|> (4)" in found.why
    assert told(shaped("phi3"), eos=[4, 5]) == []


def test_a_beginning_that_is_added_twice_shows_both_texts():
    from tokenizers.processors import TemplateProcessing

    tokenizer = shaped("mistral")
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    (found,) = told(tokenizer)
    assert found.id == "template-mismatch"
    assert found.why == (
        "The model reads “<s>[INST] Hi [/INST]” in chat and “<s><s>[INST] Hi [/INST]” in a program that adds special"
        " tokens."
    )


def test_another_template_shows_where_it_parts():
    (found,) = told(shaped("deepseek"), template=DEEPSEEK.replace(" if think", ""))
    assert found.why.endswith("<｜Assistant｜><think>\n” in the other template.")


def test_a_prompt_that_training_does_not_have_is_shown():
    tokenizer = shaped("r1")
    masked = mask_conversation(tokenizer, TALK, trained="all")
    found = advice.on_conversation(masked, end_of_turn(tokenizer, None), ways_to_model(tokenizer, TALK[:1]))
    assert [rule.id for rule in found] == ["template-mismatch"]
    assert "<think>\n” in chat" in found[0].why
    assert "in training" in found[0].why


def test_every_piece_of_advice_names_its_source():
    for name in SHAPES:
        if name != "r1":
            assert all(rule.why and rule.source for rule in told(shaped(name)))
