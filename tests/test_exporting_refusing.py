"""What cannot become a GGUF file is refused with its reason, and whatever breaks off leaves nothing."""

from __future__ import annotations

import shutil

import pytest
from exporting_steps import LLAMA3_ROPE, exported, save_model

from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.events import Finished, Phase, Progress
from studio.exporting import ExportPlan, export


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def copied(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "copied")


def change(folder, name, make):
    """Replace a tensor of a folder."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors[name] = make(tensors.get(name))
    save_file({key: value for key, value in tensors.items() if value is not None}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "config", "why"),
    [
        ("gpt_neox", {}, "gpt_neox"),
        ("llama", {"attention_bias": True}, "bias"),
        ("llama", {"hidden_act": "gelu"}, "gelu"),
        ("mistral", {"sliding_window": 128}, "looks back"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 2.0}}, "yarn"),
        ("qwen2", {"rope_parameters": {**LLAMA3_ROPE, "original_max_position_embeddings": 64}}, "llama3"),
    ],
)
def test_what_llama_cpp_would_read_otherwise_is_refused(kind, config, why, tmp_path):
    folder = save_model(tmp_path / "model", kind, **config)
    with pytest.raises(Unsupported, match=why):
        exported(folder, tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == [folder]


def test_weights_that_are_no_numbers_are_refused(copied, tmp_path):
    change(copied, "model.norm.weight", lambda tensor: tensor * float("nan"))
    with pytest.raises(Damaged, match=r"model\.norm\.weight holds values that are not numbers"):
        exported(copied, tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == [copied]


def test_a_weight_beyond_fp16_asks_for_another_kind(copied, tmp_path):
    change(copied, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor * 1e7)
    with pytest.raises(Unsupported, match="F16 ends at 65,504") as refused:
        exported(copied, tmp_path / "x.gguf", "F16")
    assert "BF16" in refused.value.hint


def test_a_folder_with_a_weight_too_few_or_too_many_is_refused(copied, tmp_path):
    import torch

    change(copied, "model.norm.bias", lambda _: torch.zeros(64))
    with pytest.raises(Unsupported, match=r"The files hold model\.norm\.bias"):
        exported(copied, tmp_path / "x.gguf")
    change(copied, "model.layers.1.mlp.up_proj.weight", lambda _: None)
    with pytest.raises(Damaged, match=r"the first is model\.layers\.1\.mlp\.up_proj\.weight"):
        exported(copied, tmp_path / "x.gguf")


def test_a_plan_names_a_kind_and_a_gguf_file(llama, tmp_path):
    with pytest.raises(InputError, match="Q4_K_M"):
        ExportPlan(llama, tmp_path / "x.gguf", "Q4_K_M")
    with pytest.raises(InputError, match="not the name of a GGUF file"):
        ExportPlan(llama, tmp_path / "x.bin")


def test_a_file_that_is_there_is_never_written_over(llama, tmp_path):
    (tmp_path / "x.gguf").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        exported(llama, tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_text() == "precious"


def test_a_full_disk_is_told_before_anything_is_written(llama, small_disk):
    with pytest.raises(DoesNotFit, match="free"):
        exported(llama, small_disk / "x.gguf")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("phase", [Phase.EXPORT, Phase.CHECK, Phase.READ, Phase.DECODE])
def test_closing_leaves_nothing(phase, llama, tmp_path):
    work = export(ExportPlan(llama, tmp_path / "x.gguf"))
    said = next(event for event in work if event.phase is phase)
    assert isinstance(said, Progress)
    work.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_no_obstacle(llama, tmp_path):
    (tmp_path / "x.gguf.part").mkdir()
    (tmp_path / "x.gguf.part" / "x.gguf").write_text("half")
    events = list(export(ExportPlan(llama, tmp_path / "x.gguf")))
    assert isinstance(events[-1], Finished)
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]
