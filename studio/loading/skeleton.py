"""A model without its weights, on the meta device: what would be quantized, what it would take, in a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio import compute, memory
from studio.errors import InputError
from studio.loading.plan import AUTO, LoadPlan
from studio.memory import ModuleWeights
from studio.models import Precision

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model on the meta device as the plan would hold it, and its modules with the bytes that they would take."""

    model: PreTrainedModel
    modules: tuple[ModuleWeights, ...]
    notes: dict[str, str]
    """Why a module was left alone, by name."""

    @property
    def bytes(self) -> int:
        """Of all weights and buffers, once they are in memory."""
        return memory.total(self.modules)


def weights_dtype(precision: Precision) -> torch.dtype:
    """What the weights are held in that are not quantized."""
    import torch

    named = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    return named.get(precision) or sixteen_bit()


def sixteen_bit() -> torch.dtype:
    """The 16-bit format of this machine: fp16 only on a GPU that is older than bf16."""
    import torch

    machine = compute.machine()
    return torch.float16 if machine.device == "cuda" and not machine.has_bf16 else torch.bfloat16


def quantization_config(plan: LoadPlan, kept: list[str] | None = None) -> BitsAndBytesConfig | None:
    """The plan in the words of transformers; None where nothing is quantized. `kept` are all modules left alone."""
    import torch
    from transformers import BitsAndBytesConfig

    wish, precision = plan.quantization, plan.precision
    if precision is None or not precision.quantizes:
        return None
    shared = {"llm_int8_skip_modules": kept, "llm_int8_enable_fp32_cpu_offload": wish.cpu_offload}
    if precision is Precision.INT8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=float(wish.threshold), **shared)
    formats = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "uint8": torch.uint8}
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=precision.value,
        bnb_4bit_use_double_quant=wish.double_quant,
        bnb_4bit_compute_dtype=sixteen_bit() if wish.compute == AUTO else formats[wish.compute],
        bnb_4bit_quant_storage=formats[wish.storage],
        **shared,
    )


def build_skeleton(config: Any, plan: LoadPlan, kind: Any = None) -> Skeleton:
    """The model of a config as a settled plan would hold it. Takes what building its modules takes, and no weights.

    `kind` is the auto class of transformers, a causal language model where it is not said.
    """
    import torch
    from transformers import AutoModelForCausalLM

    assert plan.precision is not None
    as_stored = config.dtype if plan.precision is Precision.STORED else None
    dtype = as_stored or weights_dtype(plan.precision)
    with torch.device("meta"):
        model = (kind or AutoModelForCausalLM).from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    dtypes = held_dtypes(model, dtype)
    notes: dict[str, str] = {}
    if quantized := quantization_config(plan) or _stored_quantization(config):
        notes = _quantize(model, quantized, plan.quantization.kept)
    return Skeleton(model, tuple(memory.predicted(model, dtypes, notes)), notes)


def left_alone(model: PreTrainedModel, kept: tuple[str, ...]) -> list[str]:
    """The modules that bitsandbytes does not get: those that transformers keeps by itself, and the wished ones.

    A list given to transformers replaces its own, and the head would be quantized; so both are given.
    """
    from transformers.quantizers.base import HfQuantizer

    usual = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return sorted({*usual, *kept})


def _quantize(model: PreTrainedModel, quantized: BitsAndBytesConfig, kept: tuple[str, ...]) -> dict[str, str]:
    """Put the modules of bitsandbytes in, by the functions that loading uses; say why the others were left alone."""
    import torch
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.pytorch_utils import Conv1D

    _check_kept(model, kept)
    alone = left_alone(model, (*kept, *(quantized.llm_int8_skip_modules or ())))
    head, tied = model.get_output_embeddings(), set(model.all_tied_weights_keys)
    fp32 = [*(model._keep_in_fp32_modules or ()), *(getattr(model, "_keep_in_fp32_modules_strict", None) or ())]
    # Only whether it is empty is ever looked at: a model of nothing but experts says so in the log.
    replace_with_bnb_linear(model, modules_to_not_convert=alone, quantization_config=quantized)
    notes = {}
    for name, module in model.named_modules():
        if type(module) in (torch.nn.Linear, Conv1D):
            notes[name] = _why_linear(name, is_head=module is head, tied=f"{name}.weight" in tied, fp32=fp32)
        elif any(parameter.ndim == 3 for parameter in module.parameters(recurse=False)):
            notes[name] = "fused experts: bitsandbytes quantizes linear layers only"
    return notes


def _check_kept(model: PreTrainedModel, kept: tuple[str, ...]) -> None:
    """Raise InputError for a name that no module has: nothing would be kept, and nobody would know."""
    parts = [f".{name}." for name, _ in model.named_modules()]
    if strangers := [name for name in kept if not any(f".{name}." in part for part in parts)]:
        known = sorted({name.rpartition(".")[2] for name, _ in model.named_modules() if name})
        named = ", ".join(name for name in known if not name.isdecimal())
        raise InputError(f"No module is called {strangers[0]!r}.", f"Its modules are {named}.")


def _why_linear(name: str, *, is_head: bool, tied: bool, fp32: list[str]) -> str:
    if tied:
        return "shares its weight with the embedding"
    if is_head:
        return "the head, which chooses the tokens, loses most"
    if any(part in name.split(".") for part in fp32):
        return "its architecture wants it in fp32"
    return "named among those to keep"


def held_dtypes(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """What each parameter is held in: the plan's dtype, but for those that the architecture wants in fp32."""
    import torch

    always = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    fp32 = always | (set(model._keep_in_fp32_modules or ()) if dtype is torch.float16 else set())
    return {
        name: torch.float32 if fp32 and _is_part(name, fp32) else parameter.dtype
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _is_part(name: str, modules: set[str]) -> bool:
    return any(f".{module}." in f".{name}" for module in modules)


def _stored_quantization(config: Any) -> BitsAndBytesConfig | None:
    """How a checkpoint was quantized by bitsandbytes before; None where it was not, or by something else."""
    from transformers import BitsAndBytesConfig

    how: Any = getattr(config, "quantization_config", None) or {}
    if hasattr(how, "to_dict"):
        how = how.to_dict()
    if not how or how.get("quant_method") != "bitsandbytes":
        return None
    return BitsAndBytesConfig.from_dict({key: value for key, value in how.items() if not key.startswith("_")})
