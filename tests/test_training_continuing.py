"""An adapter is trained further where it belongs to the base and is whole, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapter_steps import error, learn, logits, reloaded, settings
from pico import byte_tokenizer, change_json, load_pico, save_adapter, save_pico
from training_shapes import made

from studio import training
from studio.errors import Damaged, InputError, Unsupported
from studio.models import Precision
from studio.training import adapt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose weights are large enough that what is learnt, and what is rounded, shows."""
    return save_pico(
        tmp_path_factory.mktemp("base") / "pico", hidden_size=64, intermediate_size=128, initializer_range=0.2
    )


@pytest.fixture
def adapter(folder, tmp_path) -> Path:
    return save_adapter(tmp_path / "adapter", folder)


def on(folder, adapter, **changes):
    return adapt(load_pico(folder).model, settings(adapter=str(adapter), **changes), byte_tokenizer())


def test_it_goes_on_as_it_was_and_is_trained(folder, adapter):
    adapted = on(folder, adapter, alpha=64)
    assert error(logits(adapted.model), logits(reloaded(load_pico(folder).model, adapter))) < 1e-6
    assert adapted.trainable > 0
    before = logits(adapted.model)
    learn(adapted.model)
    assert error(logits(adapted.model), before) > 1e-2


def test_what_the_studio_saved_goes_on_bit_for_bit(folder, tmp_path):
    first = adapt(load_pico(folder).model, settings(), byte_tokenizer())
    learn(first.model)
    training.save_adapter(first, tmp_path)
    second = on(folder, tmp_path)
    assert second.notes == ()
    assert torch.equal(logits(second.model), logits(first.model))


def test_another_rank_in_the_settings_is_said_to_be_of_no_use(folder, adapter):
    assert [note.id for note in on(folder, adapter, rank=32).notes] == ["lora-rank"]


def test_an_adapter_of_a_base_of_the_same_shape_is_refused(folder, tmp_path):
    other = made("llama", seed=7)
    training.save_adapter(adapt(other, settings(), byte_tokenizer()), tmp_path)
    with pytest.raises(InputError, match="another base"):
        adapt(made("llama", seed=8), settings(adapter=str(tmp_path)), byte_tokenizer())


def test_the_base_is_the_same_in_every_precision(folder, tmp_path):
    training.save_adapter(adapt(load_pico(folder).model, settings(), byte_tokenizer()), tmp_path)
    for precision in (Precision.BF16, Precision.NF4):
        model = load_pico(folder, precision=precision).model
        assert adapt(model, settings(adapter=str(tmp_path)), byte_tokenizer()).trainable


def test_an_adapter_of_other_widths_is_refused(adapter, pico):
    with pytest.raises(InputError, match="another base"):
        on(pico, adapter)


def test_an_adapter_of_another_architecture_is_refused(adapter):
    with pytest.raises(InputError, match="another base"):
        adapt(made("gpt2"), settings(adapter=str(adapter)), byte_tokenizer())


def test_a_config_that_names_half_of_it_is_found(folder, adapter):
    change_json(adapter / "adapter_config.json", target_modules=["q_proj"])
    with pytest.raises(Damaged, match="disagree"):
        on(folder, adapter)


def test_a_rank_that_the_file_does_not_have_is_found_before_room_is_made_for_it(folder, adapter):
    change_json(adapter / "adapter_config.json", r=10**9)
    with pytest.raises(Damaged, match="1000000000"):
        on(folder, adapter)


def test_numbers_that_are_none_are_found(folder, adapter):
    from safetensors.torch import load_file, save_file

    state = load_file(adapter / "adapter_model.safetensors")
    next(iter(state.values()))[0, 0] = float("nan")
    save_file(state, adapter / "adapter_model.safetensors")
    with pytest.raises(Damaged, match="not numbers"):
        on(folder, adapter)


@pytest.mark.parametrize(("kind", "says"), [("BONE", "MiSS"), ("LOHA", "LOHA")])
def test_other_kinds_are_refused_with_what_to_do(kind, says, folder, adapter):
    change_json(adapter / "adapter_config.json", peft_type=kind)
    with pytest.raises(Unsupported, match=says):
        on(folder, adapter)


def test_one_that_was_taken_out_of_a_base_and_not_converted_is_refused(folder, adapter):
    change_json(adapter / "adapter_config.json", init_lora_weights="pissa")
    with pytest.raises(Unsupported, match="pissa"):
        on(folder, adapter)


def test_pickles_and_empty_folders_are_refused(folder, adapter, tmp_path):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(Unsupported, match="safetensors"):
        on(folder, adapter)
    with pytest.raises(InputError, match="adapter_config"):
        on(folder, tmp_path)


def test_its_sketch_is_plain_numbers(folder, tmp_path):
    training.save_adapter(adapt(load_pico(folder).model, settings(), byte_tokenizer()), tmp_path)
    assert len(json.loads((tmp_path / "base.json").read_text())["embedding"]) == 128


def test_one_with_new_tokens_goes_on_where_they_are_named_again(folder, tmp_path):
    first = adapt(load_pico(folder).model, settings(new_tokens="<a> <b>"), byte_tokenizer())
    learn(first.model)
    training.save_adapter(first, tmp_path)
    second = adapt(load_pico(folder).model, settings(adapter=str(tmp_path), new_tokens="<a> <b>"), byte_tokenizer())
    assert torch.equal(logits(second.model), logits(first.model))
    assert second.trainable == first.trainable
    with pytest.raises(InputError, match="the vocabulary ends") as caught:
        adapt(load_pico(folder).model, settings(adapter=str(tmp_path)), byte_tokenizer())
    assert "same new tokens" in caught.value.hint


def test_one_without_new_tokens_gets_none(folder, adapter):
    tokenizer = byte_tokenizer()
    with pytest.raises(InputError, match="no new tokens"):
        adapt(load_pico(folder).model, settings(adapter=str(adapter), new_tokens="<a>"), tokenizer)
    assert tokenizer.convert_tokens_to_ids("<a>") in (None, tokenizer.unk_token_id)
