"""An adapter goes on a model in memory and off again, at a strength, and the model is as it was, to the last bit."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from adapter_steps import error, logits, reloaded
from adapter_variants import disturb, on_top, save_variant
from pico import change_json, save_adapter, save_pico
from safetensors.torch import load_file, save_file

from studio import adapters
from studio.errors import Damaged, DoesNotFit, Unsupported

_FILE, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


def plain(base):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base).eval()


def said(model, folder, strength=1.0):
    """What a model says with an adapter on it, and the bytes that it took."""
    with adapters.unchanged(model):
        put = adapters.attach(model, adapters.read(folder), strength)
        return logits(put.model), put.bytes


def state(model):
    """Everything of a model that PEFT changes."""
    return (
        [(name, type(module), sorted(vars(module))) for name, module in model.named_modules()],
        [(name, parameter.requires_grad, parameter.data_ptr()) for name, parameter in model.named_parameters()],
    )


def with_peft(base, folder, kind, **config):
    """An adapter of another type than LoRA with random weights."""
    import peft

    settings = getattr(peft, kind)(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **config)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = peft.get_peft_model(plain(base), settings)
        disturb(adapted)
        adapted.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("all linear", True), ("rsLoRA", True), ("patterns", True), ("orthogonal", True), ("biases of its own", True),
        ("GPT-2", True), ("Mixtral", True), ("DoRA", False),
    ],
)  # fmt: skip
def test_it_says_what_peft_says_and_leaves_the_model_as_it_was(name, scales, tmp_path):
    base, folder = save_variant(name, tmp_path)
    model = plain(base)
    before, was = logits(model), state(model)
    adapter = adapters.read(folder)
    adapters.check_attachable(adapter, model)
    assert adapters.apart(adapter, model) == ""
    found, took = said(model, folder)
    assert torch.equal(found, logits(on_top(base, folder)))
    assert error(before, found) > 1e-3
    assert took == 4 * adapter.parameters
    nothing, _ = said(model, folder, 0.0)
    assert torch.equal(nothing, before) is scales
    assert (adapters.no_strength(adapter) == "") is scales
    assert torch.equal(logits(model), before)
    assert state(model) == was


@pytest.mark.parametrize(
    ("kind", "config", "scales"),
    [
        ("LoHaConfig", {"r": 4}, True), ("LoKrConfig", {"r": 4}, True),
        ("IA3Config", {"feedforward_modules": ["down_proj"]}, False), ("MissConfig", {"r": 4}, False),
    ],
)  # fmt: skip
def test_so_do_adapters_of_other_types(kind, config, scales, pico, tmp_path):
    folder, model = with_peft(pico, tmp_path / "adapter", kind, **config), plain(pico)
    before, was, adapter = logits(model), state(model), adapters.read(folder)
    assert adapters.apart(adapter, model) == ""
    found, _ = said(model, folder)
    assert torch.equal(found, logits(reloaded(plain(pico), folder)))
    assert error(before, found) > 1e-4
    assert (adapters.no_strength(adapter) == "") is scales
    assert torch.equal(said(model, folder, 0.0)[0], before) is scales
    assert torch.equal(logits(model), before)
    assert state(model) == was


def test_half_the_strength_is_half_the_update(pico, tmp_path):
    folder = save_adapter(tmp_path / "whole", pico)
    half = save_adapter(tmp_path / "half", pico)
    change_json(half / _CONFIG, lora_alpha=32)  # of 64
    model = plain(pico)
    assert torch.equal(said(model, folder, 0.5)[0], said(model, half)[0])
    assert not torch.equal(said(model, folder, 1.5)[0], said(model, folder)[0])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("norms", "whole tensors"), ("tokens, tied", "rows for tokens"), ("biases that are trained", "whole tensors"),
        ("a larger vocabulary, tied", "whole tensors"),
    ],
)  # fmt: skip
def test_what_would_change_the_base_is_named_and_has_no_strength(name, why, tmp_path):
    base, folder = save_variant(name, tmp_path)
    adapter = adapters.read(folder)
    assert why in adapters.apart(adapter, plain(base))
    assert why in adapters.no_strength(adapter)


def test_an_adapter_that_takes_its_start_out_of_the_weights_needs_a_base_of_its_own(pico, tmp_path):
    folder, model = save_adapter(tmp_path / "pissa", pico), plain(pico)
    change_json(folder / _CONFIG, init_lora_weights="pissa")
    adapter = adapters.read(folder)
    assert "pissa, which changes the weights" in adapters.apart(adapter, model)
    assert "not the model itself" in adapters.no_strength(adapter)
    before = logits(model)
    said(model, folder)
    assert not torch.equal(logits(model), before)  # so it is right to keep it away


def test_one_that_does_not_fit_leaves_no_layer_behind(pico, tmp_path):
    wide = save_pico(tmp_path / "wide", hidden_size=64)
    model = plain(pico)
    before, was = logits(model), state(model)
    with pytest.raises(Unsupported, match="does not fit"):
        said(model, save_adapter(tmp_path / "adapter", wide))
    assert state(model) == was
    assert torch.equal(logits(model), before)


def test_a_broken_one_and_one_of_another_base_are_refused(pico, tmp_path):
    from studio.adapters.sketch import sketch, write_sketch

    folder, model = save_adapter(tmp_path / "adapter", pico), plain(pico)
    rows = model.get_input_embeddings().weight
    write_sketch(folder, sketch(rows))
    adapters.check_attachable(adapters.read(folder), model)
    write_sketch(folder, sketch(rows + 1))
    with pytest.raises(Unsupported, match="trained on another base"):
        adapters.check_attachable(adapters.read(folder), model)
    write_sketch(folder, sketch(rows))
    tensors = load_file(folder / _FILE)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] * float("nan")}, folder / _FILE)
    with pytest.raises(Damaged, match="not numbers"):
        adapters.check_attachable(adapters.read(folder), model)


def test_one_that_finds_no_room_is_refused(pico, tmp_path, monkeypatch):
    monkeypatch.setattr("studio.compute.free_memory", lambda: 1)
    with pytest.raises(DoesNotFit, match="beside the model"):
        adapters.check_attachable(adapters.read(save_adapter(tmp_path / "adapter", pico)), plain(pico))


def test_hooks_that_come_and_go_meanwhile_do_not_hurt_those_that_were_there(pico, tmp_path):
    model, heard = plain(pico), []
    handle = model.model.layers[0].register_forward_pre_hook(lambda *_: heard.append("own"))
    with ExitStack() as stack:
        stack.enter_context(adapters.unchanged(model))
        put = adapters.attach(model, adapters.read(Path(save_adapter(tmp_path / "adapter", pico))))
        put.model.model.model.layers[0].register_forward_pre_hook(lambda *_: heard.append("left behind"))
    logits(model)
    assert heard == ["own"]
    handle.remove()
    logits(model)
    assert heard == ["own"]
