"""From a config to facts: the model is built without weights, and two short texts tell what its layers remember."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from studio.errors import Unsupported
from studio.memory.architecture import Covers, Facts, Layer, Stored, Tensor
from studio.memory.request import Note
from studio.models import ModelRef, Precision

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

_MOST_LAYERS = 1000  # building takes time by the layer, and a broken config may ask for a billion
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_local_experts", "num_experts")
_SIZES = ("hidden_size", "n_embd", "d_model", "dim", "num_hidden_layers", "n_layer", "num_layers", "n_layers")
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, ImportError, OSError)
_NUMBER = re.compile(r"\.\d+(?=\.)")


def read_facts(config: Mapping[str, Any], stored: Stored | None = None) -> Facts:
    """All that a config tells, exactly. Imports transformers, and takes a second for 70 billion parameters.

    Where the model cannot be built, the facts are those of the headers alone; raises Unsupported where there are none.
    """
    try:
        read = _read(config)
        return _built(read, config, stored)
    except Unsupported as error:
        why = error
    except _BROKEN as error:
        why = _unbuildable(config, error)
    except BaseException as error:
        # The class belongs to huggingface_hub, which only studio/hub may import.
        if "StrictDataclassError" not in [kind.__name__ for kind in type(error).__mro__]:
            raise
        why = _unbuildable(config, error)
    if stored is None:
        raise why
    note = Note("headers-only", "warning", f"{why.message} What is said is its weights as stored, and no more.")
    model_type = str(config.get("model_type") or "unknown")
    return Facts(model_type, "headers", (), (), stored=stored, notes=(note,), config=dict(config), **_quantized(config))


def build(facts: Facts) -> PreTrainedModel:
    """The model of the facts on the meta device, in bf16, for whoever changes it. Raises Unsupported for headers."""
    from studio.loading.plan import LoadPlan
    from studio.loading.skeleton import build_skeleton

    read = _read(facts.config)
    kind, _ = _auto_class(read)
    return build_skeleton(read, LoadPlan(ModelRef("hub", "any/model"), Precision.BF16), kind).model


def _read(config: Mapping[str, Any]) -> PretrainedConfig:
    """The config as transformers understands it."""
    from transformers import CONFIG_MAPPING, AutoConfig

    name = config.get("model_type")
    if not isinstance(name, str) or not name:
        raise Unsupported("The config names no architecture.", "Choose a model whose config.json has a model_type.")
    if name not in CONFIG_MAPPING:
        own = "It runs its own code, which the studio does not execute." if "auto_map" in config else ""
        raise Unsupported(
            f"transformers does not know the architecture {name!r}. {own}".strip(),
            "Update transformers if the model is new, or choose another one.",
        )
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        if counts := [n for key in _COUNTS if isinstance(n := part.get(key), int) and n > _MOST_LAYERS]:
            raise Unsupported(f"The config asks for {counts[0]:,} layers or experts.", "Choose another model.")
    left_out = ("model_type", "auto_map", "quantization_config", "_attn_implementation")
    return AutoConfig.for_model(name, **{key: value for key, value in config.items() if key not in left_out})


def _unbuildable(config: Mapping[str, Any], error: BaseException) -> Unsupported:
    words = " ".join(str(error).split())[:200]
    return Unsupported(
        f"transformers cannot build a {config.get('model_type')} of this config: {type(error).__name__}: {words}",
        "Its config.json has a value that makes no sense. Choose another model.",
    )


def _built(read: PretrainedConfig, config: Mapping[str, Any], stored: Stored | None) -> Facts:
    # loading knows the weights of this package, so the two meet here and not while they are imported.
    from studio.loading.plan import LoadPlan
    from studio.loading.skeleton import build_skeleton

    kind, covers = _auto_class(read)
    plan = LoadPlan(ModelRef("hub", "any/model"), Precision.BF16)
    model = build_skeleton(read, plan, kind).model
    layers, unsure = _layers(model, covers)
    adapted = _adapted(model)
    quantized = build_skeleton(read, LoadPlan(plan.model, Precision.NF4), kind)
    packed = {module.name for module in quantized.modules if module.kind == "Linear4bit"}
    tensors = tuple(_grouped(_tensors(model, packed)))
    facts = Facts(
        read.model_type,
        covers,
        tensors,
        layers,
        **_sizes(read),
        **_quantized(config),
        adapted=adapted,
        stored=stored,
        config=dict(config),
    )
    notes = (*_coverage(facts, model), *unsure, *_assumed(config), *_compared(facts))
    return replace(facts, notes=notes)


def _auto_class(read: PretrainedConfig) -> tuple[Any, Covers]:
    """The class that the model is built with, and what of it is understood."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    causal = type(read) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    sees = read.model_type in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    blanks = any(str(name).endswith(("ForMaskedLM", "ForPreTraining")) for name in read.architectures or ())
    encoder = type(read) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(read, "is_decoder", False)
    if getattr(read, "is_encoder_decoder", False):
        if type(read) in transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            return transformers.AutoModelForSeq2SeqLM, "encoder-decoder"
        return transformers.AutoModel, "encoder-decoder"
    if encoder and (blanks or not read.architectures or not causal):
        return transformers.AutoModelForMaskedLM, "encoder"
    if causal:
        return transformers.AutoModelForCausalLM, "text and vision" if sees else "decoder"
    if sees:
        return transformers.AutoModelForImageTextToText, "text and vision"
    return transformers.AutoModel, "encoder"


