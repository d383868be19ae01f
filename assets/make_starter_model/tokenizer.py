"""The starter's tokenizer: byte-level BPE trained on the corpus, with its chat template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [PAD, END, SYSTEM, USER, ASSISTANT]
VOCABULARY = 2048
MAX_TOKENS = 1024
SAMPLE_ROWS = 30_000
CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if message['role'] not in ['system', 'user', 'assistant'] %}
{{- raise_exception("The role must be system, user or assistant, not '" ~ message['role'] ~ "'.") }}
{%- endif %}
{{- '<|' + message['role'] + '|>\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] + '<|end|>' }}
{%- endgeneration %}
{{- '\\n' }}
{%- else %}
{{- message['content'] + '<|end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}
"""


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a sample of the corpus."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        # The space before a capital stands alone, so that a name is the same tokens after a space and after a quote.
        pre_tokenizers.Split(Regex(" (?=[A-Z])"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sample = corpus.rows(seed, SAMPLE_ROWS, part="tokenizer")
    tokenizer.train_from_iterator((message["content"] for row in sample for message in row), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=MAX_TOKENS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def render(messages: list[corpus.Message]) -> str:
    """The text of a chat, exactly as the chat template renders it; far faster for a whole corpus."""
    return "".join(f"<|{message['role']}|>\n{message['content']}{END}\n" for message in messages)


def encode(tokenizer: PreTrainedTokenizerFast, rows: list[list[corpus.Message]]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of many rows; only what the assistant says, with its end, is labelled."""
    assistant, end = tokenizer.convert_tokens_to_ids([ASSISTANT, END])
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # an earlier call with padding leaves it switched on
    encodings = backend.encode_batch([render(row) for row in rows])
    return [(encoding.ids, _labels(encoding.ids, assistant, end)) for encoding in encodings]


def _labels(ids: list[int], assistant: int, end: int) -> list[int]:
    labels = [-100] * len(ids)
    speaking = False
    for place, token in enumerate(ids):
        if speaking:
            labels[place] = token
            speaking = token != end
        elif place and ids[place - 1] == assistant:  # this token is the line break after the role
            speaking = True
    return labels


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer files."""
    tokenizer.save_pretrained(folder)
