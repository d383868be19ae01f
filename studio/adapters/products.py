"""Adapters whose every update is the product of two factors and nothing else: what can be cut, added and written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from studio.adapters.adapter import PREFIX, AdaptedModule, Adapter
from studio.adapters.saving import Held
from studio.errors import Unsupported

STARTS = ("default", "gaussian", "eva", "orthogonal")
"""Beginnings that leave the weights of the base as they are."""
_DORA = "with DoRA the length of every row is learnt beside the product"
_INSTEAD = "Merge it into its base, and extract an adapter of the size that you want from the merged model."


def check_products(adapter: Adapter) -> None:
    """Raise Unsupported, with the reason, where an update is more than the product of its A and its B."""
    if reason := why_more(adapter):
        raise Unsupported(f"Of this adapter the updates are more than products: {reason}.", _INSTEAD)


def why_more(adapter: Adapter) -> str:
    """Why an update is more than a product; empty where it is one."""
    if adapter.type != "LORA":
        return f"it is of the type {adapter.type}"
    if adapter.dora or any(module.dora for module in adapter.modules):
        return _DORA
    if adapter.features:
        return f"it has {adapter.features[0]}"
    if adapter.start not in STARTS:
        return f"it began as {adapter.start}, which changes the base, and was saved without being converted"
    if adapter.target_parameters or any(module.scaling is None for module in adapter.modules):
        return "those of experts lie in one file entry, and how many experts there are only the base tells"
    return ""


def place_of(path: str) -> tuple[int | None, str]:
    """The layer of a module, None where it is in none, and its name within: 3 and self_attn.q_proj."""
    match = re.match(r"(?:.*?\.)?(\d+)\.(.+)$", path)
    return (int(match[1]), match[2]) if match else (None, path)


def config_with(config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """The config of an adapter with other ranks, by module, whose products are added as they are."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(path): rank for path, rank in ranks.items() if rank != usual}
    return {
        **config,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def keys_of(module: AdaptedModule) -> tuple[str, str]:
    """What PEFT calls the A and the B of a module in the file."""
    names = ("lora_embedding_A", "lora_embedding_B") if module.embedding else ("lora_A.weight", "lora_B.weight")
    return f"{PREFIX}{module.path}.{names[0]}", f"{PREFIX}{module.path}.{names[1]}"


def held_as(module: AdaptedModule, rank: int) -> Iterator[tuple[str, Held]]:
    """The names and shapes of the factors of a module at a rank."""
    a, b = keys_of(module)
    yield a, ("F32", (rank, module.a[1]))
    yield b, ("F32", (module.b[0], rank))
