"""Checkpoints told without loading them: whole ones, and every way of being broken, really caused."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import struct
import time
from math import prod

import pytest
from pico import change_json, save_adapter

from studio import inspection
from studio.errors import Damaged, InputError, Unsupported
from studio.inspection import TensorEntry, compare, inspect_folder

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "U8": 1, "I8": 1, "F8_E4M3": 1}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 4,
    "num_attention_heads": 2,
    "vocab_size": 6,
    "tie_word_embeddings": True,
}


def header_of(tensors):
    """A sound header of name → (dtype, shape), and how many bytes come after it."""
    entries, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = prod(shape) * BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return entries, at


def write(file, entries, data):
    """A safetensors file with that header and so many zeros, which take no room on the disk."""
    text = json.dumps(entries).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + data)


def llama(layers, *, hidden=4, vocabulary=6, dtype="BF16", inner=8):
    """The tensors of a Llama, as far as names and shapes go."""
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for number in range(layers):
        at = f"model.layers.{number}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (hidden, inner)}
        shapes |= {f"{at}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    return {name: (dtype, shape) for name, shape in shapes.items()}


def shards(folder, tensors, count):
    """The tensors in so many files with their index."""
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    where = {tensor: names[number * count // len(tensors)] for number, tensor in enumerate(tensors)}
    for name in names:
        write(folder / name, *header_of({tensor: tensors[tensor] for tensor in tensors if where[tensor] == name}))
    total = sum(prod(shape) * BYTES[dtype] for dtype, shape in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return [folder / name for name in names]


@pytest.fixture
def model(tmp_path):
    """A folder with the config and headers of a Llama of two layers, a tokenizer and a template."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    write(folder / "model.safetensors", *header_of(llama(2)))
    return folder


@pytest.fixture
def sharded(model):
    (model / "model.safetensors").unlink()
    shards(model, llama(2), 3)
    return model


def ids(found, *severities):
    return [finding.id for finding in found.findings if finding.severity in (severities or ("error", "warning"))]


def finding(found, name):
    return next(one for one in found.findings if one.id == name)


def change_header(file, change):
    """Write the header of a file anew after `change` has been at it; the data keep their size."""
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    entries = json.loads(raw[8 : 8 + length])
    change(entries)
    write(file, entries, len(raw) - 8 - length)


# Whole


def test_a_model_is_told_by_its_numbers(pico):
    from transformers import AutoModelForCausalLM

    found = inspect_folder(pico)
    model = AutoModelForCausalLM.from_pretrained(pico)
    stored = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert {(one.name, one.shape, one.dtype) for one in found.tensors} == {
        (name, tuple(tensor.shape), "F32") for name, tensor in stored.items()
    }
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.bytes == 4 * found.parameters
    assert [(total.dtype, total.weights) for total in found.dtypes] == [("F32", found.parameters)]
    facts = found.architecture
    assert (facts.class_name, facts.layers, facts.hidden, facts.kv_heads) == ("LlamaForCausalLM", 2, 32, 2)
    assert (facts.tied, facts.context, facts.dtype) == (True, 512, "float32")
    assert found.tokenizer == inspection.Tokenizer(True, True, "chat_template.jinja")
    assert [one.id for one in found.findings] == ["head-tied"]


def test_layers_that_are_alike_are_told_once(model):
    tensors = llama(5) | {"model.layers.2.mlp.down_proj.weight": ("F32", (4, 8)), "lm_head.weight": ("BF16", (6, 4))}
    write(model / "model.safetensors", *header_of(tensors))
    found = inspect_folder(model)
    assert [group.name for group in found.groups] == ["embedding", "layers 0–1, 3–4", "layer 2", "norm", "head"]
    layers = found.groups[1]
    assert (layers.layers, layers.tensors, layers.parameters, layers.dtypes) == ((0, 1, 3, 4), 9, 168, ("BF16",))
    assert sum(max(1, len(g.layers)) * g.bytes for g in found.groups) == found.bytes
    assert sum(max(1, len(g.layers)) * g.parameters for g in found.groups) == found.parameters


def test_an_inspection_travels_and_is_plain_data(sharded):
    found = inspect_folder(sharded)
    assert pickle.loads(pickle.dumps(found)) == found
    plain = json.loads(json.dumps(dataclasses.asdict(found)))
    assert plain["tensors"][0]["shape"] == list(found.tensors[0].shape)
    assert ids(found) == []


