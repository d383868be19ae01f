"""A kept model is the one that was in memory, bit for bit, or nothing is left behind."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from pico import CHAT_TEMPLATE, byte_tokenizer, load_pico, save_adapter

from studio import jobs, keeping
from studio.checkpoint import read_checkpoint
from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.events import Finished, Phase, Progress
from studio.keeping import kept_models, place, same_bits
from studio.loading import LoadPlan, Placement, Quantization
from studio.models import STARTER, ModelRef, Precision
from studio.settings import STARTER_FOLDER

IDS = torch.arange(10, 60)[None]


@pytest.fixture(autouse=True)
def _unloaded():
    yield
    if jobs.SESSION.status().resident:
        list(jobs.unload())


def keep(loaded, source, target):
    """What keeping returns, and what it said on the way."""
    work, said = keeping.keep(loaded, source, target), []
    while True:
        try:
            said.append(next(work))
        except StopIteration as end:
            return end.value, said


def differences(one, other):
    one, other = one.state_dict(), other.state_dict()
    return sorted(name for name in one.keys() | other.keys() if not same_bits(one[name], other[name]))


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def files(folder):
    return sorted(file.name for file in folder.iterdir())


# What is kept


@pytest.mark.parametrize(
    ("precision", "how"),
    [
        (Precision.FP32, {}),
        (Precision.BF16, {}),
        (Precision.INT8, {}),
        (Precision.NF4, {}),
        (Precision.NF4, {"double_quant": False, "storage": "bf16", "keep": "q_proj"}),
        (Precision.FP4, {"compute": "fp32"}),
    ],
)
def test_a_kept_model_loads_again_bit_for_bit(tmp_path, precision, how):
    loaded = load_pico(STARTER_FOLDER, precision=precision, quantization=Quantization(**how))
    before = logits(loaded.model)  # it has run, as one in use has
    kept, _ = keep(loaded, STARTER_FOLDER, tmp_path / "kept")
    again = load_pico(tmp_path / "kept", precision=None if precision.quantizes else precision)
    assert differences(loaded.model, again.model) == []
    assert torch.equal(logits(again.model), before)
    assert torch.equal(logits(loaded.model), before), "the model is as it was"
    assert again.resident.weights == loaded.resident.weights == again.resident.estimated
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template
    assert again.model.generation_config.to_dict() == loaded.model.generation_config.to_dict()
    assert kept.before == (STARTER_FOLDER / "model.safetensors").stat().st_size
    assert kept.after == (tmp_path / "kept" / "model.safetensors").stat().st_size
    assert kept.after == pytest.approx(loaded.resident.weights, rel=0.02)
    assert kept.tensors >= 38
    assert files(tmp_path) == ["kept"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Models whose names in memory are not those in their files, or whose layers are not linear."""
    from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

    folder, tokenizer = tmp_path_factory.mktemp("odd"), byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    shape = {"vocab_size": len(tokenizer), "eos_token_id": 1, "bos_token_id": None}
    MixtralForCausalLM(
        MixtralConfig(
            **shape, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64,
        )
    ).save_pretrained(folder / "mixtral")  # fmt: skip
    GPT2LMHeadModel(GPT2Config(**shape, n_embd=32, n_layer=1, n_head=4, n_positions=64)).save_pretrained(
        folder / "gpt2"
    )
    for name in ("mixtral", "gpt2"):
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", ["mixtral", "gpt2"])
@pytest.mark.parametrize("precision", [Precision.BF16, Precision.NF4, Precision.INT8])
def test_models_that_are_called_otherwise_in_files_are_kept_too(odd, tmp_path, name, precision):
    loaded = load_pico(odd / name, precision=precision)
    keep(loaded, odd / name, tmp_path / "kept")
    again = load_pico(tmp_path / "kept", precision=None if precision.quantizes else precision)
    assert differences(loaded.model, again.model) == []


