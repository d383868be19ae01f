"""The tokenizer of a model folder, and text into ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studio import gguf
from studio.errors import Damaged, Unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a model folder, or of a GGUF file. Never uses the network, never runs code from the folder.

    Raises Unsupported where there is none and Damaged where its files cannot be read.
    """
    from transformers import AutoTokenizer

    packed = gguf.found(folder)
    if not packed and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise Unsupported(
            "This model comes without a tokenizer.",
            "Take the tokenizer files (tokenizer.json, tokenizer_config.json) from the model it was made from.",
        )
    try:
        options = gguf.load_options(packed) if packed else {}
        place = packed.parent if packed else folder
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False, **options)
    except BaseException as error:
        # The Rust part has no class of its own: it raises Exception itself, for a file of a newer version too.
        if type(error) is not Exception and not isinstance(error, _UNREADABLE):
            raise
        raise Damaged(
            f"The tokenizer cannot be read: {first_line(error)}",
            "Download the model again, or take the tokenizer files from the model it was made from.",
        ) from error
    if len(tokenizer) == 0:
        raise Damaged("The tokenizer has an empty vocabulary.", "Download the model again.")
    return tokenizer


_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RecursionError)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special_tokens: bool) -> list[int]:
    """Token ids of `text`. `special_tokens` adds those of the tokenizer around it; a chat template brings its own."""
    return list(tokenizer(text, add_special_tokens=special_tokens).input_ids)


def first_line(error: BaseException) -> str:
    """What kind of error it is and the first line of its words."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