def test_a_70b_of_thirty_shards_opens_in_two_seconds_and_takes_no_room(tmp_path):
    change = {"num_hidden_layers": 80, "hidden_size": 8192, "vocab_size": 128256, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
    tensors = llama(80, hidden=8192, vocabulary=128256, inner=28672)
    tensors |= {"lm_head.weight": ("BF16", (128256, 8192))}
    files = shards(tmp_path, tensors, 30)
    begin = time.monotonic()
    found = inspect_folder(tmp_path)
    assert time.monotonic() - begin < 8
    assert found.bytes == sum(file.stat().st_size for file in files) - sum(header_bytes(file) for file in files)
    assert found.parameters > 70e9
    assert [group.name for group in found.groups] == ["embedding", "layers 0–79", "norm", "head"]
    assert ids(found) == ["no-tokenizer"]


def header_bytes(file):
    with file.open("rb") as stream:
        return 8 + struct.unpack("<Q", stream.read(8))[0]


# Files that are broken


@pytest.mark.parametrize("content", [struct.pack("<Q", 2**60) + b"{}", b"", b"<html>", b"\xff" * 100])
def test_a_file_that_cannot_be_read_is_refused_and_one_of_several_is_a_finding(model, content):
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(Damaged, match=r"model\.safetensors is damaged"):
        inspect_folder(model)
    (model / "model.safetensors").unlink()
    files = shards(model, llama(2), 3)
    files[1].write_bytes(content)
    found = inspect_folder(model)
    assert ids(found) == ["file-unreadable"]
    assert files[1].name in finding(found, "file-unreadable").message
    assert {tensor.file for tensor in found.tensors} == {files[0].name, files[2].name}


def test_a_pointer_of_git_lfs_is_called_one(model):
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(Damaged, match="Git LFS pointer"):
        inspect_folder(model)


@pytest.mark.parametrize("change", [-1, -50, 3])
def test_a_file_that_is_cut_behind_its_header_is_still_shown(model, change):
    file = model / "model.safetensors"
    whole = inspect_folder(model)
    with file.open("ab") as stream:
        stream.truncate(file.stat().st_size + change)
    found = inspect_folder(model)
    assert ids(found) == ["file-cut"]
    assert found.tensors == whole.tensors


def test_a_dtype_that_is_none_and_one_that_does_not_fit_are_named(model):
    def change(entries):
        entries["model.norm.weight"]["dtype"] = "Q4_K"
        entries["model.embed_tokens.weight"]["dtype"] = "F32"

    change_header(model / "model.safetensors", change)
    found = inspect_folder(model)
    assert ids(found) == ["dtype-unknown", "dtype-bytes"]
    assert "model.norm.weight in model.safetensors has the dtype 'Q4_K'" in finding(found, "dtype-unknown").message
    assert "48 bytes, which F32 of [6, 4] does not" in finding(found, "dtype-bytes").message


def test_tensors_on_top_of_each_other_and_holes_are_named(model):
    def overlap(entries):
        entries["model.norm.weight"]["data_offsets"] = [40, 48]

    change_header(model / "model.safetensors", overlap)
    found = inspect_folder(model)
    assert ids(found) == ["offsets-overlap", "offsets-hole"]
    assert "model.norm.weight" in finding(found, "offsets-overlap").message


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2] * 100_000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**64]},
    ],
)
def test_sizes_that_no_file_can_have_are_refused_quickly(model, entry):
    write(model / "model.safetensors", {"a": entry}, 4)
    begin = time.monotonic()
    with pytest.raises(Damaged, match="header cannot be read"):
        inspect_folder(model)
    assert time.monotonic() - begin < 5


# Several files


def test_a_missing_shard_is_a_finding_and_the_rest_is_shown(sharded):
    gone = sharded / "model-00002-of-00003.safetensors"
    gone.unlink()
    found = inspect_folder(sharded)
    assert "shard-missing" in ids(found, "error")
    assert gone.name in finding(found, "shard-missing").message
    assert len({tensor.file for tensor in found.tensors}) == 2
    (sharded / "model.safetensors.index.json").unlink()
    assert {"shard-missing", "index-missing"} <= set(ids(inspect_folder(sharded), "error"))


