"""How much faster a tokenizer in Rust is than the same one in Python, measured on this machine."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from studio.errors import Damaged
from studio.settings import ASSETS
from studio.tokenizer.reading import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VOCABULARY = 4000
_LONG = 10
"""How often the bundled text is repeated to be a long one, of 56,000 characters."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Both tokenizers on the same texts. `ratio` says how many times as fast Rust is."""

    texts: int
    tokens: int
    python_tokens_per_second: float
    rust_tokens_per_second: float
    ratio: float


def rust_against_python(*, repeats: int = 5) -> tuple[Pace, Pace]:
    """BERT's tokenizer in Rust against the one in Python: on sentences, and on one long text.

    Transformers 5 has kept both for BERT, as BertTokenizer and BertTokenizerLegacy. They get one vocabulary and give
    the same ids, or Damaged is raised. One text a call, on one thread; the two take turns, and medians are compared.
    """
    text = (ASSETS / "quality.txt").read_text(encoding="utf-8")
    sentences = [sentence.strip() for sentence in text.split(".") if sentence.strip()]
    with tempfile.TemporaryDirectory() as folder:
        rust, python = _both(sentences, Path(folder) / "vocab.txt")
    return _pace(rust, python, sentences, repeats), _pace(rust, python, [text * _LONG], repeats)


def _both(texts: Sequence[str], file: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The two tokenizers with a vocabulary learned from `texts`, which goes from one to the other by `file`."""
    from transformers import BertTokenizer
    from transformers.models.bert import BertTokenizerLegacy

    rust = BertTokenizer().train_new_from_iterator(texts, _VOCABULARY, show_progress=False)
    vocabulary = rust.get_vocab()
    file.write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n", encoding="utf-8")
    return rust, BertTokenizerLegacy(str(file))


def _pace(rust: PreTrainedTokenizerBase, python: PreTrainedTokenizerBase, texts: Sequence[str], repeats: int) -> Pace:
    ids = [encode(rust, text, special_tokens=True) for text in texts]
    if ids != [encode(python, text, special_tokens=True) for text in texts]:
        raise Damaged("The two tokenizers of BERT give different ids.", "Install another version of transformers.")
    seconds: dict[str, list[float]] = {"rust": [], "python": []}
    for _ in range(repeats):
        for name, tokenizer in (("rust", rust), ("python", python)):
            begin = perf_counter()
            for text in texts:
                encode(tokenizer, text, special_tokens=True)
            seconds[name].append(perf_counter() - begin)
    tokens = sum(map(len, ids))
    fast, slow = (tokens / statistics.median(seconds[name]) for name in ("rust", "python"))
    return Pace(len(texts), tokens, python_tokens_per_second=slow, rust_tokens_per_second=fast, ratio=fast / slow)
