"""Numbers typed by hand, "8B, 32 layers", into the config of a plausible model with just as many parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from studio.errors import InputError
from studio.memory.request import Note

_WIDEST = 32
"""A gated part that is wider than so many times the rest is no model that anybody would make."""
_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMbBtT]?)")
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_TYPED = re.compile(r"^\s*\d+(?:\.\d+)?\s*[mMbBtT]\b(?!\s*/)")
_WORDS = {
    "layers": "layers", "layer": "layers", "hidden": "hidden", "width": "hidden", "intermediate": "intermediate",
    "ffn": "intermediate", "heads": "heads", "kv heads": "kv heads", "kv": "kv heads", "vocabulary": "vocabulary",
    "vocab": "vocabulary", "context": "context", "head dim": "head dim",
}  # fmt: skip
_LIMITS = {
    "parameters": (10**6, 10**13), "layers": (1, 1000), "hidden": (16, 10**6), "intermediate": (16, 10**7),
    "heads": (1, 10**4), "kv heads": (1, 10**4), "head dim": (2, 10**4), "vocabulary": (2, 10**7),
    "context": (1, 10**8),
}  # fmt: skip


def is_typed(text: str) -> bool:
    """Whether a text is a size rather than the name of a model: it begins with 8B or 350M."""
    return bool(_TYPED.match(text))


def typed_config(text: str) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """A Llama-like config of what was typed, what was not chosen as models of that size have it.

    Raises InputError for what is no number of anything, and for numbers that make no model.
    """
    said = dict(_read(text))
    if "parameters" not in said:
        raise InputError(f"{text[:60]!r} gives no size.", "Begin with it: 8B, 32 layers, hidden 4096.")
    config = _plausible(said)
    built = _parameters(config)
    if abs(built - said["parameters"]) > 0.01 * said["parameters"]:
        raise InputError(
            f"No model with these numbers has {said['parameters']:,} parameters; the nearest has {built:,}.",
            "Leave some of them out, and they are chosen to match.",
        )
    chosen = ", ".join(f"{name} {config[field]:,}" for name, field in _FIELDS.items() if name not in said)
    note = f"A Llama-like model of this size is assumed, {built:,} parameters; not typed and so chosen: {chosen}."
    return config, (Note("typed", "note", note),)


_FIELDS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "kv heads": "num_key_value_heads",
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
}


def _read(text: str) -> Iterator[tuple[str, int]]:
    """What each part of the text says: a word and its number, in either order."""
    for number, part in enumerate(part.strip() for part in text.split(",") if part.strip()):
        found = _COUNT.search(part)
        rest = (part[: found.start()] + part[found.end() :]).strip(" :=").lower() if found else ""
        name = "parameters" if found and not number and rest in ("", "parameters") else _WORDS.get(rest)
        if not found or not name:
            raise InputError(f"{part[:60]!r} says no number of anything.", f"Write {', '.join(_FIELDS)}, with commas.")
        value = round(float(found[1]) * _FACTORS[found[2].lower()])
        least, most = _LIMITS[name]
        if not least <= value <= most:
            raise InputError(f"{name.capitalize()} is {value:,}.", f"Choose a number from {least:,} to {most:,}.")
        yield name, value


def _plausible(said: dict[str, int]) -> dict[str, Any]:
    """The config in which what was not said makes the parameters match, with a gated part about 3.5 times as wide."""
    tried = [_with(said, layers, hidden) for layers in _layers(said) for hidden in _hiddens(said, layers)]
    widest = None if "intermediate" in said else _WIDEST
    possible = [c for c in tried if 0 < c["intermediate_size"] <= (widest or 10**7) * c["hidden_size"]]
    if not possible:
        raise InputError(
            f"These numbers make no model of {said['parameters']:,} parameters.", "Leave some out, and they are chosen."
        )
    usual = _usual_layers(said["parameters"])
    return min(possible, key=lambda config: _oddity(config, usual))


def _oddity(config: dict[str, Any], usual: float) -> float:
    """How far a config is from what models look like: the widths 3.5 to 1, and about so many layers."""
    ratio: float = config["intermediate_size"] / config["hidden_size"] / 3.5
    depth: float = config["num_hidden_layers"] / usual
    uneven = 0.0 if config["num_attention_heads"] % 8 == 0 else 0.1
    return max(ratio, 1 / ratio) + max(depth, 1 / depth) + uneven


def _usual_layers(parameters: int) -> float:
    """Layers by size, between 1B (16), 8B (32) and 70B (80)."""
    return max(4.0, 32 * math.pow(parameters / 8e9, 0.4))


def _layers(said: dict[str, int]) -> list[int]:
    usual = _usual_layers(said["parameters"])
    return [said["layers"]] if "layers" in said else sorted({max(1, round(usual * f)) for f in (0.8, 0.9, 1, 1.1, 1.2)})


def _hiddens(said: dict[str, int], layers: int) -> list[int]:
    if "hidden" in said:
        return [said["hidden"]]
    middle = (said["parameters"] / (13 * layers)) ** 0.5  # a layer of usual shape has about 13 hidden² parameters
    step = 1024 if middle >= 3500 else 256 if middle >= 1000 else 64
    return sorted({max(step, round(middle * factor / step) * step) for factor in (0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2)})


def _with(said: dict[str, int], layers: int, hidden: int) -> dict[str, Any]:
    """A config with these, its gated part as wide as the parameters ask for, where its width was not said."""
    width = said.get("head dim") or (128 if hidden >= 1024 and not hidden % 128 else max(1, hidden // 8))
    heads = said.get("heads") or max(1, hidden // width)
    if "heads" in said and "head dim" not in said:
        width = max(1, hidden // heads)
    keys = said.get("kv heads") or (8 if heads % 8 == 0 else heads)
    small = said["parameters"] < 4e9
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": width,
        "vocab_size": said.get("vocabulary") or (128_256 if said["parameters"] >= 5e8 else 32_000),
        "max_position_embeddings": said.get("context", 8192),
        "tie_word_embeddings": small,
        "intermediate_size": 0,
    }
    free = said["parameters"] - _parameters(config)
    config["intermediate_size"] = said.get("intermediate") or max(0, round(free / (3 * hidden * layers)))
    return config


def _parameters(config: dict[str, Any]) -> int:
    """As a Llama has them."""
    hidden, layers, width = config["hidden_size"], config["num_hidden_layers"], config["head_dim"]
    query, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    layer = 2 * hidden * (query + keys) + 3 * hidden * config["intermediate_size"] + 2 * hidden
    embeddings = config["vocab_size"] * hidden * (1 if config["tie_word_embeddings"] else 2)
    return int(layers * layer + embeddings + hidden)