def change_index(folder, change):
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def test_an_index_that_disagrees_with_its_files_is_told_tensor_by_tensor(sharded):
    first, *_, last = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]

    def change(where):
        where["model.ghost.weight"] = first
        where["model.embed_tokens.weight"] = last
        del where["model.norm.weight"]

    change_index(sharded, change)
    change_json(sharded / "model.safetensors.index.json", metadata={"total_size": 7})
    found = inspect_folder(sharded)
    assert ids(found) == ["index-absent-tensor", "index-wrong-file", "index-unnamed-tensor"]
    assert "model.ghost.weight" in finding(found, "index-absent-tensor").message
    assert "7 bytes in all" in finding(found, "index-total-size").message


def test_an_index_cannot_lead_out_of_the_folder(sharded):
    write(sharded.parent / "outside.safetensors", *header_of({"stolen": ("F32", (1,))}))
    change_index(sharded, lambda where: where.update(stolen="../outside.safetensors"))
    found = inspect_folder(sharded)
    assert "index-outside" in ids(found, "error")
    assert "stolen" not in [tensor.name for tensor in found.tensors]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_a_finding_and_the_shards_are_shown(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    found = inspect_folder(sharded)
    assert {"file-broken", "index-broken"} & set(ids(found, "error"))
    assert len(found.tensors) == len(llama(2))


# What is beside the weights


def test_pickles_are_shown_and_named_for_what_they_are(model):
    (model / "pytorch_model.bin").write_bytes(b"x")
    (model / "training_args.bin").write_bytes(b"x")
    found = inspect_folder(model)
    assert ids(found, "note") == ["pickle-beside", "head-tied"]
    assert found.unsafe == ("pytorch_model.bin", "training_args.bin")
    (model / "model.safetensors").unlink()
    found = inspect_folder(model)
    assert (ids(found), found.tensors) == (["pickle-only"], ())
    assert found.architecture.layers == 2


def test_a_folder_of_gguf_alone_is_told(tmp_path):
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    found = inspect_folder(tmp_path)
    assert ids(found, "error") == ["no-config", "gguf-only"]
    assert found.files[0].kind == "gguf"


def test_copies_in_other_layouts_are_not_counted(model):
    alone = inspect_folder(model)
    shutil.copy(model / "model.safetensors", model / "consolidated.safetensors")
    (model / "original").mkdir()
    (model / "original" / "consolidated.00.pth").write_bytes(b"x" * 10)
    found = inspect_folder(model)
    assert found.parameters == alone.parameters
    assert [file.name for file in found.files if file.read] == ["model.safetensors"]
    assert "2 files" in finding(found, "duplicate-layout").message


def test_an_adapter_is_told_as_one(pico, tmp_path):
    save_adapter(tmp_path, pico)
    found = inspect_folder(tmp_path)
    assert "adapter" in ids(found, "warning")
    assert not {"layers-missing", "no-config"} & set(ids(found))
    assert all("lora" in tensor.name for tensor in found.tensors)


def test_what_makes_tokens_and_chats_is_found_where_it_is(model):
    assert inspect_folder(model).tokenizer.chat_template == "tokenizer_config.json"
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert inspect_folder(model).tokenizer.chat_template == "chat_template.jinja"
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer_config.json").write_text("{}")
    (model / "tokenizer.json").rename(model / "tokenizer.model")
    assert ids(inspect_folder(model), "note") == ["head-tied", "slow-tokenizer", "no-chat-template"]
    (model / "tokenizer.model").unlink()
    assert ids(inspect_folder(model)) == ["no-tokenizer"]


# The config


def test_more_layers_in_the_config_than_in_the_file_is_an_error(model):
    change_json(model / "config.json", num_hidden_layers=5)
    found = inspect_folder(model)
    assert ids(found) == ["layers-missing"]
    assert "5 layers, and 3" in finding(found, "layers-missing").message
    change_json(model / "config.json", num_hidden_layers=1)
    assert ids(inspect_folder(model)) == ["layers-extra"]
    change_json(model / "config.json", num_hidden_layers=10**12)
    assert ids(inspect_folder(model, against_architecture=True)) == ["layers-missing"]


def test_a_config_of_another_architecture_is_an_error(model):
    gpt2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_embd": 8, "vocab_size": 50}
    (model / "config.json").write_text(json.dumps(gpt2))
    found = inspect_folder(model)
    assert ids(found, "error") == ["other-architecture", "embedding-shape"]
    assert "config is of gpt2" in finding(found, "other-architecture").message


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "\0"])
def test_a_broken_config_does_not_hide_the_tensors(model, content):
    (model / "config.json").write_text(content)
    found = inspect_folder(model)
    assert "file-broken" in ids(found, "error")
    assert len(found.tensors) == len(llama(2))


