"""A recipe as the parts of the tokenizers library, and what it learned as a tokenizer of transformers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from studio.tokenizer.recipe import BYTES, Kind, Normalizer, Recipe, Split, Template

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

# GPT-2's expression. Signs that belong to a letter (\p{M}) stay with it: without them Hindi and Thai words fall apart.
_WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?[\p{L}\p{M}]+|{digits}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
_EXPRESSIONS = {
    Split.DIGITS_APART: _WORDS.replace("{digits}", r"\p{N}"),
    Split.DIGITS_GROUPED: _WORDS.replace("{digits}", r" ?\p{N}+"),
    Split.WHITESPACE: r" ?\S+|\s+(?!\S)|\s+",
}
_SMALL_TEMPLATE = """\
{%- if bos_token %}
{{- bos_token }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] not in ['system', 'user', 'assistant'] %}
{{- raise_exception("The role must be system, user or assistant, not '" ~ message['role'] ~ "'.") }}
{%- endif %}
{{- '<|' + message['role'] + '|>\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] + eos_token }}
{%- endgeneration %}
{{- '\\n' }}
{%- else %}
{{- message['content'] + eos_token + '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}
"""


def untrained(recipe: Recipe) -> Tokenizer:
    """A tokenizer with every stage but its vocabulary. No space is put in front, so that each text comes back."""
    from tokenizers import Tokenizer, decoders, models

    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    model, decoder = {
        Kind.BYTE_LEVEL: (models.BPE(), decoders.ByteLevel()),
        Kind.BYTE_FALLBACK: (models.BPE(byte_fallback=True), decoders.Sequence(spaces)),
        Kind.WORDPIECE: (models.WordPiece(unk_token=recipe.unknown_token), decoders.WordPiece()),
        Kind.UNIGRAM: (models.Unigram(), decoders.Sequence([spaces[0], spaces[2]])),
    }[Kind(recipe.kind)]
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoder
    tokenizer.normalizer = _normalizer(recipe)
    tokenizer.pre_tokenizer = _pre_tokenizer(recipe)
    return tokenizer


def _normalizer(recipe: Recipe) -> Any:
    from tokenizers import normalizers

    choices: dict[Normalizer, Any] = {
        Normalizer.NONE: lambda: None,
        Normalizer.NFC: normalizers.NFC,
        Normalizer.NFKC: normalizers.NFKC,
        Normalizer.LOWERCASE: normalizers.Lowercase,
        Normalizer.BERT: normalizers.BertNormalizer,
    }
    return choices[Normalizer(recipe.normalizer)]()


def _pre_tokenizer(recipe: Recipe) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if recipe.kind == Kind.WORDPIECE:
        return pre_tokenizers.BertPreTokenizer()
    if recipe.cuts == Split.METASPACE:
        return pre_tokenizers.Metaspace(prepend_scheme="never")
    cut = pre_tokenizers.Split(Regex(_EXPRESSIONS[recipe.cuts]), "isolated")
    if recipe.kind == Kind.BYTE_LEVEL:
        return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return pre_tokenizers.Sequence([cut, pre_tokenizers.Metaspace(prepend_scheme="never", split=False)])


def trainer(recipe: Recipe) -> Any:
    """What finds the vocabulary."""
    from tokenizers import pre_tokenizers, trainers

    common: dict[str, Any] = {"special_tokens": list(recipe.special_tokens), "show_progress": False}
    frequency = recipe.minimum_frequency or 2
    if recipe.kind == Kind.UNIGRAM:
        longest: dict[str, Any] = {} if recipe.longest_token is None else {"max_piece_length": recipe.longest_token}
        return trainers.UnigramTrainer(
            vocab_size=recipe.vocabulary_size, unk_token=recipe.unknown_token, **longest, **common
        )
    if recipe.kind == Kind.WORDPIECE:
        return trainers.WordPieceTrainer(vocab_size=recipe.vocabulary_size, min_frequency=frequency, **common)
    return trainers.BpeTrainer(
        # The bytes of a byte fallback are put in afterwards: as special tokens, <0x41> in a text would become an A.
        vocab_size=recipe.vocabulary_size - (BYTES if recipe.kind == Kind.BYTE_FALLBACK else 0),
        min_frequency=frequency,
        # One more than is meant: tokenizers 0.23 keeps what is shorter than this, not what is as long.
        max_token_length=None if recipe.longest_token is None else recipe.longest_token + 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if recipe.kind == Kind.BYTE_LEVEL else [],
        **common,
    )


def finished(trained: Tokenizer, recipe: Recipe) -> PreTrainedTokenizerFast:
    """What was learned, as transformers knows it."""
    from tokenizers import processors

    if recipe.kind == Kind.BYTE_FALLBACK:
        trained = _with_bytes(trained, len(recipe.special_tokens))
    if begin := recipe.begin_token:
        trained.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, trained.token_to_id(begin))]
        )
    return wrapped(trained, recipe)


def wrapped(backend: Tokenizer, recipe: Recipe) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers with the names of the special tokens and the chat template of a recipe."""
    from transformers import PreTrainedTokenizerFast

    named = {
        "eos_token": recipe.end_token,
        "pad_token": recipe.pad_token,
        "bos_token": recipe.begin_token,
        "unk_token": "" if recipe.holds_bytes else recipe.unknown_token,
    }
    templates = {Template.NONE: None, Template.SMALL: _SMALL_TEMPLATE, Template.OWN: recipe.own_template}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=recipe.more_tokens.split(),
        chat_template=templates[Template(recipe.template)],
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in named.items() if token},
    )


def _with_bytes(trained: Tokenizer, special: int) -> Tokenizer:
    """The same tokenizer with a token for each byte behind the `special` first ones, as Llama 2 has them."""
    from tokenizers import Tokenizer

    parts = json.loads(trained.to_str())
    model = parts["model"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(BYTES)]
    taken = set(byte_tokens)  # and what was learned from a text that writes about such tokens
    merges = []
    for left, right in model["merges"]:
        if left in taken or right in taken or left + right in taken:
            taken.add(left + right)
        else:
            merges.append((left, right))
    tokens = sorted(model["vocab"].keys() - taken, key=model["vocab"].get)
    tokens[special:special] = byte_tokens
    model["vocab"] = {token: number for number, token in enumerate(tokens)}
    model["merges"] = merges
    return Tokenizer.from_str(json.dumps(parts))
