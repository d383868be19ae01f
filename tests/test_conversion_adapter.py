"""An adapter in a pickle becomes one in safetensors that PEFT loads as the same, and nothing of the pickle is run."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from adapter_steps import logits, reloaded, result_of
from pico import save_adapter
from safetensors.torch import load_file

from studio import adapters
from studio.conversion import convert, convert_adapter, read_conversion
from studio.errors import Damaged, InputError, PickleOnly, Unsupported

_FILE, _PICKLE = "adapter_model.safetensors", "adapter_model.bin"


@pytest.fixture
def pickled(pico, tmp_path):
    """An adapter as PEFT wrote them before 0.6, and its tensors."""
    folder = save_adapter(tmp_path / "adapter", pico)
    tensors = load_file(folder / _FILE)
    (folder / _FILE).unlink()
    torch.save(tensors, folder / _PICKLE)
    return folder, tensors


def test_the_adapter_is_the_same_one(pickled, pico, tmp_path):
    from transformers import AutoModelForCausalLM

    folder, tensors = pickled
    (folder / "base.json").write_text(json.dumps({"embedding": [1.0]}))
    with pytest.raises(PickleOnly) as refused:
        adapters.read(folder)
    assert "Convert it" in refused.value.hint
    done = result_of(convert_adapter(folder, tmp_path / "safe"))
    written = load_file(done / _FILE)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())
    names = {"adapter_config.json", _FILE, "README.md", "base.json", "conversion.json"}
    assert {file.name for file in done.iterdir()} == names
    assert read_conversion(done).tensors == len(tensors)
    assert adapters.read(done).rank == 4
    before = reloaded(AutoModelForCausalLM.from_pretrained(pico), folder)  # PEFT reads the pickle itself
    after = reloaded(AutoModelForCausalLM.from_pretrained(pico), done)
    assert torch.equal(logits(before), logits(after))


def test_nothing_of_a_malicious_pickle_runs(pickled, tmp_path):
    folder, _ = pickled
    trace = tmp_path / "it ran"

    class Trap:
        def __reduce__(self):
            return open, (str(trace), "w")

    (folder / _PICKLE).write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(Unsupported, match="not weights alone"):
        result_of(convert_adapter(folder, tmp_path / "safe"))
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


def test_what_is_no_pickled_adapter_is_refused(pickled, pico, tmp_path):
    folder, _ = pickled
    with pytest.raises(InputError, match=r"no adapter_config\.json"):
        result_of(convert_adapter(pico, tmp_path / "safe"))
    (folder / _PICKLE).write_bytes((folder / _PICKLE).read_bytes()[:-200])
    with pytest.raises(Damaged):
        result_of(convert_adapter(folder, tmp_path / "safe"))
    (folder / _PICKLE).unlink()
    with pytest.raises(InputError, match=r"no adapter_model\.bin"):
        result_of(convert_adapter(folder, tmp_path / "safe"))
    with pytest.raises(InputError, match="safetensors already"):
        result_of(convert_adapter(save_adapter(tmp_path / "sound", pico), tmp_path / "safe"))
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "sound"}


def test_a_model_never_gets_an_adapter_beside_it(pickled, pico, tmp_path):
    folder, _ = pickled
    shutil.copyfile(pico / "config.json", folder / "config.json")
    torch.save(load_file(pico / "model.safetensors"), folder / "pytorch_model.bin")
    done = result_of(convert(folder, tmp_path / "model"))
    assert not (done / "adapter_config.json").exists()


def test_stopping_leaves_nothing(pickled, tmp_path):
    work = convert_adapter(pickled[0], tmp_path / "safe")
    next(work)
    work.close()
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}
