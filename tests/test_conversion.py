"""Pickles into safetensors: the same tensors byte for byte, and nothing that a pickle asks for is done."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time

import pytest
import torch
from pico import change_json, load_pico
from safetensors.torch import load_file

from studio import child as worker
from studio.checkpoint import read_checkpoint
from studio.conversion import convert, read_conversion, unpickling, writing
from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.events import Finished, Phase, Progress


@pytest.fixture
def pickled(pico, tmp_path):
    """The pico model without its weights, and a function that pickles some into it."""
    folder = tmp_path / "pickled"
    shutil.copytree(pico, folder, ignore=shutil.ignore_patterns("*.safetensors"))

    def save(content, name="pytorch_model.bin", **options):
        torch.save(content, folder / name, **options)
        return folder

    return save


@pytest.fixture
def weights(pico):
    return load_file(pico / "model.safetensors")


def run(folder, target=None):
    events = list(convert(folder, target or folder.parent / "out"))
    assert isinstance(events[-1], Finished)
    return events[-1].result


def inside(folder, part, sources=("pytorch_model.bin",), weight_map=None):
    """The work of the child, in this process, for what needs no process of its own."""
    part.mkdir()
    unpickling.rewrite(folder, list(sources), weight_map or {}, part)
    return part


def all_bytes(tensors):
    return {
        name: (t.dtype, t.shape, t.contiguous().reshape(-1).view(torch.uint8).tolist()) for name, t in tensors.items()
    }


# Whole, with the process


def test_a_converted_model_is_the_same_model(pickled, weights, pico):
    folder = pickled({"state_dict": weights, "epoch": 3, "best": 0.5, "optimizer": {"lr": 1}})
    (folder / "code.py").write_text("raise SystemExit")
    (folder / "tokenizer.bin").write_bytes(b"x")
    torch.save({}, folder / "training_args.bin")
    (folder / "LICENSE").write_text("mine")
    events = list(convert(folder, folder.parent / "deep" / "out"))
    out = events[-1].result
    assert out == folder.parent / "deep" / "out"
    assert {file.name for file in out.iterdir()} == {
        *(file.name for file in pico.iterdir()),
        *("LICENSE", "conversion.json"),
    }
    assert all_bytes(load_file(out / "model.safetensors")) == all_bytes(weights)
    assert (out / "config.json").read_bytes() == (pico / "config.json").read_bytes()
    assert {p.name for p in out.parent.iterdir()} == {"out"}
    assert read_checkpoint(out).floats == read_checkpoint(pico).floats
    ours, theirs = load_pico(out).model.state_dict(), load_pico(pico).model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    done = [event.done for event in events[:-1]]
    assert done == sorted(done)
    assert {event.phase for event in events[:-1]} == {Phase.CONVERT}
    assert events[-2] == Progress(Phase.CONVERT, events[0].total, (folder / "pytorch_model.bin").stat().st_size)
    said = read_conversion(out)
    assert said.dropped == ["pytorch_model.bin: optimizer (dict)"]
    assert (said.tensors, said.sources) == (len(weights), ["pytorch_model.bin"])


class Payload:
    """What a malicious file does: run a command as soon as it is opened."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_a_malicious_pickle_is_named_and_nothing_of_it_runs(pickled, weights, tmp_path):
    proof = tmp_path / "it-ran"
    folder = pickled({**weights, "x": Payload(proof)})
    with pytest.raises(Unsupported, match=r"^pytorch_model\.bin .* asks for (posix|nt)\.system") as caught:
        run(folder)
    assert "Nothing of it was run" in caught.value.hint
    assert not proof.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"pickled"}
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert proof.exists()  # the payload is a real one


def test_a_conversion_that_is_stopped_leaves_nothing_behind(pickled, weights, tmp_path):
    work = convert(pickled(weights), tmp_path / "out")
    assert next(work) == Progress(Phase.CONVERT, 0, (tmp_path / "pickled" / "pytorch_model.bin").stat().st_size)
    assert (tmp_path / "out.part").is_dir()
    begin = time.monotonic()
    work.close()
    assert time.monotonic() - begin < 5
    assert {p.name for p in tmp_path.iterdir()} == {"pickled"}


def test_what_a_killed_conversion_left_is_in_nobodys_way(pickled, weights, tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "model.safetensors").write_bytes(b"half")
    assert all_bytes(load_file(run(pickled(weights)) / "model.safetensors")) == all_bytes(weights)
    assert not (tmp_path / "out.part").exists()


def test_the_child_knows_no_secret_and_ends_with_its_parent(monkeypatch, pickled, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "openai_api_key"):
        monkeypatch.setenv(name, "secret")
    env = worker.offline_env() | {"PYTHONPATH": str(worker.PACKAGE_ROOT)}
    assert "secret" not in env.values()
    folder = pickled({}, "optimizer.pt")
    os.mkfifo(folder / "endless.bin")
    command = [sys.executable, "-m", "studio.conversion.unpickling"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, text=True) as child:
        order = {"folder": str(folder), "part": str(tmp_path), "sources": ["endless.bin"]}
        order |= {"weight_map": {}, "stem": "model"}
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()
        with (folder / "endless.bin").open("wb"):  # opens when the child does, which then waits for bytes
            assert child.poll() is None
            child.stdin.close()
            assert child.wait(timeout=20) == 1