@pytest.mark.parametrize("name", ["mixtral", "gpt2", "starter"])
@pytest.mark.parametrize("precision", [Precision.NF4, Precision.INT8])
def test_a_kept_model_can_be_kept_again(odd, tmp_path, name, precision):
    source = STARTER_FOLDER if name == "starter" else odd / name
    first, _ = keep(load_pico(source, precision=precision), source, tmp_path / "one")
    again = load_pico(first.folder, precision=None)
    second, _ = keep(again, first.folder, tmp_path / "two")
    assert (second.before, second.after) == (first.after, first.after)
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_a_large_model_is_kept_in_several_files(pico, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "SHARD_BYTES", 50_000)
    kept, said = keep(loaded, pico, tmp_path / "kept")
    assert len(list(kept.folder.glob("model-*-of-*.safetensors"))) > 2
    assert read_checkpoint(kept.folder).floats == read_checkpoint(pico).floats
    assert kept.after == sum(file.stat().st_size for file in kept.folder.glob("*.safetensors"))
    assert differences(loaded.model, load_pico(kept.folder).model) == []
    assert {event.phase for event in said} <= {Phase.SAVE, Phase.CHECK}
    monkeypatch.undo()
    whole, _ = keep(load_pico(kept.folder), kept.folder, tmp_path / "whole")
    assert whole.before == kept.after


def test_the_model_and_its_config_stay_as_they_were(pico, tmp_path):
    loaded = load_pico(pico, precision=Precision.NF4)
    before = {name: getattr(loaded.model.config, name) for name in ("dtype", "architectures")}
    keep(loaded, pico, tmp_path / "kept")
    assert {name: getattr(loaded.model.config, name) for name in before} == before


def test_the_generation_config_and_the_licence_come_along_as_they_are(broken, tmp_path):
    strange = '{"do_sample": false,   "temperature": 0.6, "eos_token_id": 1, "of_others": 7}'
    (broken / "generation_config.json").write_text(strange)
    (broken / "LICENSE").write_text("free")
    kept, _ = keep(load_pico(broken), broken, tmp_path / "kept")
    assert (kept.folder / "generation_config.json").read_text() == strange
    assert (kept.folder / "LICENSE").read_text() == "free"
    (broken / "generation_config.json").unlink()
    assert "generation_config.json" not in files(keep(load_pico(broken), broken, tmp_path / "without")[0].folder)


def test_what_is_kept_names_no_folder_of_this_machine_and_can_be_read_by_others(pico, loaded, tmp_path):
    kept, _ = keep(loaded, pico, tmp_path / "kept")
    for file in kept.folder.iterdir():
        assert str(pico.parent).encode() not in file.read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()
    assert len({stat.S_IMODE(file.stat().st_mode) for file in kept.folder.iterdir()}) == 1


