"""CPU seconds to take 1 MB of text apart, divided by those of the bare `encode` of the tokenizers library.

    python tests/benchmarks/encoding.py [REPEATS]

Both take turns on the same text, after a turn that fills the caches of the library. The ratio is the median of those
of the turns, because what else runs on the machine slows down both of a turn.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from running import ROOT, told

SIZE = 1_000_000
VOCABULARY = 8_000


def main(repeats: int) -> None:
    from studio.tokenizer.pieces import tokenize

    lines = list(corpus())
    rng = random.Random(0)
    text = "\n".join(rng.choice(lines) for _ in range(SIZE // 20))[:SIZE]
    for name, tokenizer in trained(lines):
        backend = tokenizer.backend_tokenizer
        ours, bare = [], []
        for turn in range(repeats + 1):
            begin = time.process_time()
            backend.encode(text)
            middle = time.process_time()
            tokens = tokenize(tokenizer, text).counts.tokens
            if turn:
                bare.append(middle - begin)
                ours.append(time.process_time() - middle)
        print(f"{name}, {tokens:,} tokens")
        told("ours", ours, "s")
        told("bare", bare, "s")
        told("ours / bare", [one / other for one, other in zip(ours, bare, strict=True)], "")


def corpus() -> Iterator[str]:
    """The lines of the texts and the source that are in this repository."""
    for pattern in ("assets/*.txt", "assets/make_starter_model/*.txt", "studio/**/*.py", "README.md"):
        for file in sorted(ROOT.glob(pattern)):
            yield from (line for line in file.read_text(encoding="utf-8").splitlines() if line.strip())


def trained(lines: list[str]) -> Iterator[tuple[str, Any]]:
    """One tokenizer of each kind, with a vocabulary of thousands where the kind allows it."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    kinds = {
        "byte-level BPE": (
            Tokenizer(models.BPE()),
            None,
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False),
        ),
        "SentencePiece BPE": (
            Tokenizer(models.BPE()),
            None,
            pre_tokenizers.Metaspace(),
            trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False),
        ),
        "Unigram": (
            Tokenizer(models.Unigram()),
            normalizers.NFKC(),
            pre_tokenizers.Metaspace(),
            trainers.UnigramTrainer(vocab_size=VOCABULARY, unk_token="<unk>", show_progress=False),
        ),
        "WordPiece": (
            Tokenizer(models.WordPiece(unk_token="[UNK]")),
            normalizers.BertNormalizer(),
            pre_tokenizers.BertPreTokenizer(),
            trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=["[UNK]"], show_progress=False),
        ),
        "characters": (
            Tokenizer(models.WordLevel(unk_token="<unk>")),
            None,
            pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"),
            trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False),
        ),
    }
    for name, (backend, normalizer, pre_tokenizer, trainer) in kinds.items():
        if normalizer:
            backend.normalizer = normalizer
        backend.pre_tokenizer = pre_tokenizer
        backend.train_from_iterator(lines, trainer)
        made = as_in_llama(backend) if name == "SentencePiece BPE" else backend
        yield name, PreTrainedTokenizerFast(tokenizer_object=made)


def as_in_llama(trained: Any) -> Any:
    """The same merges as Llama 2 has them: the whole text as one word, and a byte for what is not known."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    learned = json.loads(trained.to_str())["model"]
    names = ["<unk>", *(f"<0x{value:02X}>" for value in range(256)), *learned["vocab"]]
    vocabulary = {token: id for id, token in enumerate(dict.fromkeys(names))}
    merges = [tuple(merge) for merge in learned["merges"]]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return made


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
