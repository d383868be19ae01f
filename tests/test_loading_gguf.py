"""A GGUF file as a model: opened where transformers can, unpacked, and explained where it cannot."""

from __future__ import annotations

import pytest
from gguf_files import write_gguf
from pico import save_pico

from studio import jobs
from studio.errors import InputError, Unsupported
from studio.events import Finished
from studio.generation import GenerationSettings, Prompt
from studio.jobs import GenerationRequest
from studio.loading import LoadPlan, load, outlook
from studio.models import ModelRef, Precision


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return save_pico(tmp_path_factory.mktemp("gguf") / "source", **shape)


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    return write_gguf(source, tmp_path_factory.mktemp("packed") / "model.gguf", "Q8_0")


def plan(path, precision=Precision.FP32):
    return LoadPlan(ModelRef("folder", str(path)), precision)


def finished(generator):
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return stop.value


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.tensor([[7, 8, 9, 10]])).logits


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_file_is_opened_unpacked_and_takes_what_was_foretold(packed, source, as_folder):
    import torch

    path = packed.parent if as_folder else packed
    loaded = finished(load(plan(path), path))
    original = finished(load(plan(source), source))
    assert loaded.resident.weights == loaded.resident.estimated == original.resident.weights
    assert loaded.resident.has_chat_template
    assert torch.allclose(logits(loaded.model), logits(original.model), atol=0.05)
    assert getattr(loaded.model.config, "quantization_config", None) is None


def test_a_file_answers_by_its_path(packed):
    request = GenerationRequest(
        LoadPlan(ModelRef.parse(str(packed))), Prompt(text="Hi"), GenerationSettings(max_new_tokens=3)
    )
    *_, last = jobs.generate(request, token=False)
    assert isinstance(last, Finished)
    assert last.result.tokens <= 3


def test_an_unpacked_file_is_not_quantized_again(packed):
    with pytest.raises(Unsupported, match="is unpacked when it is opened"):
        outlook(plan(packed, Precision.NF4), packed)


def test_a_file_of_an_architecture_that_transformers_cannot_open_says_so(packed, tmp_path):
    strange = tmp_path / "strange.gguf"
    strange.write_bytes(packed.read_bytes().replace(b"llama", b"nobod"))
    with pytest.raises(Unsupported, match=r"strange\.gguf cannot be opened") as caught:
        outlook(plan(strange), strange)
    assert "safetensors" in caught.value.hint


def test_a_file_that_is_not_there_or_no_model_is_refused_as_a_folder_is(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        list(jobs.load(LoadPlan(ModelRef("folder", str(tmp_path / "none.gguf"))), token=False))
    text = tmp_path / "model.txt"
    text.write_text("hello")
    with pytest.raises(InputError, match="There is no folder"):
        list(jobs.load(LoadPlan(ModelRef("folder", str(text))), token=False))
