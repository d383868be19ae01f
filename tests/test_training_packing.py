"""Packing is trusted where the model itself shows that rows stay apart, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from pico import byte_tokenizer, load_pico
from training_shapes import made

from studio import training
from studio.models import Precision


@pytest.mark.parametrize("shape", ["llama", "qwen2", "gpt2", "mistral", "phi3", "mixtral"])
def test_rows_stay_apart_where_positions_tell_of_them(shape):
    found = training.packs_apart(made(shape))
    assert found.apart, found.reason
    assert found.error < 1e-5


@pytest.mark.parametrize("shape", ["opt", "mamba"])
def test_rows_that_see_each_other_are_found(shape):
    found = training.packs_apart(made(shape))
    assert not found.apart
    assert found.error > 1e-2
    assert found.reason


def test_gemma_is_apart_as_it_is_trained():
    # transformers refuses sdpa for it, so this is the eager attention.
    assert training.packs_apart(made("gemma2")).apart


def test_a_test_that_forgot_the_positions_would_notice(monkeypatch):
    model = made("llama")
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda **options: plain(**{**options, "position_ids": None}))
    assert not training.packs_apart(model).apart


def test_a_cache_that_is_on_would_mix_them(monkeypatch):
    model = made("llama")
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda **options: plain(**{**options, "use_cache": True}))
    assert not training.packs_apart(model).apart


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.NF4, Precision.INT8])
def test_rounding_is_not_taken_for_rows_that_mix(precision, pico):
    model = load_pico(pico, precision=precision).model
    assert training.packs_apart(model).apart


def test_an_adapted_model_is_tested_and_left_as_it_was():
    adapted = training.adapt(made("llama"), training.TrainingSettings(rank=2, dropout=0.5), byte_tokenizer()).model
    adapted.train()
    state = torch.get_rng_state()
    assert training.packs_apart(adapted).apart
    assert adapted.training
    assert torch.equal(torch.get_rng_state(), state)
