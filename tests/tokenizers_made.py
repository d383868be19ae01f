"""Small tokenizers of every kind, trained here on a few sentences, so that tests meet the real thing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

SENTENCES = (
    "The tokenizer reads the text and the model reads the tokens.",
    "A lower price is the lowest price; the newest and the widest are newer and wider.",
    "Größe, naïve café, résumé: accents are letters with marks upon them.",
    "Numbers such as 1, 12, 123 and 2026 are split or kept, and so is 3.14.",
    "def main(items):\n    for item in items:\n        print(item)\n",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Привет, мир! Быстрая лиса.",
    "Hello hello HELLO world worlds worldly, don't can't won't.",
)
LINES = [line for number in range(40) for line in (SENTENCES[number % len(SENTENCES)], SENTENCES[number // 5])]


@cache
def byte_level() -> Any:
    """A byte-level BPE with the regex of GPT-2, as in Llama 3 and Qwen; reads any text without loss."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|pad|>", "<|end|>"]
    backend.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=specials)
    )
    return _wrapped(backend, pad_token="<|pad|>", eos_token="<|end|>")


@cache
def sentencepiece_bpe() -> Any:
    """A BPE of the kind of Llama 2: ▁ for spaces, no split into words, a byte for what it does not know."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trained.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=400))
    vocabulary = {token: id for id, token in enumerate(["<unk>", "<s>", "</s>", *_byte_tokens()])}
    merges = []
    learned = _model_of(trained)
    for token in sorted(learned["vocab"], key=learned["vocab"].__getitem__):
        vocabulary.setdefault(token, len(vocabulary))
    merges = [tuple(merge) for merge in learned["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return _wrapped(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def unigram() -> Any:
    """A Unigram of the kind of XLM-R and T5: NFKC, ▁ for spaces, scores, and <unk> for what it does not know."""
    return _unigram(byte_fallback=False)


@cache
def unigram_bytes() -> Any:
    """The same with a byte for what it does not know."""
    return _unigram(byte_fallback=True)


def _unigram(*, byte_fallback: bool) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(LINES, trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>"))
    learned = [tuple(entry) for entry in _model_of(trained)["vocab"] if entry[0] != "<unk>"]
    worst = min(score for _, score in learned)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    if byte_fallback:
        pieces += [(token, worst) for token in _byte_tokens()]
    backend = Tokenizer(models.Unigram([*pieces, *learned], unk_id=2, byte_fallback=byte_fallback))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace()] if byte_fallback else [decoders.Metaspace()]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return _wrapped(backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@cache
def wordpiece() -> Any:
    """A WordPiece as in BERT: lower case, accents dropped, spaces dropped, [UNK] for a word it cannot spell."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _wrapped(
        backend, **names, mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )


@cache
def characters() -> Any:
    """A WordLevel of single characters, with <unk> and an added token that is no special one; nothing to pad with."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=["<unk>"]))
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    return _wrapped(backend, unk_token="<unk>")


@cache
def python_only() -> Any:
    """ByT5: written in Python, one token a byte, without offsets or a pipeline to look into."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


RUST: dict[str, Callable[[], Any]] = {
    made.__name__: made for made in (byte_level, sentencepiece_bpe, unigram, unigram_bytes, wordpiece, characters)
}
EVERY: dict[str, Callable[[], Any]] = {**RUST, "python_only": python_only}


def _byte_tokens() -> list[str]:
    return [f"<0x{value:02X}>" for value in range(256)]


def _model_of(backend: Any) -> dict[str, Any]:
    import json

    model: dict[str, Any] = json.loads(backend.to_str())["model"]
    return model


def _wrapped(backend: Any, **options: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)
