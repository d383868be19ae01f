"""Adapters are understood from their two files alone, and one that cannot be trusted is refused by name."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from adapter_variants import VARIANTS, on_top, save_variant
from pico import change_json, save_adapter
from safetensors.torch import load_file, save_file

from studio import adapters
from studio.errors import Damaged, InputError, PickleOnly, Unsupported

_FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapter(pico: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapters") / "plain", pico)


@pytest.fixture
def bad(adapter: Path, tmp_path: Path) -> Path:
    """A copy of an adapter for the test to break."""
    return Path(shutil.copytree(adapter, tmp_path / "bad"))


def change(folder: Path, how) -> None:
    tensors = load_file(folder / _FILE)
    how(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / _FILE)


def first(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(tensors) if part in name)


def test_an_adapter_is_told_from_its_files(adapter, pico):
    found = adapters.read(adapter)
    assert (found.type, found.rank, found.alpha, found.base) == ("LORA", 4, 64.0, str(pico))
    assert (found.rslora, found.dora, found.start, found.features) == (False, False, "default", ())
    assert [module.path for module in found.modules] == [
        f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "v_proj")
    ]
    query = found.modules[0]
    assert (query.a, query.b, query.rank, query.scaling) == ((4, 32), (32, 4), 4, 16.0)
    assert (query.parameters, query.bytes) == (256, 1024)
    assert found.parameters == sum(module.parameters for module in found.modules)
    json.dumps(asdict(found))


@pytest.mark.parametrize("name", ["rsLoRA", "patterns", "DoRA", "embedding and head adapted", "GPT-2"])
def test_every_module_has_the_scaling_that_peft_gives_it(name, tmp_path):
    base, folder = save_variant(name, tmp_path)
    layers = dict(on_top(base, folder).base_model.model.named_modules())
    for module in adapters.read(folder).modules:
        layer = layers[module.path]
        assert module.scaling == pytest.approx(layer.scaling["default"])
        assert module.rank == layer.r["default"]
        assert module.dora == layer.use_dora["default"]


def test_what_else_it_brings_is_told(tmp_path):
    _, folder = save_variant("a head, tied", tmp_path / "head")
    assert [(each.name, each.shape) for each in adapters.read(folder).whole] == [("lm_head.weight", (264, 32))]
    _, folder = save_variant("tokens, untied", tmp_path / "tokens")
    assert {each.path: each.rows for each in adapters.read(folder).tokens} == {
        "model.embed_tokens": (3, 77),
        "lm_head": (5,),
    }
    _, folder = save_variant("biases that are trained", tmp_path / "biases")
    assert "model.layers.0.self_attn.q_proj.bias" in {each.name for each in adapters.read(folder).whole}


def test_experts_tell_their_rank_together_and_leave_the_rest_to_the_base(tmp_path):
    _, folder = save_variant("Mixtral", tmp_path)
    experts = [module for module in adapters.read(folder).modules if "experts" in module.path]
    assert {module.rank for module in experts} == {16}
    assert {module.scaling for module in experts} == {None}


def test_an_adapter_without_weights_is_refused(bad):
    (bad / _FILE).unlink()
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
        adapters.read(bad)


def test_pickled_weights_are_refused_unopened(bad):
    (bad / _FILE).unlink()

    class Trap:
        def __reduce__(self):
            return pytest.fail, ("it was opened",)

    (bad / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(PickleOnly, match="pickle"):
        adapters.read(bad)


def test_a_truncated_file_is_refused(bad):
    content = (bad / _FILE).read_bytes()
    (bad / _FILE).write_bytes(content[:-10])
    with pytest.raises(Damaged, match="bytes of"):
        adapters.read(bad)


def test_a_rank_that_the_file_does_not_have_is_refused(bad):
    change_json(bad / "adapter_config.json", r=1_000_000)
    with pytest.raises(Damaged, match=r"rank 1000000 for model\.layers\.0\.self_attn\.q_proj, and the file has 4"):
        adapters.read(bad)


@pytest.mark.parametrize("rank", [0, -1, "4", None, True, 2.5])
def test_a_rank_that_is_none_is_refused(bad, rank):
    change_json(bad / "adapter_config.json", r=rank)
    with pytest.raises(Damaged, match="r is"):
        adapters.read(bad)


def test_a_and_b_of_different_ranks_are_refused(bad):
    change(bad, lambda tensors: tensors.update({first(tensors, "lora_B"): torch.ones(32, 3)}))
    with pytest.raises(Damaged, match="4 rows in A and 3 columns in B"):
        adapters.read(bad)


def test_an_update_of_no_rank_is_refused(bad):
    def empty(tensors):
        tensors[first(tensors, "lora_A")], tensors[first(tensors, "lora_B")] = torch.ones(0, 32), torch.ones(32, 0)

    change(bad, empty)
    with pytest.raises(Damaged, match="which are none"):
        adapters.read(bad)


def test_an_update_without_its_other_half_is_refused(bad):
    change(bad, lambda tensors: tensors.pop(first(tensors, "lora_B")))
    with pytest.raises(Damaged, match="has no B"):
        adapters.read(bad)


def test_an_empty_file_is_refused(bad):
    save_file({}, bad / _FILE)
    with pytest.raises(Damaged, match="is empty"):
        adapters.read(bad)


def test_a_name_that_peft_does_not_give_is_refused(bad):
    change(bad, lambda tensors: tensors.update(stranger=torch.ones(2)))
    with pytest.raises(Damaged, match="'stranger' is not a name that PEFT gives"):
        adapters.read(bad)


def test_integers_are_no_update(bad):
    change(bad, lambda tensors: tensors.update({first(tensors, "lora_A"): torch.ones(4, 32, dtype=torch.int8)}))
    with pytest.raises(Damaged, match="held as I8"):
        adapters.read(bad)


@pytest.mark.parametrize(("kind", "words"), [("NO_SUCH", "NO_SUCH"), ("BONE", "MiSS"), (None, "None")])
def test_a_type_that_peft_does_not_know_is_refused(bad, kind, words):
    change_json(bad / "adapter_config.json", peft_type=kind)
    with pytest.raises(Unsupported, match=words):
        adapters.read(bad)


def test_a_pattern_that_never_ends_is_given_up(bad, monkeypatch):
    monkeypatch.setattr("studio.adapters.reading._PATTERN_SECONDS", 0.2)
    change_json(bad / "adapter_config.json", rank_pattern={r"(.|..|...)+(.|..)+[XY]": 4})
    with pytest.raises(Damaged, match="pattern"):
        adapters.read(bad)


@pytest.mark.parametrize("patterns", [{"q_proj": "four"}, ["q_proj"], {"(": 4}])
def test_patterns_that_are_none_are_refused(bad, patterns):
    change_json(bad / "adapter_config.json", rank_pattern=patterns)
    with pytest.raises(Damaged, match="pattern"):
        adapters.read(bad)


def test_rows_that_the_config_does_not_name_are_refused(tmp_path):
    _, folder = save_variant("tokens, tied", tmp_path)
    change_json(folder / "adapter_config.json", trainable_token_indices=[3, 77])
    with pytest.raises(Damaged, match="2 rows"):
        adapters.read(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_found_and_named(bad, value):
    list(adapters.check_finite(adapters.read(bad)))

    def break_one(tensors):
        tensors[first(tensors, "layers.1.self_attn.v_proj.lora_B")][7, 1] = value

    change(bad, break_one)
    with pytest.raises(Damaged, match=r"layers\.1\.self_attn\.v_proj\.lora_B"):
        list(adapters.check_finite(adapters.read(bad)))


def test_all_of_it_is_looked_at(adapter):
    found = adapters.read(adapter)
    assert sum(adapters.check_finite(found)) == found.bytes


def test_the_fingerprint_tells_adapters_apart(adapter, bad):
    assert adapters.fingerprint(adapter) == adapters.fingerprint(bad)
    change(bad, lambda tensors: [tensor.add_(1) for tensor in tensors.values()])
    assert adapters.fingerprint(adapter) != adapters.fingerprint(bad)


def test_the_variants_are_enough():
    assert len(VARIANTS) >= 25
