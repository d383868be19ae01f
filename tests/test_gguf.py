"""GGUF files: read from their header, opened by transformers, and broken in every way we could think of."""

from __future__ import annotations

import struct

import pytest
from gguf_files import header, pair, tensor, text, write_gguf
from pico import load_pico, save_pico

from studio.errors import Damaged, Unsupported
from studio.gguf import is_gguf, load_options, read_gguf, weight_options

ARCHITECTURE = pair("general.architecture", "llama")
TOKENIZER = pair("tokenizer.ggml.model", "gpt2")
WEIGHT = tensor("token_embd.weight", (32, 2))


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A pico Llama whose numbers are none of the defaults, so that each must have come from the file."""
    folder = tmp_path_factory.mktemp("source")
    return save_pico(folder, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-4)


@pytest.fixture(scope="session")
def written(source, tmp_path_factory):
    """The same Llama as GGUF files of several types."""
    folder = tmp_path_factory.mktemp("gguf")
    return {kind: write_gguf(source, folder / f"pico-{kind}.gguf", kind) for kind in ("F32", "F16", "Q8_0", "Q4_0")}


@pytest.fixture
def file(tmp_path):
    """Write a file of these bytes."""

    def write(content):
        (tmp_path / "some.gguf").write_bytes(content)
        return tmp_path / "some.gguf"

    return write


def logits(model):
    import torch

    with torch.inference_mode():
        return model(torch.arange(5, 69)[None]).logits.float()


def opened(file, dtype):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=dtype, output_loading_info=True, **weight_options(file)
    )


# Whole


def test_a_file_tells_what_it_holds(written, source):
    facts = read_gguf(written["Q8_0"])
    model = load_pico(source).model
    assert (facts.architecture, facts.name, facts.quantization) == ("llama", "pico", "Q8_0")
    assert (facts.context, facts.layers, facts.has_chat_template) == (512, 2, True)
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert facts.largest == model.get_input_embeddings().weight.numel()
    assert facts.dequantized_bytes(2.0) == 2 * facts.parameters
    assert facts.bytes == written["Q8_0"].stat().st_size
    assert (facts.supported, facts.why_not, facts.caveats) == (True, "", ())


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_types_and_bytes_are_those_of_the_gguf_package(written, kind):
    from gguf import GGUFReader

    facts = read_gguf(written[kind])
    theirs = [(t.tensor_type.name, t.n_bytes) for t in GGUFReader(written[kind]).tensors]
    assert facts.quantization == kind
    assert {t.name: (t.count, t.bytes) for t in facts.types} == {
        name: (sum(n == name for n, _ in theirs), sum(size for n, size in theirs if n == name)) for name, _ in theirs
    }


def test_the_table_of_types_is_that_of_the_gguf_package():
    from gguf import GGML_QUANT_SIZES

    from studio import gguf

    theirs = {kind.value: (kind.name, *size) for kind, size in GGML_QUANT_SIZES.items()}
    assert theirs.items() <= gguf._TYPES.items()  # an older package knows fewer


def test_the_magic_tells_a_gguf_file(written, file, tmp_path):
    assert is_gguf(written["F32"])
    assert not is_gguf(file(b"<!DOCTYPE html>"))
    assert not is_gguf(file(b""))
    assert not is_gguf(tmp_path / "nowhere.gguf")


# Opened


@pytest.mark.parametrize(("kind", "error"), [("F32", 1e-5), ("F16", 1e-3), ("Q8_0", 0.02), ("Q4_0", 0.3)])
def test_transformers_opens_it_with_the_numbers_of_the_original(written, source, kind, error):
    import torch

    original = logits(load_pico(source).model)
    model, info = opened(written[kind], torch.float32)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    difference = (logits(model) - original).norm() / original.norm()
    assert difference <= error
    assert kind == "F32" or difference > 1e-6


def test_the_weights_are_unpacked_in_the_precision_asked_for(written):
    import torch

    facts = read_gguf(written["Q4_0"])
    model, _ = opened(written["Q4_0"], torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert sum(p.numel() * p.element_size() for p in model.parameters()) == facts.dequantized_bytes(2.0)
    assert not hasattr(model.config, "quantization_config")


def test_config_and_tokenizer_come_from_the_same_file(written, source):
    from transformers import AutoConfig, AutoTokenizer

    file = written["Q8_0"]
    config = AutoConfig.from_pretrained(file.parent, **load_options(file))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **load_options(file))
    ours = AutoTokenizer.from_pretrained(source)
    assert (config.rms_norm_eps, config.rope_parameters["rope_theta"]) == (pytest.approx(1e-4), 500.0)
    assert tokenizer("Grüße <|end|>\n")["input_ids"] == ours("Grüße <|end|>\n")["input_ids"]
    assert tokenizer.chat_template == ours.chat_template
    assert tokenizer.eos_token == "<|end|>"


# Not supported


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([pair("general.architecture", "clip"), TOKENIZER], "does not open clip models"),
        ([pair("general.architecture", "tokenizer"), TOKENIZER], "does not open tokenizer models"),
        ([pair("general.architecture", "deci"), TOKENIZER], "deci is no model of transformers"),
        ([pair("general.architecture", "t5"), TOKENIZER], "t5 is no model of transformers that generates"),
        ([ARCHITECTURE, TOKENIZER, pair("general.type", "adapter")], "no model but its adapter"),
        ([ARCHITECTURE, TOKENIZER, pair("split.count", 3)], "one of 3 parts"),
        ([ARCHITECTURE], "has no tokenizer"),
        ([ARCHITECTURE, pair("tokenizer.ggml.model", "rwkv")], r"tokenizer \(rwkv\)"),
    ],
)
def test_what_transformers_cannot_open_says_why(file, pairs, why):
    import re

    facts = read_gguf(file(header(*pairs, tensors=(WEIGHT,), data=256)))
    assert not facts.supported
    assert re.search(why, facts.why_not)


@pytest.mark.parametrize(("architecture", "kind", "why"), [("llama", 24, "I8"), ("lfm2", 6, "Q5_0 of lfm2")])
def test_a_type_that_nobody_unpacks_is_named(file, architecture, kind, why):
    weights = tensor("a.weight", (32, 1), kind)
    facts = read_gguf(file(header(pair("general.architecture", architecture), TOKENIZER, tensors=(weights,), data=64)))
    assert facts.why_not == f"transformers cannot unpack {why}"


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3moe", "gemma3", "gpt-oss", "qwen35"])
def test_an_architecture_under_the_name_of_gguf_is_known(file, architecture):
    assert read_gguf(
        file(header(pair("general.architecture", architecture), TOKENIZER, tensors=(WEIGHT,), data=256))
    ).supported


def test_positions_that_transformers_would_not_scale_are_a_caveat(file):
    factors = tensor("rope_freqs.weight", (4,), offset=256)
    (caveat,) = read_gguf(file(header(ARCHITECTURE, TOKENIZER, tensors=(WEIGHT, factors), data=512))).caveats
    assert "scaling of positions (llama3)" in caveat
    yarn = pair("llama.rope.scaling.type", "yarn")
    assert "(yarn)" in read_gguf(file(header(ARCHITECTURE, TOKENIZER, yarn, tensors=(WEIGHT,), data=256))).caveats[0]


# Broken


def test_a_file_cut_anywhere_is_damaged(written, file):
    whole = written["Q4_0"].read_bytes()
    for size in [*range(0, 400, 7), 1000, 5000, len(whole) // 2, len(whole) - 40]:
        with pytest.raises(Damaged, match=r"^some\.gguf is damaged"):
            read_gguf(file(whole[:size]))


def test_a_flipped_byte_in_the_header_never_ends_in_another_error(written, file):
    whole = written["Q4_0"].read_bytes()
    for place in range(0, 3000, 11):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        try:
            read_gguf(file(broken))
        except (Damaged, Unsupported):
            continue


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"<!DOCTYPE html><html></html>",
            b"\0" * 64,
            b"\xff" * 64,
            b"GGUF" + b"\xff" * 2,
            b"GGUF" + struct.pack("<I", 3),
        ),
        *(header(pair_count=2**60), header(tensor_count=2**60), header(), header(pair("a", "b"))),
        header(struct.pack("<Q", 2**60) + b"key"),
        header(text(b"\xff\xfe") + struct.pack("<II", 4, 1)),
        header(text("a") + struct.pack("<I", 77)),
        header(text("a") + struct.pack("<IIQ", 9, 4, 2**62)),
        header(text("a") + struct.pack("<IIQ", 9, 4, 1000)),
        header(text("a") + struct.pack("<IIQQ", 9, 8, 2, 2**63)),
        header(text("a") + struct.pack("<IIQ", 9, 9, 1)),
        *(header(ARCHITECTURE, pair("general.alignment", number)) for number in (0, 3)),
        header(pair("general.architecture", 7)),
        header(ARCHITECTURE, tensors=(tensor("a", (2**40, 2**40)),), data=64),
        header(ARCHITECTURE, tensors=(tensor("a", (1,) * 9),), data=64),
        header(ARCHITECTURE, tensors=(tensor("a", (33,), 2),), data=64),
        header(ARCHITECTURE, tensors=(tensor("a", (1,), offset=2**63),), data=64),
        header(ARCHITECTURE, tensors=(tensor("a", (1,)), tensor("a", (1,))), data=64),
    ],
)
def test_what_makes_no_sense_is_damaged(file, content):
    with pytest.raises(Damaged, match=r"^some\.gguf is damaged: it|^some\.gguf is damaged: "):
        read_gguf(file(content))


@pytest.mark.parametrize("content", [header(ARCHITECTURE, version=1), header(ARCHITECTURE, version=3 << 24)])
def test_another_version_of_the_format_is_not_read(file, content):
    with pytest.raises(Unsupported, match="of version"):
        read_gguf(file(content))


def test_a_type_of_tomorrow_is_not_guessed_at(file):
    with pytest.raises(Unsupported, match="of type 99"):
        read_gguf(file(header(ARCHITECTURE, tensors=(tensor("a", (1,), 99),), data=64)))
