"""How a checkpoint was quantized, from its config, and what is needed to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True, slots=True)
class Package:
    """A package by the name pip knows, and whether it is here."""

    name: str
    here: bool


@dataclass(frozen=True, slots=True)
class Quantization:
    """A method that the config names. What is not told is None."""

    method: str
    known: bool
    """Whether transformers knows the method. One that it does not know it ignores, and reads nonsense."""
    bits: int | None
    group_size: int | None
    packages: tuple[Package, ...]
    """All that are needed, apart from transformers itself."""
    devices: tuple[str, ...]
    """Where it runs; empty for anywhere."""
    note: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are needed and not here."""
        return tuple(package.name for package in self.packages if not package.here)


@dataclass(frozen=True, slots=True)
class _Method:
    """What `validate_environment` of its class in transformers.quantizers asks for (5.23)."""

    packages: tuple[str, ...]
    devices: tuple[str, ...] = ()
    bits: int | None = None
    note: str = ""


_GPU = ("cuda", "xpu")
_UNPACKED = "On other devices transformers turns it into bf16 while loading, which takes {} times the room."
_METHODS = {
    "gptq": _Method(("optimum", "gptqmodel")),
    "awq": _Method(("gptqmodel", "accelerate")),
    "auto-round": _Method(("auto-round",)),
    "bitsandbytes 4bit": _Method(("bitsandbytes", "accelerate"), bits=4),
    "bitsandbytes 8bit": _Method(("bitsandbytes", "accelerate"), bits=8),
    "fp8": _Method(
        ("accelerate",), bits=8, note="It is fast on GPUs of compute capability 8.9 and later. " + _UNPACKED.format(2)
    ),
    "mxfp8": _Method(("accelerate",), bits=8, note=_UNPACKED.format(2)),
    "mxfp4": _Method(
        ("accelerate",), bits=4, note="It stays 4 bit with triton and kernels. Else transformers turns it into bf16."
    ),
    "nvfp4": _Method(("kernels",), ("cuda",), bits=4, note="transformers cannot load such a checkpoint yet."),
    "fbgemm_fp8": _Method(("fbgemm-gpu", "accelerate"), _GPU, bits=8),
    "compressed-tensors": _Method(("compressed-tensors",)),
    "hqq": _Method(("hqq",)),
    "aqlm": _Method(("aqlm", "accelerate"), bits=2),
    "quanto": _Method(("optimum-quanto", "accelerate")),
    "torchao": _Method(("torchao",)),
    "eetq": _Method(("kernels", "accelerate"), ("cuda",), bits=8),
    "higgs": _Method(("flute-kernel", "fast_hadamard_transform", "accelerate"), ("cuda",)),
    "vptq": _Method(("vptq", "accelerate"), ("cuda",)),
    "spqr": _Method(("spqr-quant", "accelerate"), ("cuda",)),
    "bitnet": _Method(("accelerate",), bits=2),
    "quark": _Method(("amd-quark",)),
    "fp_quant": _Method(("fp-quant",), _GPU),
    "fouroversix": _Method(("fouroversix",), ("cuda",), bits=4),
    "metal": _Method(("kernels",), note="It runs on Apple GPUs, and is turned into bf16 elsewhere."),
    "sinq": _Method(("sinq",)),
    "gemma": _Method(()),
}
_AIDS = ("scale", "zero", "absmax", "quant_map", "bitsandbytes__", "g_idx", "SCB", "weight_shape", "weight_format")
_MODULES = {"flute-kernel": "flute", "amd-quark": "quark", "optimum-quanto": "optimum.quanto"}
_DEFAULT_BITS = {"int4": 4, "qint4": 4, "int8": 8, "qint8": 8, "int2": 2, "qint2": 2, "float8": 8, "qfloat8": 8}


def read_quantization(config: Mapping[str, Any]) -> Quantization | None:
    """What the config says about quantization; None where it says nothing."""
    said = _section(config)
    if said is None:
        return None
    name = _name(said)
    known = name in _METHODS
    method = _METHODS.get(name, _Method(()))
    bits, group_size = _told(said)
    packages = tuple(Package(package, _is_here(package)) for package in method.packages)
    return Quantization(name, known, bits or method.bits, group_size, packages, method.devices, method.note)


def stands_for(name: str, count: int, integer_bits: int, how: Quantization | None) -> int:
    """How many weights a stored tensor of `count` numbers stands for; `integer_bits` is 0 for floating-point ones."""
    if how is None:
        return count
    last = name.rpartition(".")[2]
    if any(part in last for part in _AIDS):
        return 0
    packed = last in ("weight", "qweight", "weight_packed") or last.endswith("_blocks")
    return count * integer_bits // how.bits if packed and how.bits and how.bits < integer_bits else count


def _section(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of the config that is about quantization, under any of the names it has had."""
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(said := place.get(key), dict) and said:
                return {"quant_method": "compressed-tensors", **said} if key == "compression_config" else said
        if isinstance(said := place.get("quantization"), dict) and said:
            return {"quant_method": "mlx", **said}
    return None


def _name(said: Mapping[str, Any]) -> str:
    """The method, as `_METHODS` and the person call it."""
    if said.get("load_in_4bit"):
        return "bitsandbytes 4bit"
    if said.get("load_in_8bit"):
        return "bitsandbytes 8bit"
    method = said.get("quant_method")
    if not isinstance(method, str) or not method:
        return "unknown"
    return {"bitsandbytes": "bitsandbytes 8bit"}.get(method, method)


def _told(said: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Bits and group size, from where the methods put them."""
    places: list[Any] = [said, *_nested(said, "config_groups", "weights"), *_nested(said, "weight_quant_params")]
    places += [said["quant_config"].get("weight_quant_params")] if isinstance(said.get("quant_config"), dict) else []
    bits = group = None
    for place in (place for place in places if isinstance(place, dict)):
        bits = bits or _number(place, "bits", "w_bit", "num_bits", "nbits", "wbits")
        group = group or _number(place, "group_size", "q_group_size", "in_group_size")
    if bits is None and isinstance(kind := said.get("weights"), str):
        bits = _DEFAULT_BITS.get(kind)
    return bits, group


def _nested(said: Mapping[str, Any], key: str, below: str | None = None) -> list[Any]:
    """The values below a key, one level deeper where `below` is named: compressed-tensors has groups of layers."""
    inner = said.get(key)
    if not isinstance(inner, dict):
        return []
    return [group.get(below) for group in inner.values() if isinstance(group, dict)] if below else [inner]


def _number(place: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = place.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _is_here(package: str) -> bool:
    """Whether a package can be imported, without doing so."""
    module = _MODULES.get(package, package.replace("-", "_"))
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not here either
        return False
