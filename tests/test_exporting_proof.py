"""The proof of a GGUF file: what is right passes in every kind, and one bit, row or word that is not is named."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from exporting_steps import QWEN2, save_model, split_by, trained

from studio import gguf
from studio.errors import Damaged
from studio.exporting import KINDS
from studio.exporting.proving import check_head, check_texts, check_weights, opened
from studio.exporting.shape import read_shape
from studio.exporting.texts import probes
from studio.exporting.vocabulary import read_vocabulary
from studio.exporting.writing import general, placed, write
from studio.loading.outlook import read_config
from studio.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def meant(llama):
    """What the file of the Llama is meant to be."""
    tokenizer = load_tokenizer(llama)
    shape = read_shape(read_config(llama))
    texts = probes(tokenizer)
    return shape, read_vocabulary(llama, tokenizer, shape.vocabulary, texts, lambda: None), tokenizer, texts


@pytest.fixture(scope="module")
def packed(llama, meant, tmp_path_factory):
    """The same Llama in every kind."""
    place = tmp_path_factory.mktemp("gguf")
    shape, vocabulary, _, _ = meant
    for kind in KINDS:
        said = general("llama", kind)
        write(place / kind, shape, vocabulary, placed(llama, shape, kind), said, lambda _: None)
    return {kind: place / kind for kind in KINDS}


def test_every_kind_is_what_it_says_and_the_smaller_the_further_off(llama, packed, meant):
    errors = {}
    for kind, file in packed.items():
        facts = gguf.read_gguf(file)
        assert (facts.quantization, facts.supported) == (kind, True)
        errors[kind] = check_weights(opened(file), placed(llama, meant[0], kind), lambda _: None)
    order = ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]
    assert sorted(errors, key=lambda kind: errors[kind]) == order
    assert errors["F32"] == 0 < 0.001 < errors["Q8_0"] < 0.02 < errors["Q4_0"] < 0.15
    sizes = [packed[kind].stat().st_size for kind in ("F32", "F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_one_weight_that_is_off_is_found(kind, llama, packed, meant, tmp_path):
    file = shutil.copyfile(packed[kind], tmp_path / "x.gguf")
    tensors = placed(llama, meant[0], kind)
    entry = next(t for t in opened(file).tensors if t.name == "blk.1.ffn_up.weight")
    content = bytearray(file.read_bytes())
    # The last byte of a value, or of the packed numbers of a block.
    content[entry.data_offset + entry.n_bytes - 1] ^= 0x44
    file.write_bytes(content)
    with pytest.raises(Damaged, match=r"blk\.1\.ffn_up\.weight"):
        check_weights(opened(file), tensors, lambda _: None)


def test_rows_in_the_order_of_the_folder_would_be_found(llama, packed, meant):
    tensors = [replace(tensor, head_rows=0) for tensor in placed(llama, meant[0], "F32")]
    with pytest.raises(Damaged, match=r"blk\.0\.attn_[qk]\.weight"):
        check_weights(opened(packed["F32"]), tensors, lambda _: None)


def test_another_word_in_the_head_would_be_found(packed, meant):
    shape, vocabulary, _, _ = meant
    reader, said = opened(packed["F32"]), general("llama", "F32")
    check_head(reader, shape, vocabulary, said)
    wrong = [
        (replace(shape, pairs={**shape.pairs, "llama.rope.freq_base": 501.0}), vocabulary),
        (replace(shape, frequencies=(1.0, 2.0)), vocabulary),
        (shape, replace(vocabulary, merges=vocabulary.merges[1:])),
        (shape, replace(vocabulary, pairs={**vocabulary.pairs, "tokenizer.chat_template": "another"})),
    ]
    for one, other in wrong:
        with pytest.raises(Damaged, match="does not read back"):
            check_head(reader, one, other, said)


def test_text_that_becomes_other_tokens_would_be_found(packed, meant):
    _, _, tokenizer, texts = meant
    reader = opened(packed["F32"])
    assert check_texts(reader, tokenizer, texts) == len(texts) > 5_000
    with pytest.raises(Damaged, match="the tokens of"):
        check_texts(reader, trained(split_by(QWEN2)), texts)