# What is refused, and what is left behind: nothing


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_not(pico, loaded, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(InputError, match="exists already"):
            keep(loaded, pico, tmp_path / name)
    (tmp_path / "empty").mkdir()
    keep(loaded, pico, tmp_path / "empty")
    assert files(tmp_path) == ["empty", "file", "full"]
    assert files(tmp_path / "full") == ["mine.txt"]


def test_what_a_killed_one_left_is_in_nobodys_way(pico, loaded, tmp_path):
    (tmp_path / "kept.part").mkdir()
    (tmp_path / "kept.part" / "model-00001-of-00009.safetensors").write_text("half")
    keep(loaded, pico, tmp_path / "kept")
    assert files(tmp_path) == ["kept"]
    assert "model-00001-of-00009.safetensors" not in files(tmp_path / "kept")


def test_a_disk_without_room_is_found_out_first(pico, loaded, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DoesNotFit, match=r"takes 0\.10 GB.* has 0\.00 GB free"):
        keep(loaded, pico, tmp_path / "kept")
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written_is_said_in_words(pico, loaded, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        keep(loaded, pico, tmp_path / "file" / "kept")
    assert files(tmp_path) == ["file"]


def test_a_disk_that_fills_up_leaves_nothing(pico, tmp_path):
    # A limit on the size of a file is the one full disk that a test can have; in a process of its own, for it stays.
    script = f"""
import resource, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}
from pathlib import Path
from pico import load_pico
from studio import keeping
from studio.errors import InputError
loaded = load_pico(Path({str(pico)!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    list(keeping.keep(loaded, Path({str(pico)!r}), Path({str(tmp_path / "kept")!r})))
except InputError as error:
    sys.exit(error.message)
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "kept cannot be written" in done.stderr.splitlines()[-1], done.stderr
    assert files(tmp_path) == []


def test_an_adapter_on_top_is_refused(pico, tmp_path):
    loaded = load_pico(pico, adapter=save_adapter(tmp_path / "lora", pico))
    with pytest.raises(Unsupported, match="adapter on top"):
        keep(loaded, pico, tmp_path / "kept")
    assert files(tmp_path) == ["lora"]


def test_a_model_that_lies_on_the_disk_in_part_is_refused(pico, tmp_path):
    loaded = load_pico(pico, placement=Placement(limits="cpu=100 kB", disk=True))
    assert {module.device for module in loaded.resident.modules} == {"cpu", "disk"}
    with pytest.raises(Unsupported, match="lie on the disk"):
        keep(loaded, pico, tmp_path / "kept")
    assert files(tmp_path) == []


@pytest.mark.parametrize("phase", [Phase.SAVE, Phase.CHECK])
def test_one_that_is_given_up_leaves_nothing_and_the_next_one_works(pico, loaded, tmp_path, monkeypatch, phase):
    monkeypatch.setattr(keeping, "SHARD_BYTES", 1000)
    arrived, go_on, real = [], threading.Event(), keeping.same_bits

    def slow(one, other):
        arrived.append(one)
        go_on.wait(5)
        return real(one, other)

    monkeypatch.setattr(keeping, "same_bits", slow)
    work = keeping.keep(loaded, pico, tmp_path / "kept")
    while next(work).phase is not phase and not arrived:
        """Until it is in the midst of it."""
    go_on.set()
    work.close()
    assert files(tmp_path) == []
    keep(loaded, pico, tmp_path / "kept")
    assert files(tmp_path) == ["kept"]


def test_a_disk_that_lies_is_found_out(pico, loaded, tmp_path, monkeypatch):
    real = keeping._write

    def write(loaded, source, part, say, stop):
        real(loaded, source, part, say, stop)
        with (part / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    monkeypatch.setattr(keeping, "_write", write)
    with pytest.raises(Damaged, match="does not read back"):
        keep(loaded, pico, tmp_path / "kept")
    assert files(tmp_path) == []


def test_a_tokenizer_that_would_read_otherwise_is_found_out(pico, loaded, tmp_path, monkeypatch):
    real = keeping._write

    def write(loaded, source, part, say, stop):
        real(loaded, source, part, say, stop)
        (part / "chat_template.jinja").write_text("{{ messages }}")

    monkeypatch.setattr(keeping, "_write", write)
    with pytest.raises(Damaged, match="the chat template"):
        keep(loaded, pico, tmp_path / "kept")
    assert files(tmp_path) == []


# The workspace


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../up",
        "a/b",
        "a\\b",
        "/etc",
        "~",
        "-rf",
        ".hidden",
        "a.",
        "a.part",
        "é",
        "a b",
        "a\n",
        "a" * 97,
    ],
)
def test_a_name_that_could_lead_elsewhere_is_none(tmp_path, name):
    with pytest.raises(InputError, match="name"):
        place(tmp_path, name)


def test_a_name_is_a_folder_of_the_workspace(tmp_path):
    assert place(tmp_path, "Qwen3-0.6B_nf4") == tmp_path / "models" / "Qwen3-0.6B_nf4"
    assert kept_models(tmp_path) == ()


def test_a_model_is_kept_under_a_name_and_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    *events, last = jobs.keep(LoadPlan(STARTER, Precision.NF4), "small", token=False)
    assert isinstance(last, Finished)
    assert all(isinstance(event, Progress) for event in events)
    assert last.result.folder == tmp_path / "models" / "small"
    (tmp_path / "models" / "half.part").mkdir()
    (tmp_path / "models" / "half.part" / keeping.REPORT).write_text("{}")
    (tmp_path / "models" / "other").mkdir()
    (listed,) = kept_models(tmp_path)
    assert (listed.name, listed.model, listed.precision) == ("small", "starter", "nf4")
    assert (listed.folder, listed.bytes) == (last.result.folder, last.result.after)
    *_, loaded = jobs.load(LoadPlan(ModelRef("folder", str(listed.folder))), token=False)
    assert loaded.result.plan.precision is Precision.STORED
    with pytest.raises(InputError, match="exists already"):
        list(jobs.keep(LoadPlan(STARTER), "small", token=False))


def test_visitors_keep_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    for where in ("small", tmp_path / "small"):
        with pytest.raises(InputError, match="Visitors cannot keep"):
            list(jobs.keep(LoadPlan(STARTER), where, token=False))
    assert files(tmp_path) == []
