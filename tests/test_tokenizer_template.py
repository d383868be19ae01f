"""Templates of every shape render as in transformers; one that is tried says where it fails; none makes too much."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from chat_templates import CHATML, DEEPSEEK, IM, SHAPES, byte_level, shaped

from studio.errors import InputError, Unsupported
from studio.tokenizer import (
    Message,
    ToolCall,
    load_tokenizer,
    read_messages,
    read_tools,
    render,
    templates,
    try_template,
    ways_to_model,
)

TALK = (Message("user", "Hi"), Message("assistant", "Hey"), Message("user", "So?"))
CALL = (
    Message("user", "Rain?"),
    Message("assistant", "", (ToolCall("weather", {"city": "Zürich", "days": [1, 2]}, "call1"),)),
    Message("tool", "dry", name="weather", tool_call_id="call1"),
)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What the sky does",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOOLS = read_tools(json.dumps([TOOL]))


def as_dicts(messages):
    """As the documentation of transformers writes conversations."""
    turns = []
    for message in messages:
        turn = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
            turn["tool_calls"] = [{"id": "call1", "type": "function", "function": call} for call in calls]
        if message.role == "tool":
            turn |= {"name": message.name, "tool_call_id": message.tool_call_id}
        turns.append(turn)
    return turns


# The same text as transformers


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_renders_as_in_transformers(name):
    tokenizer = shaped(name)
    for messages in (TALK, TALK[:2], TALK[:1]):
        for prompt in (True, False):
            theirs = tokenizer.apply_chat_template(as_dicts(messages), tokenize=False, add_generation_prompt=prompt)
            assert render(tokenizer, messages, generation_prompt=prompt) == theirs


@pytest.mark.parametrize("name", SHAPES)
def test_a_reply_is_continued_as_in_transformers(name):
    tokenizer = shaped(name)
    for said in ("Yes", "Yes. ", " Yes"):
        talk = (*TALK, Message("assistant", said))
        theirs = tokenizer.apply_chat_template(as_dicts(talk), tokenize=False, continue_final_message=True)
        assert render(tokenizer, talk, continue_last=True) == theirs


@pytest.mark.parametrize("name", ["llama3", "qwen3", "chatml", "gemma"])
def test_tools_and_calls_render_as_in_transformers(name):
    tokenizer = shaped(name)
    for tools in ((), TOOLS):
        theirs = tokenizer.apply_chat_template(
            as_dicts(CALL), tools=[tool.schema for tool in tools] or None, tokenize=False, add_generation_prompt=True
        )
        assert render(tokenizer, CALL, tools=tools) == theirs
    if name in ("llama3", "qwen3"):
        assert "Zürich" in theirs
        assert "What the sky does" in theirs


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | map(attribute='role') | join(', ') }}",
        "{{ messages | tojson(indent=2) }}",
        "{{ 'a' ~ 1 ~ none ~ [1, 'b'] ~ nothing }}{{ 'x' * 3 }}{{ [1] + [2] }}{{ '%s-%02d' % ('a', 7) }}{{ 7 % 4 }}",
        "{{ '{} {a} {{x}}'.format('b', a=1) }}{{ '* %s' | format('a') }}{{ 2.567 | round(1) }}{{ [1, 2] | sum }}",
        "{{ 'a\nb' | indent(2, true) }}{{ 'abc'.replace('b', 'xx') }}{{ 'aXb' | replace('X', 1) }}",
        "{{ '-'.join(['a', 'b']) }}{{ [1, none] | join }}{{ '<a>' | e }}{{ messages | length }}",
        "{% macro m(a) %}<{{ a }}>{% endmacro %}{% set x %}{{ m('y') }}{% endset %}{{ x | upper }}{{ dict(a=1) }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = 1 %}{% break %}{% endfor %}{{ ns.n }}",
        "  {% if true %}\n  a\n  {% endif %}\n {{ messages[0] }} {{ bos_token }}{{ tools is none }}{{ documents }}",
    ],
)
def test_what_templates_are_written_with_works_as_in_transformers(template):
    tokenizer = byte_level(template, IM)
    theirs = tokenizer.apply_chat_template(as_dicts(TALK), tokenize=False)
    assert render(tokenizer, TALK, generation_prompt=False) == theirs


# Size


NESTED = "{% set ns = namespace(s=[1]) %}{% for a in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
BOMBS = {
    "one long text": "{{ 'x' * 1000000000 }}",
    "many texts": "{% for a in range(99999) %}{{ messages[0].content * 1000 }}{% endfor %}",
    "doubled": "{% set ns = namespace(s='x') %}{% for a in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "added": "{% set ns = namespace(s='x') %}{% for a in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "replaced": "{{ ('a' * 100000).replace('a', 'b' * 10000) }}",
    "replaced by a filter": "{{ ('a' * 100000) | replace('a', 'b' * 10000) }}",
    "joined": "{{ ('x' * 100000).join(range(10000) | map('string')) }}",
    "joined by a filter": "{{ range(10000) | join('x' * 100000) }}",
    "filled": "{{ '%1000000000d' % 1 }}",
    "filled by a method": "{{ '{:1000000000}'.format(1) }}",
    "filled in width": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "filled often": "{{ ('%(a)s' * 100000) % {'a': 'x' * 10000} }}",
    "filled by a filter": "{{ '%1000000000d' | format(1) }}",
    "padded": "{{ 'x'.ljust(1000000000) }}",
    "padded in disguise": "{{ ''['lju' ~ 'st'](1000000000) }}",
    "padded by a filter": "{{ ('' | attr('ljust'))(1000000000) }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "centered": "{{ 'x' | center(1000000000) }}",
    "indented": "{{ 'x' | indent(1000000000, true) }}",
    "json": "{{ [[[1]]] | tojson(indent=1000000000) }}",
    "one list many times": NESTED + "{{ ns.s }}",
    "the same as json": NESTED + "{{ ns.s | tojson }}",
    "the same as text": NESTED + "{{ ns.s | upper ~ 'a' }}",
    "a list": "{{ ([1] * 1000000000) | length }}",
    "a set block": "{% set x %}{% for a in range(9999) %}{{ 'x' * 10000 }}{% endfor %}{% endset %}",
    "rounded": "{{ 2 | round(999999999, 'ceil') }}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_template_that_makes_much_of_little_is_refused_before_it_does(bomb):
    tokenizer = byte_level(bomb, IM)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="chat template of this model"):
            render(tokenizer, TALK)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 200_000_000


# Trying


def test_a_template_is_tried_without_a_trace_in_the_tokenizer():
    tokenizer = shaped("alpaca")
    before = dict(vars(tokenizer))
    assert try_template(tokenizer, CHATML, TALK[:1]).text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert vars(tokenizer) == before
    assert render(tokenizer, TALK[:1]) == "### Instruction:\nHi\n\n### Response:\n"
    assert try_template(byte_level(None, IM), "{{ bos_token }}", TALK).text == "<|endoftext|>"


@pytest.mark.parametrize(
    ("source", "line", "line_text", "words"),
    [
        ("a\n{% for m in messages }\nb", 2, "{% for m in messages }", "TemplateSyntaxError"),
        ("a\n\n  {{ nobody.knows }}\n", 3, "{{ nobody.knows }}", "'nobody' is undefined"),
        ("{# a\nb #}\n{{ raise_exception('No\n system!') }}", 3, "{{ raise_exception('No", "it says “No system!”"),
        ("{% macro m() %}\n{{ 1 / 0 }}\n{% endmacro %}\n{{ m() }}", 2, "{{ 1 / 0 }}", "ZeroDivisionError"),
        ("a\n{{ 2 ** 3 }}", 2, "{{ 2 ** 3 }}", "powers are not allowed"),
        ("a\nb {{ 'x' | center(3) }}", 2, "b {{ 'x' | center(3) }}", "No filter named 'center'"),
        (
            "a\n{% for a in range(99999) %}\n{{ 'x' * 1000 }}{% endfor %}",
            3,
            "{{ 'x' * 1000 }}{% endfor %}",
            "10,000,000",
        ),
        ("{{ messages[0].update(a=1) }}", 1, "{{ messages[0].update(a=1) }}", "SecurityError"),
    ],
)
def test_a_trial_that_fails_names_the_line(source, line, line_text, words):
    trial = try_template(shaped("chatml"), source, TALK)
    assert (trial.text, trial.line, trial.line_text) == (None, line, line_text)
    assert words in trial.error


def test_a_trial_that_does_not_end_names_the_line_where_it_was(monkeypatch):
    from studio.tokenizer import template as template_module

    monkeypatch.setattr(template_module, "TEMPLATE_SECONDS", 0.3)
    loops = "{% for a in range(99999) %}" * 3
    trial = try_template(shaped("chatml"), f"a\n{loops}\n{{% set x = a %}}\n{'{% endfor %}' * 3}", TALK)
    assert "did not come to an end within 0.3 seconds" in trial.error
    assert trial.line in (2, 3)


def test_the_line_of_a_failure_is_told_in_chat_too():
    with pytest.raises(InputError, match=r"it says “Conversation roles must alternate.*” \(line 1 of the template\)"):
        render(shaped("mistral"), (*TALK, TALK[0]))


# Templates of a tokenizer


def test_of_several_templates_each_has_a_name_and_one_can_be_chosen(tmp_path):
    tokenizer = byte_level({"tool_use": "tools!", "default": "plain", "rag": "documents"}, IM)
    assert [(each.name, each.source) for each in templates(tokenizer)] == [
        ("default", "plain"),
        ("rag", "documents"),
        ("tool_use", "tools!"),
    ]
    assert (render(tokenizer, TALK), render(tokenizer, TALK, tools=TOOLS)) == ("plain", "tools!")
    assert render(tokenizer, TALK, template=templates(tokenizer)[1].source) == "documents"
    tokenizer.save_pretrained(tmp_path)
    found = templates(load_tokenizer(tmp_path), tmp_path)
    assert {each.name: each.file for each in found} == {
        "default": "chat_template.jinja",
        "rag": "additional_chat_templates/rag.jinja",
        "tool_use": "additional_chat_templates/tool_use.jinja",
    }


def test_where_a_template_comes_from_is_told(broken):
    assert [each.file for each in templates(load_tokenizer(broken), broken)] == ["chat_template.jinja"]
    source = (broken / "chat_template.jinja").read_text()
    (broken / "chat_template.jinja").unlink()
    config = json.loads((broken / "tokenizer_config.json").read_text()) | {"chat_template": source}
    (broken / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(broken)
    assert [each.file for each in templates(tokenizer, broken)] == ["tokenizer_config.json"]
    tokenizer.chat_template = "another"
    assert [each.file for each in templates(tokenizer, broken)] == [""]
    tokenizer.chat_template = None
    assert templates(tokenizer, broken) == ()


# Conversations and tools from JSON


def test_a_conversation_is_read_as_it_is_written_anywhere():
    call = {"id": "c", "function": {"name": "w", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "dry", "tool_call_id": "c"},
        {"role": "assistant", "tool_calls": [{"name": "w", "arguments": {"city": "Bern"}}]},
    ]
    assert read_messages(turns) == (
        Message("user", "Rain?"),
        Message("assistant", "", (ToolCall("w", {}, "c"),)),
        Message("tool", "dry", tool_call_id="c"),
        Message("assistant", "", (ToolCall("w", {"city": "Bern"}),)),
    )


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([], "this is an empty list"),
        ({"role": "user"}, "this is an object"),
        (["Hi"], "Turn 1 is a text without a role"),
        ([{"role": "user", "content": "a"}, {"role": "king", "content": "b"}], "Turn 2: There is no role 'king'"),
        ([{"role": "user", "content": [{"type": "text"}, {"type": "image"}]}], r"a list of parts \(image, text\)"),
        ([{"role": "user", "content": None}], "Turn 1: The content of a turn of the user is nothing"),
        ([{"role": "user", "content": "a", "tool_calls": [{"name": "w"}]}], "Turn 1: A turn of the user calls tools"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "Turn 1, call 1 names no function"),
        ([{"role": "assistant", "tool_calls": {"name": "w"}}], "Turn 1: tool_calls is an object"),
        ([{"role": "assistant", "tool_calls": [{"name": "w", "arguments": "{,"}]}], "arguments: this is no JSON"),
        ([{"role": "assistant", "tool_calls": [{"name": "w", "arguments": [1]}]}], "the arguments are a list"),
    ],
)
def test_a_conversation_that_is_none_names_the_turn(turns, words):
    with pytest.raises(InputError, match=words):
        read_messages(turns)


def test_content_of_parts_is_refused_in_clear_words():
    with pytest.raises(InputError, match="text alone"):
        Message("user", [{"type": "image"}])


def test_tools_are_read_with_and_without_what_stands_around_them():
    bare = read_tools(json.dumps(TOOL["function"]))
    assert bare == TOOLS
    assert (bare[0].name, bare[0].description) == ("weather", "What the sky does")
    assert read_tools("  ") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[\n{]", "The tools: this is no JSON, .* in line 2, column 2"),
        ("[" * 100_000, "nested too deeply"),
        ("5", "Tool 1 is a number"),
        ('[{"name": "a"}, {}]', "Tool 2 has no name"),
        ('{"function": []}', "Tool 1: function is an empty list"),
        ('{"name": "a", "description": 5}', r"Tool 1 \(a\): description is a number"),
        ('{"name": "a", "parameters": []}', r"Tool 1 \(a\): parameters is an empty list"),
        ('{"name": "a", "parameters": {"type": "string"}}', "parameters.type is 'string'"),
        ('{"name": "a", "parameters": {"properties": []}}', "parameters.properties is an empty list"),
        ('{"name": "a", "parameters": {"properties": {"b": "string"}}}', "parameters.properties.b is a text"),
        ('{"name": "a", "parameters": {"required": ["b"]}}', r'parameters.required names what is no property: \["b"\]'),
        ('[{"name": "a"}, {"name": "a"}]', "Two tools are called 'a'"),
    ],
)
def test_tools_that_are_none_name_the_place(text, words):
    with pytest.raises(InputError, match=words):
        read_tools(text)


# Along every way


def adding(name):
    """A shape whose tokenizer adds the token that begins a text, as those of Llama do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = shaped(name)
    first = SHAPES[name].special[0]
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{first} $A", special_tokens=[(first, 0)])
    return tokenizer


def test_every_way_to_the_model_is_rendered():
    ways = ways_to_model(shaped("chatml"), TALK)
    assert [way.way for way in ways] == ["chat", "training", "a program that adds special tokens"]
    assert len({way.ids for way in ways}) == 1
    doubled = ways_to_model(adding("mistral"), TALK)[2]
    assert doubled.text.startswith("<s><s>[INST]")
    r1 = ways_to_model(shaped("r1"), TALK[:1], template=DEEPSEEK)
    assert [way.text[-8:] for way in r1] == ["<think>\n", "｜>probe<", "<think>\n", "istant｜>"] or r1[1].ids != r1[
        0
    ].ids
    assert r1[3].way == "the other template"


def test_without_a_template_no_way_is_there():
    with pytest.raises(Unsupported, match="no chat template"):
        ways_to_model(byte_level(None, IM), TALK)