def test_values_of_any_kind_in_a_config_are_put_up_with(model):
    for value in (None, "x", [], {}, True, -1, 1.5):
        (model / "config.json").write_text(json.dumps(dict.fromkeys([*CONFIG, "quantization_config"], value)))
        assert len(inspect_folder(model).tensors) == len(llama(2))


@pytest.mark.parametrize(
    ("tied", "stored", "expected"),
    [
        (True, False, "head-tied"),
        (True, True, "head-stored"),
        (False, False, "head-missing"),
        (None, False, "head-unsaid"),
    ],
)
def test_the_head_is_told_tied_stored_or_missing(model, tied, stored, expected):
    (model / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": tied}))
    write(model / "model.safetensors", *header_of(llama(2) | ({"lm_head.weight": ("BF16", (6, 4))} if stored else {})))
    found = inspect_folder(model)
    assert [one.id for one in found.findings] == [expected]
    assert finding(found, expected).severity == ("error" if expected == "head-missing" else "note")


# Quantized already


@pytest.mark.parametrize(
    ("said", "method", "bits", "group"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq", 4, 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "awq", 4, 64),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8, None),
        ({"quant_method": "mxfp4"}, "mxfp4", 4, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes 4bit", 4, None),
        ({"load_in_8bit": True}, "bitsandbytes 8bit", 8, None),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
            },
            "compressed-tensors",
            4,
            32,
        ),
        (
            {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3, "group_size": 64}}},
            "hqq",
            3,
            64,
        ),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto", 8, None),
        ({"quant_method": "torchao"}, "torchao", None, None),
        ({"quant_method": "eetq"}, "eetq", 8, None),
        ({"quant_method": "aqlm", "in_group_size": 8}, "aqlm", 2, 8),
    ],
)
def test_the_method_is_read_where_each_one_says_it(model, said, method, bits, group):
    change_json(model / "config.json", quantization_config=said)
    how = inspect_folder(model).quantization
    assert (how.method, how.known, how.bits, how.group_size) == (method, True, bits, group)