@pytest.mark.parametrize(("code", "kind"), [(-9, DoesNotFit), (-11, Damaged), (1, Damaged)])
def test_a_child_that_dies_is_told_in_our_words(monkeypatch, pickled, weights, tmp_path, code, kind):
    dies = f"import os, sys; sys.exit(1) if {code} > 0 else os.kill(os.getpid(), {abs(code)})"
    real = subprocess.Popen
    monkeypatch.setattr(
        worker.subprocess, "Popen", lambda command, **options: real([sys.executable, "-c", dies], **options)
    )
    with pytest.raises(kind, match="conversion of pickled"):
        run(pickled(weights))
    assert {p.name for p in tmp_path.iterdir()} == {"pickled"}


# Before anything is opened


def test_a_target_that_is_there_is_left_alone(pickled, weights, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        run(pickled(weights), tmp_path / "pickled")


def test_a_target_that_may_not_be_written_is_said_to_be_one(pickled, weights, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run(pickled(weights), tmp_path / "file" / "out")


def test_a_full_disk_is_seen_before_anything_is_written(pickled, weights, tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(DoesNotFit, match="GB"):
        run(pickled(weights))
    assert {p.name for p in tmp_path.iterdir()} == {"pickled"}


def test_a_folder_without_pickles_has_nothing_to_convert(pico, pickled, tmp_path):
    with pytest.raises(InputError, match="safetensors files already"):
        run(pico, tmp_path / "out")
    folder = pickled({}, "training_args.bin")
    with pytest.raises(InputError, match="no pickled weights"):
        run(folder)
    with pytest.raises(InputError, match="There is no folder"):
        run(tmp_path / "nowhere")


def test_several_pickles_without_an_index_are_not_guessed_at(pickled, weights):
    pickled(weights, "consolidated.00.pth")
    with pytest.raises(Unsupported, match=r"2 pickle files .* consolidated\.00\.pth, consolidated\.01\.pth"):
        run(pickled(weights, "consolidated.01.pth"))


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "../x.bin"}, "its own folder"),
        ({}, "names no weights"),
        ({"a": 1}, "its own folder"),
        ({"a": "nowhere.bin"}, "1 of 1 weight files are missing, the first is nowhere.bin"),
    ],
)
def test_an_index_that_leads_nowhere_is_damaged(pickled, weights, weight_map, words):
    folder = pickled(weights, "pytorch_model-00001-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(Damaged, match=words):
        run(folder)


# What pickles come in


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["model.bin", "weights.pt", "weights.pth"])
def test_old_and_new_pickles_of_any_name_are_converted(pickled, weights, tmp_path, old, name):
    from studio.conversion import pickled_weights

    folder = pickled({"model": weights}, name, _use_new_zipfile_serialization=not old)
    assert [file.name for file in pickled_weights(folder)] == [name]
    out = inside(folder, tmp_path / "out", [name])
    assert all_bytes(load_file(out / "model.safetensors")) == all_bytes(weights)


def test_every_plain_dtype_shape_and_stride_survives(pickled, tmp_path):
    tensors = {dtype: (torch.arange(12) % 2).to(getattr(torch, dtype)).reshape(3, 4) for dtype in writing.DTYPES}
    base = torch.randn(6, 4)
    tensors |= {"t": base.t(), "slice": base[1:4, ::2], "scalar": torch.tensor(7.5), "empty": torch.empty(0, 3)}
    tensors |= {"nan": torch.tensor([float("nan"), float("inf"), -0.0]), "grad": torch.nn.Parameter(torch.ones(2))}
    out = inside(pickled(tensors), tmp_path / "out")
    assert all_bytes(load_file(out / "model.safetensors")) == all_bytes(tensors)


def test_a_head_that_the_config_ties_is_written_once(pickled, weights, tmp_path):
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    out = inside(pickled(weights), tmp_path / "out")
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert read_conversion(out).tied == ["lm_head.weight"]


def test_names_that_share_values_and_are_not_tied_are_written_each(pickled, weights, tmp_path):
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    weights["part"] = weights["model.embed_tokens.weight"][3:5]
    folder = pickled(weights)
    change_json(folder / "config.json", tie_word_embeddings=False)
    out = inside(folder, tmp_path / "out")
    assert all_bytes(load_file(out / "model.safetensors")) == all_bytes(weights)
    assert read_conversion(out).tied == []


