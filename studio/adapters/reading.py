"""An adapter from its folder: the config and the header of its weights, held against each other. No weight is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any

from studio.adapters.adapter import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    AdaptedModule,
    Adapter,
    Shape,
    TokenRows,
    WholeTensor,
    plain,
)
from studio.checkpoint import read_header, read_json
from studio.errors import Damaged, InputError, PickleOnly, Unsupported

_FACTOR = re.compile(r"(.+)\.lora_(A|B|embedding_A|embedding_B)(?:\.(weight|bias))?")
_MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.weight)?")
_ROWS = re.compile(r"(.+?)(?:\.token_adapter)?\.trainable_tokens_delta")
_FEATURES = (
    *("alora_invocation_tokens", "layer_replication", "use_qalora", "use_bdlora", "arrow_config", "kasa_config"),
    *("velora_config", "monteclora_config", "megatron_config"),
)
_ANOTHER = "Choose another adapter, or save this one again."
_PATTERN_SECONDS = 2.0  # for one name; a pattern is a regular expression of a stranger, and some never end
Header = Mapping[str, Any]


def read(folder: Path) -> Adapter:
    """The adapter in a folder.

    Raises InputError where there is none, PickleOnly, Unsupported for a type that PEFT does not know, and Damaged where
    the config and the file do not agree. Whether its numbers are numbers, `check_finite` tells.
    """
    config, header = _config(folder), _header(folder)
    kind = _kind(config)
    is_lora = kind == "LORA"
    found = _Sorted(config, header) if is_lora else None
    if found and not (found.modules or found.whole or found.tokens):
        raise Damaged(f"The {WEIGHTS} of this adapter holds no update.", _ANOTHER)
    return Adapter(
        folder=str(folder),
        type=kind,
        base=str(config.get("base_model_name_or_path") or ""),
        revision=str(config.get("revision") or ""),
        peft_version=str(config.get("peft_version") or ""),
        rank=found.rank if found else 0,
        alpha=found.alpha if found else 0.0,
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        start=_start(config),
        rank_pattern=found.ranks if found else {},
        alpha_pattern=found.alphas if found else {},
        targets=_names(config, "target_modules"),
        target_parameters=_names(config, "target_parameters"),
        ties=bool(config.get("ensure_weight_tying")),
        features=tuple(name for name in _FEATURES if config.get(name)),
        modules=found.modules if found else (),
        whole=found.whole if found else (),
        tokens=found.tokens if found else (),
        tensors=len(header),
        parameters=sum(prod(entry["shape"]) for entry in header.values()),
        bytes=sum(_bytes(entry) for entry in header.values()),
    )


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Check the path.")
    if not (folder / CONFIG).is_file():
        raise InputError(f"There is no {CONFIG} in {folder.name}.", "Choose the folder that training wrote.")
    return read_json(folder / CONFIG)


def _header(folder: Path) -> dict[str, Any]:
    file = folder / WEIGHTS
    if not file.is_file():
        if any(folder.glob("*.bin")):
            raise PickleOnly(
                "This adapter has its weights only as a pickle file, which can run code when it is opened.",
                "Convert it to safetensors: tensors alone are taken out of the file, and nothing of it is run.",
            )
        raise InputError(f"There is no {WEIGHTS} in {folder.name}.", "Choose the folder that training wrote.")
    header = {name: entry for name, entry in read_header(file).items() if name != "__metadata__"}
    if not header:
        raise Damaged(f"{WEIGHTS} is empty.", _ANOTHER)
    for name, entry in header.items():
        if entry["dtype"] not in ("F64", "F32", "F16", "BF16"):
            raise Damaged(
                f"{name} is held as {entry['dtype']}, and an update is made of floating-point numbers.", _ANOTHER
            )
    return header


def _kind(config: Header) -> str:
    kind = str(config.get("peft_type"))
    if kind == "LORA":
        return kind
    if kind == "BONE":
        raise Unsupported(
            "This adapter is of the type Bone, which PEFT has dropped for MiSS.",
            "Convert it to MiSS on the Merge tab, under Adapter, which changes no number; or train a new LoRA adapter.",
        )
    from peft import PeftType

    if kind not in {known.value for known in PeftType}:
        raise Unsupported(f"PEFT knows no adapter of the type {kind}.", "Update PEFT if it is new, or choose another.")
    return kind


def _start(config: Header) -> str:
    said = config.get("init_lora_weights", True)
    return said.lower() if isinstance(said, str) else "default"


def _names(config: Header, field: str) -> tuple[str, ...]:
    said = config.get(field) or ()
    return (said,) if isinstance(said, str) else tuple(sorted(str(name) for name in said))


def _bytes(entry: Header) -> int:
    begin, end = entry["data_offsets"]
    return int(end - begin)


class _Sorted:
    """The tensors of a LoRA adapter, by what they are for."""

    def __init__(self, config: Header, header: Header) -> None:
        self._config, self._header = config, header
        self.rank = int(_number(config, "r", 8, whole=True))
        self.alpha = _number(config, "lora_alpha", 8)
        self.ranks = {key: int(value) for key, value in _pattern(config, "rank_pattern", whole=True).items()}
        self.alphas = _pattern(config, "alpha_pattern")
        factors: dict[str, dict[str, str]] = {}
        whole: list[WholeTensor] = []
        tokens: list[TokenRows] = []
        for key in sorted(header):
            if not key.startswith(PREFIX):
                raise Damaged(f"{key[:200]!r} is not a name that PEFT gives.", _ANOTHER)
            name = key.removeprefix(PREFIX)
            if match := _FACTOR.fullmatch(name):
                part = match[2].removeprefix("embedding_") + (" bias" if match[3] == "bias" else "")
                factors.setdefault(match[1], {})[part] = key
            elif match := _MAGNITUDE.fullmatch(name):
                factors.setdefault(match[1], {})["magnitude"] = key
            elif match := _ROWS.fullmatch(name):
                tokens.append(self._rows(match[1], key))
            else:
                whole.append(WholeTensor(plain(key), key, self._shape(key), header[key]["dtype"]))
        self.modules = tuple(self._module(path, keys) for path, keys in factors.items())
        self.whole, self.tokens = tuple(whole), tuple(tokens)

    def _shape(self, key: str) -> Shape:
        return tuple(self._header[key]["shape"])

    def _module(self, path: str, keys: dict[str, str]) -> AdaptedModule:
        if absent := [part for part in "AB" if part not in keys]:
            raise Damaged(f"The update of {path} has no {absent[0]}.", _ANOTHER)
        a, b = self._shape(keys["A"]), self._shape(keys["B"])
        if len(a) != 2 or len(b) != 2 or 0 in (*a, *b):
            raise Damaged(f"The update of {path} has the shapes {list(a)} and {list(b)}, which are none.", _ANOTHER)
        if a[0] != b[1]:
            raise Damaged(f"The update of {path} has {a[0]} rows in A and {b[1]} columns in B.", _ANOTHER)
        entries = [self._header[key] for key in keys.values()]
        return AdaptedModule(
            path=path,
            rank=a[0],
            scaling=self._scaling(path, a[0]),
            a=a,
            b=b,
            embedding="lora_embedding_" in keys["A"],
            dora="magnitude" in keys,
            bias="B bias" in keys,
            parameters=sum(prod(entry["shape"]) for entry in entries),
            bytes=sum(map(_bytes, entries)),
        )

    def _scaling(self, path: str, rank: int) -> float | None:
        """Raises Damaged where the config says another rank than the file."""
        said = self.ranks.get(_match(self.ranks, path), self.rank)
        if self._config.get("target_parameters") and (path.endswith(".base_layer") or said != rank):
            return None  # a parameter: which one, and of how many experts, the model tells
        if said != rank:
            raise Damaged(f"The config says rank {said} for {path}, and the file has {rank}.", _ANOTHER)
        alpha = self.alphas.get(_match(self.alphas, path), self.alpha)
        return alpha / (sqrt(rank) if self._config.get("use_rslora") else rank)

    def _rows(self, path: str, key: str) -> TokenRows:
        said = self._config.get("trainable_token_indices")
        if isinstance(said, dict):
            own = [rows for name, rows in said.items() if path == name or path.endswith(f".{name}")]
            said = next(iter(own or said.values()), None)  # a head that is tied has the rows of the embedding
        shape = self._shape(key)
        if not isinstance(said, list) or not all(type(row) is int and row >= 0 for row in said):
            raise Damaged(f"The config does not say which rows of {path} were trained.", _ANOTHER)
        if len(shape) != 2 or len(said) != shape[0] or len(set(said)) != len(said):
            raise Damaged(f"The config names {len(said)} rows of {path}, and the file has {list(shape)}.", _ANOTHER)
        return TokenRows(path, key, tuple(said), shape)


def _number(config: Header, field: str, usual: int, *, whole: bool = False) -> float:
    value = config.get(field, usual)
    if not _is_number(value, whole=whole) or (whole and value < 1):
        raise Damaged(f"The config of the adapter says {field} is {value!r}.", _ANOTHER)
    return value if whole else float(value)


def _pattern(config: Header, field: str, *, whole: bool = False) -> dict[str, float]:
    said = config.get(field) or {}
    if not isinstance(said, dict) or not all(_is_number(value, whole=whole) for value in said.values()):
        raise Damaged(f"The config of the adapter has a {field} that is none.", _ANOTHER)
    return {str(key): value if whole else float(value) for key, value in said.items()}


def _is_number(value: Any, *, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool) and isfinite(value)


def _match(patterns: Mapping[str, Any], path: str) -> str:
    """The first pattern that means a module, by PEFT's own rule; the path itself where none does."""
    if not patterns:
        return path
    import regex

    for pattern in patterns:
        try:
            if regex.match(rf"(.*\.)?({pattern})$", path, timeout=_PATTERN_SECONDS):
                return pattern
        except (regex.error, TimeoutError) as error:
            raise Damaged(
                f"The config of the adapter has the pattern {pattern[:100]!r}, which is none.", _ANOTHER
            ) from error
    return path