def test_every_method_that_transformers_knows_is_known_and_no_other():
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    from studio.inspection.quantization import _METHODS

    named = {name.replace("_4bit", " 4bit").replace("_8bit", " 8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
    assert named - {"gguf"} == set(_METHODS)


def test_a_gptq_model_without_its_package_says_what_to_install(model):
    tensors = {
        f"model.layers.{number}.mlp.up_proj.{name}": shape
        for number in range(2)
        for name, shape in {
            "qweight": ("I32", (8, 16)),
            "qzeros": ("I32", (1, 2)),
            "scales": ("F16", (1, 16)),
            "g_idx": ("I32", (64,)),
        }.items()
    }
    write(model / "model.safetensors", *header_of(tensors))
    change_json(model / "config.json", quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64})
    found = inspect_folder(model)
    assert found.parameters == 2 * 64 * 16
    assert ids(found, "error") == ["quantization-package"]
    assert finding(found, "quantization-package").hint == "pip install optimum gptqmodel"
    assert not inspect_folder(model, against_architecture=True).comparison.checked


def test_a_method_that_nobody_knows_is_an_error(model):
    change_json(model / "config.json", quantization_config={"quant_method": "magic", "bits": 3})
    found = inspect_folder(model)
    assert ids(found, "error") == ["quantization-unknown"]
    assert "'magic', which transformers does not know and would silently ignore" in found.findings[0].message


def test_a_method_for_gpus_is_an_error_on_a_cpu(model):
    change_json(model / "config.json", quantization_config={"quant_method": "eetq"})
    assert "quantization-device" in ids(inspect_folder(model, device="cpu"))
    assert "quantization-device" not in ids(inspect_folder(model, device="cuda"))
    assert "quantization-device" not in ids(inspect_folder(model))


# Against the architecture


def saved(folder, config):
    """A model of that config with random weights on the disk, and what its headers say."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), list(inspect_folder(folder).tensors)


def small(kind, **more):
    import transformers

    shape = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if kind == "GPT2":
        shape = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 1}
    return getattr(transformers, f"{kind}Config")(**shape, **more)


EXPERTS = {
    "Mixtral": {"num_local_experts": 4, "num_key_value_heads": 2},
    "Qwen2Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 4},
}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *(("Llama", {"tie_word_embeddings": tied}) for tied in (True, False)),
        ("GPT2", {}),
        ("Phi3", {}),
        *EXPERTS.items(),
    ],
)
def test_a_whole_model_is_one_and_a_tensor_less_is_missed(tmp_path, kind, more):
    config, tensors = saved(tmp_path, small(kind, **more))
    told = compare(config, tensors)
    assert told.checked, told.reason
    assert (told.missing, told.unknown, told.mismatched) == ((), (), ())
    for gone in tensors[:: max(1, len(tensors) // 6)]:
        told = compare(config, [tensor for tensor in tensors if tensor is not gone])
        # One expert less makes the fused tensor of all of them too small.
        assert len(told.missing) + len(told.mismatched) >= 1, gone.name


@pytest.mark.parametrize(
    ("kind", "more"), [("GPT2", {}), ("Gemma", {"head_dim": 4}), ("Qwen2", {}), ("GPTNeoX", {}), *EXPERTS.items()]
)
def test_nothing_is_found_where_nothing_is_wrong(tmp_path, kind, more):
    saved(tmp_path, small(kind, **more))
    assert ids(inspect_folder(tmp_path, against_architecture=True)) == ["no-tokenizer"]


def test_gpt2_is_known_by_both_of_its_spellings(tmp_path):
    config, tensors = saved(tmp_path, small("GPT2"))
    assert all(tensor.name.startswith("transformer.") for tensor in tensors)
    short = [dataclasses.replace(tensor, name=tensor.name.removeprefix("transformer.")) for tensor in tensors]
    assert compare(config, short) == compare(config, tensors)
    old = TensorEntry("h.0.attn.bias", "F32", (1, 1, 8, 8), 256, "model.safetensors", 64)
    assert compare(config, [*short, old]).unknown == ()


def test_what_is_missing_is_what_transformers_misses(tmp_path):
    from transformers import AutoModelForCausalLM

    saved(tmp_path, small("Llama", tie_word_embeddings=False))
    change_json(tmp_path / "config.json", num_hidden_layers=3, tie_word_embeddings=False)
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    found = inspect_folder(tmp_path, against_architecture=True)
    assert set(found.comparison.missing) == set(info["missing_keys"]) != set()
    assert {"layers-missing", "tensors-missing"} <= set(ids(found, "error"))


def test_unknown_tensors_other_shapes_and_other_models_are_told(tmp_path):
    config, tensors = saved(tmp_path, small("Llama"))
    extra = TensorEntry("model.vision.weight", "F32", (1,), 4, "model.safetensors", 1)
    wide = dataclasses.replace(tensors[0], shape=(7, 7))
    told = compare(config, [wide, *tensors[1:], extra])
    assert (told.unknown, len(told.mismatched)) == (("model.vision.weight",), 1)
    other = json.loads(small("GPT2").to_json_string())
    (tmp_path / "config.json").write_text(json.dumps(other))
    found = inspect_folder(tmp_path, against_architecture=True)
    assert ids(found, "error").count("other-architecture") == 1


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "nowhere_to_be_found"},
        {"model_type": "vit"},
        {"model_type": "llama", "num_hidden_layers": 10**9},
        {"model_type": "llama", "hidden_size": "x"},
        {"model_type": "llama", "num_attention_heads": 0},
        {"model_type": "llama", "hidden_size": 2**40, "vocab_size": 2**40},
    ],
)
def test_a_config_that_nothing_can_be_built_from_is_not_checked_and_the_reason_is_given(config):
    told = compare(config, [TensorEntry("a", "F32", (1,), 4, "model.safetensors", 1)])
    assert not told.checked
    assert told.reason


def test_a_transformers_that_does_not_tell_its_names_is_put_up_with(pico, monkeypatch):
    from transformers import core_model_loading

    monkeypatch.delattr(core_model_loading, "rename_source_key")
    found = inspect_folder(pico, against_architecture=True)
    assert not found.comparison.checked
    assert "rename_source_key" in found.comparison.reason
    assert ids(found) == []


# What is not a model


def test_no_folder_and_no_model_are_refused(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        inspect_folder(tmp_path / "nowhere")
    with pytest.raises(Unsupported, match=r"no config\.json"):
        inspect_folder(tmp_path)
