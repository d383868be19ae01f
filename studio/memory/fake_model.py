"""A model whose tensors have shapes and no content, with the layers of bitsandbytes and PEFT that the real one gets."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from studio.errors import InputError, Unsupported
from studio.loading.plan import LoadPlan, Quantization
from studio.loading.skeleton import build_skeleton
from studio.memory.step import Step
from studio.models import ModelRef, Precision

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_ANALYTIC = "The closed form and the bytes of the weights stand."


class NeedsValues(Exception):
    """Something is computed from values, and fake tensors have none."""


def config_of(fields: dict[str, Any], layers: int | None = None) -> Any:
    """The config of transformers, cut to its first layers. Raises Unsupported where transformers cannot read it."""
    from transformers import CONFIG_MAPPING

    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise Unsupported(
            f"This transformers does not know the architecture {kind!r}.", f"Update transformers. {_ANALYTIC}"
        )
    try:
        # Read anew each time: a config is changed by the model that is built from it.
        config = CONFIG_MAPPING[kind].from_dict(deepcopy(fields))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Unsupported(f"The config of this {kind} cannot be read: {_first(error)}", _ANALYTIC) from error
    except BaseException as error:
        # The class belongs to huggingface_hub, which only studio/hub may import.
        if "StrictDataclassError" not in [base.__name__ for base in type(error).__mro__]:
            raise
        said = " ".join(str(error).split())[:300]
        raise Unsupported(f"The config of this {kind} cannot be read: {said}", _ANALYTIC) from error
    text = config.get_text_config()
    if layers is not None:
        whole = text.num_hidden_layers
        for name, value in list(vars(text).items()):
            if isinstance(value, list | tuple) and len(value) == whole:  # one entry a layer: its kind, its experts
                setattr(text, name, type(value)(value[:layers]))
        text.num_hidden_layers = layers
    return config


def build(step: Step, layers: int | None = None) -> PreTrainedModel:
    """The model of a step on the meta device, quantized as loading would, without its adapter.

    Raises Unsupported where transformers has no such model, or it has no sizes.
    """
    config = config_of(step.config, layers)
    if step.attention == "eager":
        # Otherwise transformers takes PyTorch's own kernels, which hold what FlashAttention holds.
        config._attn_implementation = "eager"
    precision = step.precision
    if precision is Precision.STORED and getattr(config, "quantization_config", None):
        method = dict(config.quantization_config).get("quant_method", "another method")
        if method != "bitsandbytes":
            raise Unsupported(f"Weights quantized with {method} cannot be rehearsed.", _ANALYTIC)
    quantization = Quantization(double_quant=step.double_quant, threshold=0.0)
    plan = LoadPlan(ModelRef("folder", "/"), precision, quantization=quantization)
    try:
        model = build_skeleton(config, plan).model
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ZeroDivisionError, ImportError) as error:
        raise Unsupported(f"This {config.model_type} cannot be built: {_first(error)}", _ANALYTIC) from error
    _mark_quantized(model)
    return model


def _mark_quantized(model: Any) -> None:
    """What from_pretrained leaves on a quantized model, by which PEFT recognises it."""
    from transformers import BitsAndBytesConfig

    kinds = {type(parameter).__name__ for parameter in model.parameters()} & _MAKERS.keys()
    if not kinds:
        return
    four = "Params4bit" in kinds
    model.is_loaded_in_4bit, model.is_loaded_in_8bit, model.is_quantized = four, not four, True
    quantization = BitsAndBytesConfig(load_in_4bit=four, load_in_8bit=not four)
    model.config.quantization_config, model.quantization_method = quantization, quantization.quantization_method()
    model.hf_quantizer = type("Quantizer", (), {"quantization_config": quantization})()


def prepared(step: Step, layers: int | None = None) -> tuple[Any, list[str]]:
    """The model of a step as its trainer would have it, checkpointing and adapter in place; and what was assumed.

    Raises Unsupported and InputError where there is no such model, and NeedsValues.
    """
    model = build(step, layers)
    notes = []
    if step.attention != "eager" and model.config._attn_implementation == "eager":
        notes.append("transformers has only eager attention for this architecture, which holds every score.")
    if not step.train:
        return model, notes
    if step.adapter is None:
        if getattr(model, "is_quantized", False):
            raise InputError("Quantized weights cannot be trained.", "Train an adapter on top of them.")
        _switch_on(model, step)
        return model, notes
    # An adapter may compute how it begins: from shapes, from its own numbers, or from the weights, which are not here.
    for device in ("meta", "cpu"):
        try:
            return adapted(model, step, step.adapter, device), notes
        except (NotImplementedError, RuntimeError) as error:
            reason = error
            model = build(step, layers)  # the other one has half an adapter
    raise NeedsValues(_first(reason)) from reason


def plain_lora(adapter: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """LoRA in place of an adapter that cannot be had without values, and what to say about it. It is of its rank."""
    kept = ("r", "target_modules", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "task_type")
    plain = {"peft_type": "LORA"} | {name: adapter[name] for name in kept if name in adapter}
    begins = adapter.get("init_lora_weights")
    name = f"LoRA that begins as {begins}" if isinstance(begins, str) else str(adapter.get("peft_type"))
    return plain, f"{name} computes with the values of weights, which a dry run has none of: plain LoRA took its place."


def adapted(model: Any, step: Step, adapter: dict[str, Any], device: str) -> Any:
    """The model with its adapter, by PEFT itself; what the adapter is made of is first made on `device`."""
    import peft
    import torch

    _switch_on(model, step)
    if step.checkpointing:
        model.enable_input_require_grads()
    fields = {name: value for name, value in adapter.items() if value is not None}
    if fields.get("use_dora"):
        from peft.tuners.lora import dora

        dora.dequantize_module_weight = _unpacked  # its own knows parameters of bitsandbytes with content only
    # Inner, so that it wins over whatever device the caller made his own.
    with torch.device(device):
        try:
            model = peft.get_peft_model(model, peft.get_peft_config(fields))
        except (ValueError, TypeError, KeyError) as error:
            hint = "Change its target modules or its rank."
            raise InputError(f"PEFT refuses this adapter: {_first(error)}", hint) from error
    if step.recast:
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            part.weight.data = part.weight.data.to(torch.bfloat16)
    if step.adapter_dtype in ("bf16", "fp16"):
        dtype = torch.bfloat16 if step.adapter_dtype == "bf16" else torch.float16
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    return model


def _switch_on(model: Any, step: Step) -> None:
    """What the trainer does to a model before an adapter is put on it."""
    import peft

    variant = {"use_reentrant": step.reentrant}
    model.config.use_cache = False
    model.train()
    if step.kbit_preparation:
        peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=step.checkpointing, gradient_checkpointing_kwargs=variant
        )
    if step.checkpointing:
        try:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=variant)
        except ValueError as error:
            raise Unsupported(_first(error), "Switch gradient checkpointing off.") from error


def materialize(model: torch.nn.Module) -> None:
    """Put tensors of the CPU where those of the meta device are; ties stay ties. Fake ones within a FakeTensorMode."""
    import torch
    from bitsandbytes.nn import Int8Params, Params4bit

    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in made:
                solid = _MAKERS.get(type(parameter).__name__, _plain)
                made[id(parameter)] = solid(module, parameter)
            module._parameters[name] = made[id(parameter)]
        for held in (module._buffers, vars(module)):
            for name, tensor in list(held.items()):
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    held[name] = torch.empty_like(tensor, device="cpu")
    assert not any(isinstance(parameter, Params4bit | Int8Params) for parameter in model.parameters())


def _plain(_module: Any, parameter: torch.Tensor) -> torch.nn.Parameter:
    import torch

    return torch.nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=parameter.requires_grad)


def _four_bit(module: Any, parameter: Any) -> torch.nn.Parameter:
    """A packed weight with its constants. A parameter of bitsandbytes cannot hold a fake tensor; a plain one can."""
    import torch
    from bitsandbytes.functional import QuantState

    count, block = module.in_features * module.out_features, parameter.blocksize
    blocks = -(count // -block)
    shared = {
        "shape": torch.Size((module.out_features, module.in_features)),
        "dtype": torch.bfloat16,
        "blocksize": block,
        "code": torch.empty(16),
        "quant_type": parameter.quant_type,
    }
    if parameter.compress_statistics:
        nested = QuantState(
            absmax=torch.empty(-(blocks // -256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
        )
        state = QuantState(
            absmax=torch.empty(blocks, dtype=torch.uint8), offset=torch.empty(()), state2=nested, **shared
        )
    else:
        state = QuantState(absmax=torch.empty(blocks), **shared)
    solid = torch.nn.Parameter(torch.empty((count + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    solid.quant_state, solid.bnb_quantized = state, True
    module.quant_state = state
    module.support_avx512bf16_for_cpu = False  # it would pack the weights for a kernel of the CPU
    return solid


def _int8(module: Any, _parameter: Any) -> torch.nn.Parameter:
    import torch

    data, scales = (
        torch.empty(module.out_features, module.in_features, dtype=torch.int8),
        torch.empty(module.out_features),
    )
    solid = torch.nn.Parameter(data, requires_grad=False)
    solid.CB, solid.SCB = data, scales
    module.state.CB, module.state.SCB = data, scales
    module.state.threshold, module.state.has_fp16_weights = 0.0, False
    module.init_8bit_state = lambda: None
    return solid


def _unpacked(module: Any) -> torch.Tensor:
    """The weight of a layer as DoRA takes its norm: a quantized one unpacked, before and after it has its constants."""
    import torch
    from bitsandbytes import functional

    weight = module.weight
    if state := getattr(weight, "quant_state", None):
        return functional.dequantize_4bit(weight.data, state)
    if (scales := getattr(weight, "SCB", None)) is not None:
        return functional.int8_vectorwise_dequant(weight.data, scales)
    if type(weight).__name__ in _MAKERS:
        return torch.empty(module.out_features, module.in_features, dtype=torch.bfloat16, device=weight.device)
    return weight


_MAKERS: dict[str, Callable[[Any, Any], Any]] = {"Params4bit": _four_bit, "Int8Params": _int8}


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