def _tensors(model: PreTrainedModel, packed: set[str]) -> Iterable[Tensor]:
    """Every parameter and buffer once, tied ones where they come first."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from studio.loading.skeleton import held_dtypes

    always = held_dtypes(model, torch.bfloat16)
    in_fp16 = held_dtypes(model, torch.float16)
    seen: set[int] = set()
    for place, module in model.named_modules():
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            name = f"{place}.{own}" if place else own
            is_weight = own in module._parameters
            shape = tuple(tensor.shape)
            if isinstance(module, Conv1D) and own == "weight":
                shape = (shape[1], shape[0])  # GPT-2 holds its matrices the other way round
            yield Tensor(
                _NUMBER.sub(".*", name),
                type(module).__name__,
                shape,
                1,
                quantizes=is_weight and own == "weight" and place in packed,
                fp32=_keeps(always.get(name), in_fp16.get(name)) if is_weight else "",
                fixed=0 if is_weight else tensor.dtype.itemsize,
            )


def _keeps(always: torch.dtype | None, in_fp16: torch.dtype | None) -> Any:
    import torch

    return "always" if always is torch.float32 else "fp16" if in_fp16 is torch.float32 else ""


def _grouped(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    alike: dict[Tensor, int] = {}
    for tensor in tensors:
        alike[tensor] = alike.get(tensor, 0) + 1
    return (replace(tensor, count=count) for tensor, count in alike.items())


def _adapted(model: PreTrainedModel) -> tuple[str, ...]:
    """What PEFT means by all linear modules: every one but the head (peft/tuners/tuners_utils.py)."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    return tuple(dict.fromkeys(name.rpartition(".")[2] for name in linear))


def _layers(model: PreTrainedModel, covers: Covers) -> tuple[tuple[Layer, ...], list[Note]]:
    """What each layer remembers, by having the model read two and three tokens on the meta device."""
    if covers == "encoder-decoder":
        return _crossing(model.config), []
    if covers not in ("decoder", "text and vision"):
        return (), []
    try:
        two, three = _remembered(model, 2), _remembered(model, 3)
    except _BROKEN as error:
        text = model.config.get_text_config(decoder=True)
        heads, width = getattr(text, "num_key_value_heads", 0), getattr(text, "head_dim", 0)
        layer = Layer("full", int(getattr(text, "num_hidden_layers", 0)), 2 * int(heads or 0) * int(width or 0))
        said = f"What its layers remember is assumed to be full attention: it did not run without weights ({error})."
        return (layer,), [Note("cache-assumed", "warning", " ".join(said.split())[:300])]
    alike: dict[Layer, int] = {}
    latent = bool(getattr(model.config.get_text_config(decoder=True), "kv_lora_rank", None))
    for before, after in zip(two, three, strict=True):
        layer = _layer(before, after, latent=latent)
        alike[layer] = alike.get(layer, 0) + 1
    return tuple(replace(layer, count=count) for layer, count in alike.items()), []


def _crossing(read: PretrainedConfig) -> tuple[Layer, ...]:
    """Layers of a decoder that remember what they write, and, by cross attention, just as much of what was read."""
    text = read.get_text_config(decoder=True)
    sizes = _sizes(read)
    count = getattr(text, "num_decoder_layers", None) or getattr(text, "num_hidden_layers", 0)
    width = 2 * sizes["heads"] * sizes["head_dim"]
    return (Layer("full", int(count), width),) if count and width else ()


def _remembered(model: PreTrainedModel, tokens: int) -> list[tuple[Any, dict[str, tuple[int, int]]]]:
    """Of each layer the cache, and of each tensor in it how many numbers it has and how many bytes each takes."""
    import torch

    was, model.config._attn_implementation = model.config._attn_implementation, "eager"
    try:
        with torch.no_grad():
            read = model.eval()(torch.zeros((1, tokens), dtype=torch.long, device="meta"), use_cache=True)
    finally:
        model.config._attn_implementation = was
    cache = next(found for key in ("cache", "past_key_values", "cache_params") if (found := read.get(key)) is not None)
    return [(layer, dict(_held(vars(layer)))) for layer in cache.layers]


