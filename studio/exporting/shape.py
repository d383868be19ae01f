"""From the config of a model to the numbers and names by which llama.cpp builds the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studio.errors import Unsupported

Pairs = dict[str, str | int | float | bool]

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
ELSEWHERE = "llama.cpp converts more than the studio does; the command for it is given."
_OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_HEAD = {"lm_head.weight": "output.weight"}
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_OF_ITS_OWN = {
    "llama": {},
    "qwen2": {f"self_attn.{part}_proj.bias": f"attn_{part}.bias" for part in "qkv"},
    "qwen3": {f"self_attn.{part}_norm.weight": f"attn_{part}_norm.weight" for part in "qk"},
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model as llama.cpp builds it."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int
    tied: bool
    """Whether the embedding is the head too, so that the file has it once."""
    pairs: Pairs
    """What the file says of it, by key."""
    frequencies: tuple[float, ...] = ()
    """What each frequency of the positions is divided by; empty where they are left alone."""

    @property
    def interleaved(self) -> bool:
        """Whether queries and keys have their rows in another order: llama.cpp turns neighbours here, not halves."""
        return self.architecture == "llama"

    def names(self) -> dict[str, str]:
        """The name of every tensor in the folder → its name in the file, in the order of the file."""
        layer = _LAYER | _OF_ITS_OWN[self.architecture]
        inner = {
            f"model.layers.{number}.{own}": f"blk.{number}.{theirs}"
            for number in range(self.layers)
            for own, theirs in layer.items()
        }
        return _OUTSIDE | ({} if self.tied else _HEAD) | inner


def read_shape(config: Any) -> Shape:
    """The shape of a model by its config, as transformers reads it. Raises Unsupported where it has no equal."""
    if config.model_type not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise Unsupported(f"The studio writes GGUF files of {known}, and this is {config.model_type}.", ELSEWHERE)
    architecture = _ARCHITECTURES[config.model_type]
    _check_plain(config)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    own: Pairs = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": head_dim,
        "vocab_size": config.vocab_size,
    }
    scaling, frequencies = _positions(config, architecture, head_dim)
    return Shape(
        architecture=architecture,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        pairs={f"{architecture}.{key}": value for key, value in (own | scaling).items()},
        frequencies=frequencies,
    )


def _check_plain(config: Any) -> None:
    """Raise Unsupported for what llama.cpp would leave out in silence."""
    odd = {
        f"its activation is {config.hidden_act}": config.hidden_act != "silu",
        "its attention or its layers have a bias": getattr(config, "attention_bias", False)
        or getattr(config, "mlp_bias", False),
        "its attention looks back a limited way": _slides(config),
        "it was quantized already": getattr(config, "quantization_config", None) is not None,
    }
    if found := [what for what, is_so in odd.items() if is_so]:
        raise Unsupported(
            f"The studio cannot write this {config.model_type} as GGUF: {found[0]}.",
            "Export the model that it was made from." if "quantized" in found[0] else ELSEWHERE,
        )


def _slides(config: Any) -> bool:
    window = getattr(config, "sliding_window", None)
    switched_on = getattr(config, "use_sliding_window", True)
    return bool(window and switched_on and window < config.max_position_embeddings)


def _positions(config: Any, architecture: str, head_dim: int) -> tuple[Pairs, tuple[float, ...]]:
    """What the file says of how positions are scaled, and the divisors of the frequencies. Raises Unsupported."""
    rope = dict(config.rope_parameters)
    kind = rope.get("rope_type", "default")
    if rope.get("partial_rotary_factor") not in (None, 1.0):
        kind = "partial"
    if kind == "default":
        return {}, ()
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}, ()
    if kind == "llama3" and architecture == "llama":
        return {}, _llama3(rope, config, head_dim)
    raise Unsupported(
        f"The positions of this {config.model_type} are scaled in a way ({kind}) that the studio does not write.",
        ELSEWHERE,
    )


def _llama3(rope: dict[str, Any], config: Any, head_dim: int) -> tuple[float, ...]:
    """Unscaled frequency / scaled one, of each pair of a head."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = [rope["rope_theta"] ** (-place / head_dim) for place in range(0, head_dim, 2)]
    return tuple(one / float(other) for one, other in zip(plain, scaled, strict=True))
