"""What lies beside the weights of a merged model: its configs, its tokenizer and its template."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from studio.disk import sync
from studio.merging.plan import AS_BASE
from studio.merging.shards import write_json

_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece*.model", "tekken.json", "*.tiktoken"),
)
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
_OTHERS = ("generation_config.json", "LICENSE*", "USE_POLICY*", "NOTICE*")
_MAKES_ONE = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def companions(base: Path, adapter: Path) -> dict[str, Path]:
    """Name in the merged folder → the file that it is copied from. Never code, and nothing that is a pickle.

    A tokenizer beside the adapter is the one that was taught, so all of it comes from there, and nothing of the base's;
    so does a template.
    """
    tokenizer = adapter if any((adapter / name).is_file() for name in _MAKES_ONE) else base
    templates = adapter if tokenizer is adapter or _found(adapter, _TEMPLATES) else base
    return _found(base, _OTHERS) | _found(tokenizer, _TOKENIZER) | _found(templates, _TEMPLATES)


def copy(files: Mapping[str, Path], folder: Path) -> None:
    """Put these files into a folder, on the disk when this returns."""
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
        sync(target)


def write_config(folder: Path, config: dict[str, Any], dtype: str, *, vocabulary: int | None, untied: bool) -> None:
    """Write the config of the base, with what the merge has changed. `vocabulary` is None where that is what it was."""
    config.pop("_name_or_path", None)
    parts = [config, *(part for name in ("text_config",) if isinstance(part := config.get(name), dict))]
    for part in parts:
        if dtype != AS_BASE:
            _set(part, _NAMES[dtype], "dtype", "torch_dtype")
        if vocabulary and "vocab_size" in part:
            part["vocab_size"] = vocabulary
        if untied and "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = False
    if untied:
        config["tie_word_embeddings"] = False
    write_json(folder / "config.json", config)


def _set(part: dict[str, Any], value: Any, name: str, older: str) -> None:
    """Under the name that is there; under the new one where neither is."""
    part[older if older in part and name not in part else name] = value


def _found(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {file.relative_to(folder).as_posix(): file for file in sorted(found) if not fnmatch(file.name, "*.py")}