def _held(values: Mapping[Any, Any], path: str = "") -> Iterable[tuple[str, tuple[int, int]]]:
    import torch

    for key, value in values.items():
        if isinstance(value, torch.Tensor) and value.is_meta and value.numel() > 1:
            yield f"{path}{key}", (value.numel(), value.element_size())
        elif isinstance(value, dict):
            yield from _held(value, f"{path}{key}.")


def _layer(before: tuple[Any, Mapping[str, Any]], after: tuple[Any, Mapping[str, Any]], *, latent: bool) -> Layer:
    cache, held = before
    per_token = state = state_bytes = 0
    for name, (count, size) in held.items():
        grows = after[1][name][0] - count
        per_token += grows
        fixed = count - 2 * grows
        state += fixed if size == 2 else 0
        state_bytes += fixed * size if size != 2 else 0
    window = getattr(cache, "sliding_window", None)
    if not held:
        kind = "shared"
    elif not per_token:
        kind = "linear"
    else:
        kind = "hybrid" if state or state_bytes else "sliding" if window else "latent" if latent else "full"
    return Layer(kind, 1, per_token, state, state_bytes, window if per_token else None)


def _sizes(read: PretrainedConfig) -> dict[str, Any]:
    text = read.get_text_config(decoder=True)

    def number(*names: str) -> int:
        values = (getattr(text, name, None) for name in names)
        return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), 0)

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    experts = number("num_local_experts", "num_experts", "n_routed_experts")
    chosen = number("num_experts_per_tok", "top_k_experts") if experts else 0
    wide = number("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size") or 4 * hidden
    if experts:
        wide = chosen * (number("moe_intermediate_size") or wide) + number("shared_expert_intermediate_size")
    return {
        "hidden": hidden,
        "intermediate": wide,
        "heads": heads,
        "kv_heads": number("num_key_value_heads") or heads,
        "head_dim": number("head_dim") or (hidden // heads if heads else 0),
        "vocabulary": number("vocab_size"),
        "context": number("max_position_embeddings"),
        "tied": bool(getattr(read, "tie_word_embeddings", False)),
        "experts": experts,
        "experts_per_token": chosen,
    }


def _quantized(config: Mapping[str, Any]) -> dict[str, Any]:
    from studio.inspection.quantization import read_quantization

    how = read_quantization(config)
    if how is None:
        return {}
    return {
        "quantization": how.method,
        "quantization_bits": how.bits or 0,
        "quantization_group": how.group_size or 0,
    }


def _coverage(facts: Facts, model: PreTrainedModel) -> Iterable[Note]:
    """What is understood of a model that is more, or other, than a text that goes on."""
    if facts.covers == "text and vision":
        inner = model.get_decoder() if hasattr(model, "get_decoder") else model
        text = {id(p): p.numel() for part in (inner, model.get_output_embeddings()) if part for p in part.parameters()}
        count = sum(text.values())
        rest = facts.parameters - count
        said = f"The text part has {count / 1e9:.2f} billion parameters, what sees or hears {rest / 1e9:.2f} billion."
        yield Note("text-and-rest", "note", f"{said} Images are not counted; each adds its tokens to the context.")
    elif facts.covers == "encoder":
        yield Note("encoder", "warning", "An encoder: its weights are exact. It has no cache and writes no text.")
    elif facts.covers == "encoder-decoder":
        cache = "weights and cache are" if facts.layers else "its weights are"
        said = f"An encoder and a decoder: {cache} exact, what reading takes is rough."
        yield Note("encoder-decoder", "warning", f"{said} The prompt is what the encoder reads.")


def _assumed(config: Mapping[str, Any]) -> Iterable[Note]:
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    if not any(key in place for place in places for key in _SIZES):
        yield Note(
            "sizes-assumed",
            "warning",
            f"The config gives no sizes, so these are what transformers takes for a {config['model_type']} by itself.",
        )


def _compared(facts: Facts) -> Iterable[Note]:
    """Where headers and config disagree; a quantized checkpoint has other tensors anyway."""
    there, built = facts.stored.parameters if facts.stored else 0, facts.parameters
    if there and not facts.quantization and abs(there - built) > 0.01 * built:
        yield Note(
            "headers-differ",
            "warning",
            f"The files hold {there:,} weights and the architecture has {built:,}; what is loaded is the latter.",
        )
