"""Conversations into text by the model's own template, and templates that mean harm."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from pico import CHAT_TEMPLATE, byte_tokenizer

from studio.errors import Damaged, InputError, Unsupported
from studio.tokenizer import TEMPLATE_SECONDS, Message, encode, load_tokenizer, render
from studio.tokenizer import template as template_module

CHAT = (Message("system", "Be kind."), Message("user", "Hé 😀"), Message("assistant", "Yes. "), Message("user", "So?"))
REPLY = CHAT[:3]
LOOP = "{% for a in range(99999) %}" * 4 + "{% set x = a %}" + "{% endfor %}" * 4


def templated(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def as_dicts(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


# Rendering


@pytest.mark.parametrize("messages", [CHAT, CHAT[1:2], CHAT[:2], REPLY])
def test_a_conversation_is_rendered_as_transformers_renders_it(pico, messages):
    tokenizer = load_tokenizer(pico)
    theirs = tokenizer.apply_chat_template(as_dicts(messages), tokenize=False, add_generation_prompt=True)
    assert render(tokenizer, messages) == theirs
    ids = tokenizer.apply_chat_template(as_dicts(messages), add_generation_prompt=True)["input_ids"]
    assert encode(tokenizer, theirs, special_tokens=False) == ids


def test_a_rendered_conversation_ends_where_the_reply_begins():
    rendered = render(templated(CHAT_TEMPLATE), CHAT)
    assert rendered.endswith("<|user|>\nSo?<|end|>\n<|assistant|>\n")


def test_a_reply_that_is_continued_ends_inside_of_it():
    rendered = render(templated(CHAT_TEMPLATE), REPLY, continue_last=True)
    assert rendered.endswith("<|assistant|>\nYes. ")


def test_special_tokens_come_from_the_template_or_from_the_tokenizer_but_not_from_both():
    tokenizer = templated(CHAT_TEMPLATE)
    tokenizer._tokenizer.post_processor = None
    from tokenizers.processors import TemplateProcessing

    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<|system|> $A", special_tokens=[("<|system|>", 2)])
    assert encode(tokenizer, "a", special_tokens=True)[0] == 2
    assert encode(tokenizer, "a", special_tokens=False)[0] != 2


def test_the_words_of_a_person_stay_as_they_are():
    text = "{{ 7 * 7 }} {% for %} <b> & \\ \x00 €"
    assert text in render(templated(CHAT_TEMPLATE), (Message("user", text),))


# Templates that fail

HARMLESS = {
    "no template at all": None,
    "an empty template": "",
}
FAILING = {
    "raises": "{{ raise_exception('Only user and assistant, please.') }}",
    "undefined": "{{ nobody.knows }}",
    "broken syntax": "{% for %}",
    "unknown tag": "{% launch %}",
    "another file": "{% include 'secret' %}",
    "a parent": "{% extends 'secret' %}",
    "no such message": "{{ messages[99].content }}",
    "division": "{{ 1 / 0 }}",
    "wrong types": "{{ 1 + 'a' }}",
    "huge range": "{% for a in range(10000000000) %}{% endfor %}",
    "huge text": "{{ 'x' * 9000000000000000000 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "not a template": ["a list"],
    "several without a default": {"tools": CHAT_TEMPLATE},
    "drops the reply": "{% for message in messages %}{{ message.role }}{% endfor %}",
}


@pytest.mark.parametrize("template", FAILING.values(), ids=FAILING.keys())
def test_a_template_that_fails_says_what_it_said(template):
    with pytest.raises(InputError, match="chat template of this model refuses") as caught:
        render(templated(template), REPLY, continue_last=True)
    assert len(caught.value.message.splitlines()) == 1


def test_the_own_words_of_a_template_are_passed_on():
    with pytest.raises(InputError, match="Only user and assistant, please"):
        render(templated(FAILING["raises"]), CHAT)


@pytest.mark.parametrize("template", HARMLESS.values(), ids=HARMLESS.keys())
def test_without_a_template_there_is_no_conversation(template):
    with pytest.raises(Unsupported, match="no chat template"):
        render(templated(template), CHAT)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages | attr('__class__') | attr('__mro__') }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ '{0.__class__}'.format_map({'0': messages}) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ (messages[0]).clear() }}",
    ],
)
def test_a_template_cannot_get_out_of_its_sandbox(template):
    try:
        rendered = render(templated(template), CHAT)
    except InputError:
        return
    assert "class" not in rendered
    assert "builtins" not in rendered


# Templates that do not end


@pytest.mark.parametrize("raising", [ValueError, None])
def test_a_trace_function_that_was_there_is_there_afterwards(raising):
    def tracer(frame, event, argument):
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        if raising:
            with pytest.raises(InputError):
                render(templated("{{ nobody.knows }}"), CHAT)
        else:
            render(templated(CHAT_TEMPLATE), CHAT)
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is tracer


def test_a_template_that_loops_for_ever_is_stopped_and_the_thread_goes_on():
    found = []

    def work():
        start = time.monotonic()
        with pytest.raises(InputError, match="did not come to an end"):
            render(templated(LOOP), CHAT)
        found.append(time.monotonic() - start)
        found.append(sys.gettrace())
        found.append(render(templated(CHAT_TEMPLATE), CHAT[1:2]))

    # A thread of its own: a coverage tool may trace this one.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(TEMPLATE_SECONDS + 10)
    seconds, trace, rendered = found
    assert TEMPLATE_SECONDS <= seconds < TEMPLATE_SECONDS + 1
    assert trace is None
    assert rendered.startswith("<|user|>")


def test_other_threads_run_on_while_a_template_loops(monkeypatch):
    monkeypatch.setattr(template_module, "TEMPLATE_SECONDS", 0.3)
    caught = []

    def work():
        with pytest.raises(InputError) as error:
            render(templated(LOOP), CHAT)
        caught.append(error.value)

    thread = threading.Thread(target=work)
    thread.start()
    rendered = 0
    while thread.is_alive():
        render(templated(CHAT_TEMPLATE), CHAT)
        rendered += 1
    assert len(caught) == 1
    assert rendered > 3


@pytest.mark.parametrize("template", ["{{ 9 ** 9 ** 8 }}", "{% set x = messages | length ** 3 %}", "{{- 2**3 -}}"])
def test_a_template_that_computes_powers_is_refused_before_it_begins(template):
    start = time.monotonic()
    with pytest.raises(InputError, match="powers are not allowed"):
        render(templated(template), CHAT)
    assert time.monotonic() - start < 5


def test_two_stars_that_hand_over_keywords_are_no_power():
    template = "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(**{'a': '2 ** 3'}) }}"
    assert render(templated(template), CHAT) == "2 ** 3"


def test_a_long_template_and_a_long_chat_need_no_more_time_than_there_is():
    long = CHAT_TEMPLATE + "{% if false %}" + "{{ messages[0].content | trim | upper }}" * 100 + "{% endif %}"
    start = time.monotonic()
    render(templated(long), CHAT[1:3] * 100)
    assert time.monotonic() - start < TEMPLATE_SECONDS


# Loading


def test_a_tokenizer_comes_back_as_it_was_saved(pico):
    tokenizer = load_tokenizer(pico)
    assert tokenizer.get_vocab() == byte_tokenizer().get_vocab()
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_a_model_without_a_tokenizer_is_told_so(broken):
    (broken / "tokenizer.json").unlink()
    with pytest.raises(Unsupported, match="without a tokenizer"):
        load_tokenizer(broken)


def of_pico(pico: Path, **fields: object) -> str:
    return json.dumps(json.loads((pico / "tokenizer.json").read_text(encoding="utf-8")) | fields)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "<html>", "version https://git-lfs.github.com/spec/v1\noid"])
def test_a_tokenizer_that_is_no_json_is_damaged(broken, text):
    (broken / "tokenizer.json").write_text(text)
    with pytest.raises(Damaged, match="tokenizer cannot be read"):
        load_tokenizer(broken)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": "9.0"},
        {"model": {"type": "Newer"}},
        {"pre_tokenizer": {"type": "Newer"}},
        {"added_tokens": [{"id": 1}]},
    ],
    ids=str,
)
def test_a_tokenizer_of_another_version_of_the_library_is_said_to_be_unreadable(broken, fields):
    (broken / "tokenizer.json").write_text(of_pico(broken, **fields))
    with pytest.raises(Damaged, match="tokenizer cannot be read"):
        load_tokenizer(broken)


@pytest.mark.parametrize("text", ["{", "[]", '{"tokenizer_class": 5}'])
def test_a_broken_configuration_of_a_tokenizer_is_damaged(broken, text):
    (broken / "tokenizer_config.json").write_text(text)
    with pytest.raises(Damaged, match="tokenizer cannot be read"):
        load_tokenizer(broken)


def test_a_tokenizer_without_words_is_damaged(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Damaged, match="empty vocabulary"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_runs_no_code_from_its_folder(broken):
    (broken / "mine.py").write_text("raise SystemExit('code of the model ran')")
    config = json.loads((broken / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (broken / "tokenizer_config.json").write_text(json.dumps(config))
    try:
        load_tokenizer(broken)
    except Damaged:
        assert "mine" not in sys.modules


def test_a_tokenizer_without_a_rust_part_renders_and_encodes():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert render(tokenizer, CHAT[1:2]) == "Hé 😀"
    assert tokenizer.decode(encode(tokenizer, "Hé 😀", special_tokens=False)) == "Hé 😀"
