"""Small GGUF files of a Llama, written with the gguf package, and headers put together by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def write_gguf(source: Path, file: Path, kind: str = "F32", **extra: Any) -> Path:
    """Write the Llama in the folder `source` as GGUF, its matrices of type `kind`; return the file.

    `extra` are metadata: texts and whole numbers, with __ for a dot in their names.
    """
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    writer = gguf.GGUFWriter(file, "llama")
    _add_shape(writer, model.config)
    _add_tokenizer(writer, source)
    for key, value in extra.items():
        name = key.replace("__", ".")
        writer.add_string(name, value) if isinstance(value, str) else writer.add_uint32(name, value)
    writer.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(kind, f"MOSTLY_{kind}")])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if count := heads.get(name.split(".")[-2]):
            values = _interleaved(values, count)
        # One-dimensional weights stay whole, as in every GGUF file.
        own = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight",)), gguf.quants.quantize(values, own), raw_dtype=own
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _interleaved(values: Any, heads: int) -> Any:
    """Rows of queries or keys in the order of GGUF, which rotates neighbours instead of halves."""
    return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def _add_shape(writer: Any, config: Any) -> None:
    writer.add_name("pico")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, source: Path) -> None:
    import gguf

    saved = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    special = {entry["content"] for entry in saved["added_tokens"]}
    tokens = [token for token, _ in sorted(saved["model"]["vocab"].items(), key=lambda item: item[1])]
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Without merges, as the writer leaves out an empty list, transformers makes them up from the scores.
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_chat_template((source / "chat_template.jinja").read_text(encoding="utf-8"))


def text(value: str | bytes) -> bytes:
    """A text as GGUF holds it."""
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def header(*pairs: bytes, tensors: tuple[bytes, ...] = (), data: int = 0, **claims: int) -> bytes:
    """A whole GGUF file; `claims` override its version, tensor count and pair count."""
    start = struct.pack(
        "<4sIQQ",
        b"GGUF",
        claims.get("version", 3),
        claims.get("tensor_count", len(tensors)),
        claims.get("pair_count", len(pairs)),
    )
    content = start + b"".join((*pairs, *tensors))
    return content + bytes(-len(content) % 32 + data)


def pair(key: str, value: str | int) -> bytes:
    """A key and a text or a number of 32 bits."""
    return text(key) + (struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value))


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """The entry of a tensor."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
