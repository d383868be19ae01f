"""Chat templates in the shapes that real models have, each with its special tokens, on a tokenizer of single bytes."""

from __future__ import annotations

from typing import Any, NamedTuple

from studio.tokenizer import Masked, Message, ToolCall, read_tools


class Shape(NamedTuple):
    """A template, its special tokens (the first begins a text, the last ends one), and what it makes of TALK."""

    template: str
    special: list[str]
    taught: list[str] | str
    """What is trained on in TALK, reply by reply; or words of the reason why that cannot be proven."""
    last: list[str] | str | None = None
    """The same for the last reply alone, where it is no part of the above."""


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GENERATION = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\n' }}
    {%- if m.role == 'assistant' %}
        {%- generation %}
        {{- m.content }}{% if true %}{{ '<|im_end|>' }}{% endif %}
        {%- endgeneration %}
    {%- else %}
        {{- m.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
GENERATION_WITHOUT_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GENERATION_IN_A_MACRO = (
    "{% macro said(m) %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% endmacro %}"
    "{% for m in messages %}{% set text = said(m) if m.role == 'assistant' else m.content + '<|im_end|>' %}"
    "{{ '<|im_start|>' + m.role + '\n' }}{{ text + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim }}
        {{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}{{- message.content }}{{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token}}{% endif %}{% endfor %}"
)
MISTRAL_TOOLS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.last or tools and loop.nextitem and loop.index0 == messages|length - 2 %}"
    "{{ '[AVAILABLE_TOOLS]' + tools|tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% if not messages %}{{ raise_exception('A conversation needs a user.') }}{% endif %}"
    "{% for m in messages %}{% set content = system + m.content if loop.first else m.content %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
QWEN3 = """\
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- "# Tools\n\n<tools>" }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning_content.strip('\n') }}
            {{- '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
            {{- '<tool_call>\n{"name": "' + tool_call.function.name + '", "arguments": ' }}
            {{- tool_call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\n<tool_response>\n' + content + '\n</tool_response><|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '<｜User｜>' + m.content }}{% else %}{% set said = m.content %}"
    "{% if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + said + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{{ '<think>\n' if think }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
ALPACA = (
    "{% for m in messages %}{{ '### ' + ('Response' if m.role == 'assistant' else 'Instruction') + ':\n' }}"
    "{{ m.content + '\n\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
R1 = DEEPSEEK.replace(" if think", "")

IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
L3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
DS = ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"]
GM = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
P3 = ["<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"]
IM_TAUGHT = ["Hey<|im_end|>", "Yes.<|im_end|>"]
SHAPES = {
    "chatml": Shape(CHATML, IM, IM_TAUGHT),
    "generation": Shape(GENERATION, IM, IM_TAUGHT),
    "generation-without-end": Shape(GENERATION_WITHOUT_END, IM, ["Hey", "Yes."]),
    "generation-in-a-macro": Shape(GENERATION_IN_A_MACRO, IM, IM_TAUGHT),
    "llama3": Shape(LLAMA3, L3, ["Hey<|eot_id|>", "Yes.<|eot_id|>"]),
    "mistral": Shape(MISTRAL, ["<s>", "[INST]", "[/INST]", "</s>"], [" Hey</s>", " Yes.</s>"]),
    "llama2": Shape(LLAMA2, ["<s>", "</s>"], [" Hey </s>", " Yes. </s>"]),
    "gemma": Shape(GEMMA, GM, ["Hey<end_of_turn>", "Yes.<end_of_turn>"]),
    "qwen3": Shape(QWEN3, IM, "turn 2 reads", ["<think>\n\n</think>\n\nYes.<|im_end|>"]),
    "phi3": Shape(PHI3, P3, ["Hey<|end|>", "Yes.<|end|>"]),
    "deepseek": Shape(DEEPSEEK, DS, ["Hey<｜end▁of▁sentence｜>", "Yes.<｜end▁of▁sentence｜>"]),
    "r1": Shape(R1, DS, "the prompt of turn 2 reads", "the prompt of turn 4 reads"),
    "zephyr": Shape(ZEPHYR, ["<s>", "</s>"], ["\nHey</s>", "\nYes.</s>"]),
    "alpaca": Shape(ALPACA, ["<s>", "</s>"], ["Hey\n\n", "Yes.\n\n"]),
}


def byte_level(template: str | None, special: list[str], *, merges: tuple[tuple[str, str], ...] = ()) -> Any:
    """A byte-level tokenizer with these special tokens and merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*special, *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[0], eos_token=special[-1], additional_special_tokens=special[1:-1]
    )
    tokenizer.chat_template = template
    return tokenizer


def shaped(name: str) -> Any:
    """The tokenizer of a shape."""
    return byte_level(SHAPES[name].template, SHAPES[name].special)


TALK = (Message("user", "Hi"), Message("assistant", "Hey"), Message("user", "So?"), Message("assistant", "Yes."))
SYSTEM = (Message("system", "Be kind."), *TALK)
CALL = (
    Message("user", "Rain?"),
    Message("assistant", "", (ToolCall("weather", {"city": "Paris"}, "call1"),)),
    Message("tool", "dry", name="weather", tool_call_id="call1"),
    Message("assistant", "No."),
)
TOOLS = read_tools('{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}')


def taught(tokenizer: Any, masked: Masked) -> list[str]:
    """The trained tokens as text, run by run."""
    runs, before = [], False
    for token, trained in zip(masked.ids, masked.trained, strict=True):
        if trained:
            runs[-1:] = [[*runs[-1], token]] if before else [*runs[-1:], [token]]
        before = trained
    return [tokenizer.decode(run) for run in runs]