def test_shards_become_shards_with_an_index(pickled, weights, tmp_path, monkeypatch):
    names = sorted(weights)
    sources = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    for source, half in zip(sources, (names[::2], names[1::2]), strict=True):
        folder = pickled({name: weights[name] for name in half}, source)
    weight_map = {name: sources[number % 2] for number, name in enumerate(names)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    monkeypatch.setattr(writing, "SHARD_BYTES", 30_000)
    out = inside(folder, tmp_path / "out", sources, weight_map)
    files = sorted(out.glob("model-*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert [file.name for file in files] == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in weights.values())
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert all_bytes(found) == all_bytes(weights)
    assert all(name in load_file(out / index["weight_map"][name]) for name in weights)
    largest = max(t.numel() * t.element_size() for t in weights.values())
    assert max(file.stat().st_size for file in files) < max(30_000, largest) + 3000


def test_a_tensor_that_the_index_names_and_nobody_has_is_missed(pickled, weights, tmp_path):
    with pytest.raises(Damaged, match=r"1 tensors of the index .* the first is absent\.weight"):
        inside(pickled(weights), tmp_path / "out", weight_map={"absent.weight": "pytorch_model.bin"})


def test_a_tensor_in_two_shards_is_damaged(pickled, weights, tmp_path):
    pickled(weights, "b.bin")
    with pytest.raises(Damaged, match=r"is in a\.bin and in b\.bin"):
        inside(pickled(weights, "a.bin"), tmp_path / "out", ["a.bin", "b.bin"])


# What is none


@pytest.mark.parametrize("old", [False, True])
def test_a_cut_pickle_is_damaged_wherever_it_was_cut(pickled, weights, tmp_path, old):
    file = pickled(weights, _use_new_zipfile_serialization=not old) / "pytorch_model.bin"
    whole = file.read_bytes()
    for number, size in enumerate((0, 1, 3, 10, 100, 1000, len(whole) // 2, len(whole) - 1)):
        file.write_bytes(whole[:size])
        with pytest.raises(Damaged, match=r"^pytorch_model\.bin (is|cannot)") as caught:
            inside(file.parent, tmp_path / f"out{number}")
        assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html></html>", "is no pickle: it begins with b'<!DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\x80\x02" + b"\xff" * 100, "is damaged"),
        (b"PK\3\4" + b"\0" * 100, "is damaged"),
        (pickle.dumps({"a": 1}, protocol=2), "is damaged"),
        (b"\x80\x02X" + struct.pack("<I", 2**32 - 1), r"^pytorch_model\.bin is damaged"),
    ],
)
def test_what_is_no_pickle_of_torch_is_damaged(pickled, tmp_path, content, words):
    folder = pickled({})
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(Damaged, match=words):
        inside(folder, tmp_path / "out")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("old", [False, True])
def test_what_a_pickle_asks_for_is_named_in_every_protocol(pickled, weights, tmp_path, protocol, old):
    content = {**weights, "x": Payload(tmp_path / "it-ran")}
    folder = pickled(content, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    with pytest.raises(Unsupported, match=r"asks for (posix|nt)\.system"):
        inside(folder, tmp_path / "out")
    assert not (tmp_path / "it-ran").exists()


def test_a_bare_malicious_pickle_is_named_too(pickled, tmp_path):
    folder = pickled({})
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "it-ran")))
    with pytest.raises(Unsupported, match=r"asks for (posix|nt)\.system"):
        inside(folder, tmp_path / "out")
    assert not (tmp_path / "it-ran").exists()


def test_sound_weights_of_a_newer_protocol_are_not_called_damaged(pickled, weights, tmp_path):
    with pytest.raises(Unsupported, match="cannot be read as weights alone: Unsupported operand"):
        inside(pickled(weights, pickle_protocol=4), tmp_path / "out")


def test_a_whole_module_is_code_and_not_weights(pickled, tmp_path):
    with pytest.raises(Unsupported, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        inside(pickled(torch.nn.Linear(2, 2)), tmp_path / "out")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_a_program(pickled, tmp_path):
    folder = pickled({})
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), str(folder / "pytorch_model.bin"))
    with pytest.raises(Unsupported, match="TorchScript"):
        inside(folder, tmp_path / "out")


@pytest.mark.parametrize("content", [{}, {"step": 1}, [torch.ones(2)], torch.ones(2), {"model": {"a": "b"}}, None])
def test_a_pickle_without_named_tensors_has_no_weights(pickled, tmp_path, content):
    with pytest.raises(Unsupported, match="holds no tensors by name"):
        inside(pickled(content), tmp_path / "out")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(2).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, device="meta"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_tensor_that_safetensors_cannot_hold_is_named(pickled, tmp_path, tensor):
    with pytest.raises(Unsupported, match=r"odd in pytorch_model\.bin"):
        inside(pickled({"odd": tensor, "a": torch.ones(2)}), tmp_path / "out")


def test_a_small_file_cannot_claim_to_be_a_large_tensor(pickled, tmp_path):
    with pytest.raises(Damaged, match="names more values than the file holds"):
        inside(pickled({"a": torch.ones(1).expand(10**12)}), tmp_path / "out")


# The proof


def test_a_byte_that_the_disk_changed_is_found(pickled, weights, tmp_path, monkeypatch):
    real = writing._write

    def careless(file, *rest):
        real(file, *rest)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    monkeypatch.setattr(writing, "_write", careless)
    with pytest.raises(Damaged, match="does not read back as the same"):
        inside(pickled(weights), tmp_path / "out")
