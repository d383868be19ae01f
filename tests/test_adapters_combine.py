"""Adapters are added up as PEFT does where PEFT is right, rightly where it is not, and beside the exact sum."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from adapter_steps import adapted, deltas, result_of
from adapter_variants import disturb, save_variant
from pico import change_json, save_pico
from safetensors.torch import load_file, save_file

from studio import adapters
from studio.adapters import COMBINATIONS, CombinePlan
from studio.adapters.arithmetic import way_of
from studio.adapters.sketch import write_sketch
from studio.errors import InputError, Unsupported

_FILE, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_WEIGHTS = (0.7, -0.4)


def save(folder, base, seed, **lora):
    """An adapter with random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **lora})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        disturb(adapted)
        adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two(pico, tmp_path_factory) -> tuple[Path, Path]:
    """Adapters of one rank, on modules that they share and on others."""
    place = tmp_path_factory.mktemp("two")
    first = save(place / "first", pico, 1, target_modules=["q_proj", "v_proj"])
    return first, save(place / "second", pico, 2, target_modules=["q_proj", "o_proj"], lora_alpha=16)


def exact(base, folders, weights=_WEIGHTS):
    """The weighted sum of what PEFT adds for each."""
    total = {}
    for folder, weight in zip(folders, weights, strict=True):
        for path, delta in deltas(base, folder).items():
            total[path] = total.get(path, 0) + weight * delta
    return total


def by_peft(base, folders, kind, **options):
    """What PEFT's own function makes of them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model = PeftModel.from_pretrained(model, str(folders[0]), adapter_name="one")
    model.load_adapter(str(folders[1]), "two")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model.add_weighted_adapter(["one", "two"], list(_WEIGHTS), "sum", combination_type=kind, **options)
    layers = adapted(model).items()
    return {path: layer.get_delta_weight("sum").detach() for path, layer in layers if "sum" in layer.scaling}


@pytest.mark.parametrize("kind", [kind for kind in COMBINATIONS if "dare" not in kind])
@pytest.mark.parametrize("majority", ["total", "frequency"])
def test_each_kind_gives_what_peft_gives(kind, majority, two, pico, tmp_path):
    if majority == "frequency" and "ties" not in kind:
        return
    plan = CombinePlan(two, _WEIGHTS, tmp_path / "sum", kind, density=0.6, majority=majority)
    done = result_of(adapters.combine(plan))
    options = {"density": 0.6, "majority_sign_method": majority}
    expected, found = by_peft(pico, two, kind, **options), deltas(pico, tmp_path / "sum")
    assert found.keys() == expected.keys()
    for path, delta in expected.items():
        torch.testing.assert_close(found[path], delta, rtol=1e-3, atol=1e-5)
    assert len(done.modules) == 6
    json.dumps(asdict(done))


@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties", "ties", "magnitude_prune"])
@pytest.mark.parametrize("majority", ["total", "frequency"])
def test_what_is_dropped_is_what_peft_drops(kind, majority):
    from peft.utils import merge_utils

    torch.manual_seed(3)
    tensors, weights = [torch.randn(40, 30) for _ in range(3)], torch.tensor([0.7, -0.4, 1.3])
    named = {"majority_sign_method": majority} if "ties" in kind else {}
    torch.manual_seed(5)
    expected = getattr(merge_utils, kind)(tensors, weights, 0.6, **named)
    found = way_of(kind, 0.6, majority, torch.Generator().manual_seed(5))(tensors, weights.tolist())
    torch.testing.assert_close(found, expected)


def test_dare_drops_the_same_for_the_same_seed_and_other_numbers_for_another(two, tmp_path):
    files = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        result_of(adapters.combine(CombinePlan(two, _WEIGHTS, tmp_path / name, "dare_linear", seed=seed)))
        files[name] = (tmp_path / name / _FILE).read_bytes()
    assert files["one"] == files["again"] != files["other"]


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_the_error_is_that_against_the_exact_weighted_sum(kind, two, pico, tmp_path):
    done = result_of(adapters.combine(CombinePlan(two, _WEIGHTS, tmp_path / "sum", kind)))
    total, found = exact(pico, two), deltas(pico, tmp_path / "sum")
    assert {module.module for module in done.modules} == total.keys() == found.keys()
    for module in done.modules:
        away = float((found[module.module] - total[module.module]).norm() / total[module.module].norm())
        assert module.error == pytest.approx(away, rel=1e-3, abs=1e-6)
        assert module.norm == pytest.approx(float(total[module.module].norm()), rel=1e-4)
        assert module.adapters == (2 if "q_proj" in module.name else 1)
    assert (done.error < 1e-6) == (kind == "cat")
    assert bool(done.caveats) == (kind not in ("cat", "svd") and not kind.endswith("_svd"))


def test_rank_stabilized_scaling_and_ranks_by_module_are_each_adapters_own(pico, tmp_path):
    # PEFT writes rank-stabilized results 1 to 4 times too large, and loses the alphas by module.
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}, "target_modules": ["q_proj", "v_proj"]}
    pair = (
        save(tmp_path / "one", pico, 1, use_rslora=True, target_modules=["q_proj", "v_proj"]),
        save(tmp_path / "two", pico, 2, **patterns),
    )
    done = result_of(adapters.combine(CombinePlan(pair, _WEIGHTS, tmp_path / "sum")))
    for path, delta in exact(pico, pair).items():
        torch.testing.assert_close(deltas(pico, tmp_path / "sum")[path], delta, rtol=1e-4, atol=1e-6)
    assert {module.rank for module in done.modules} == {6, 8}
    small = result_of(adapters.combine(CombinePlan(pair, _WEIGHTS, tmp_path / "small", "svd", rank=3)))
    for module in small.modules:
        values = torch.linalg.svdvals(exact(pico, pair)[module.module])
        assert module.error == pytest.approx(float(values[3:].norm() / values.norm()), rel=1e-3)


@pytest.mark.parametrize("name", ["GPT-2", "one layer", "a regular expression", "Phi-3"])
def test_every_shape_of_module_is_added_up(name, tmp_path):
    base, first = save_variant(name, tmp_path)
    second = Path(shutil.copytree(first, tmp_path / "second"))
    tensors = load_file(second / _FILE)
    save_file({key: torch.randn_like(tensor) for key, tensor in tensors.items()}, second / _FILE)
    result_of(adapters.combine(CombinePlan((first, second), _WEIGHTS, tmp_path / "sum")))
    found = deltas(base, tmp_path / "sum")
    for path, delta in exact(base, (first, second)).items():
        torch.testing.assert_close(found[path], delta, rtol=1e-4, atol=1e-5)


def test_the_outlook_says_beforehand_what_comes_out(two, tmp_path):
    for kind in ("cat", "svd", "linear"):
        plan = CombinePlan(two, _WEIGHTS, tmp_path / kind, kind)
        before, after = adapters.combine_outlook(plan), result_of(adapters.combine(plan))
        assert (before.modules, before.rank, before.parameters) == (len(after.modules), after.rank, after.parameters)
        assert (before.bytes, before.caveats) == (after.bytes, after.caveats)


@pytest.mark.parametrize(
    "name",
    [
        *("a head, untied", "norms", "tokens, tied", "biases that are trained", "biases of its own"),
        "embedding and head adapted",  # PEFT saves their tables along
    ],
)
def test_what_has_no_weighted_sum_is_refused(name, tmp_path):
    _, folder = save_variant(name, tmp_path)
    with pytest.raises(Unsupported, match="no weighted sum"):
        adapters.combine_outlook(CombinePlan((folder,), (0.5,), tmp_path / "sum"))


@pytest.mark.parametrize(("name", "why"), [("DoRA", "length of every row"), ("Mixtral", "experts")])
def test_what_is_more_than_a_product_is_refused(name, why, tmp_path):
    _, folder = save_variant(name, tmp_path)
    with pytest.raises(Unsupported, match=why):
        adapters.combine_outlook(CombinePlan((folder,), (0.5,), tmp_path / "sum"))


@pytest.mark.parametrize("kind", ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_kinds_that_add_factors_ask_for_equal_ranks(kind, pico, tmp_path):
    pair = save(tmp_path / "one", pico, 1), save(tmp_path / "two", pico, 2, r=8)
    with pytest.raises(InputError, match="ranks 4 and 8") as refused:
        adapters.combine_outlook(CombinePlan(pair, _WEIGHTS, tmp_path / "sum", kind))
    assert "svd" in refused.value.hint
    assert adapters.combine_outlook(CombinePlan(pair, _WEIGHTS, tmp_path / "sum")).rank == 12


def test_adapters_of_different_bases_are_refused(two, pico, tmp_path):
    wide = save(tmp_path / "wide", save_pico(tmp_path / "base", hidden_size=64), 1)
    with pytest.raises(InputError, match="32 inputs and 32 outputs in one adapter, 64"):
        adapters.combine_outlook(CombinePlan((two[0], wide), _WEIGHTS, tmp_path / "sum"))
    pair = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in two]
    for folder, number in zip(pair, (1.0, 5.0), strict=True):
        write_sketch(folder, [number] * 128)
    with pytest.raises(InputError, match="different bases"):
        adapters.combine_outlook(CombinePlan(tuple(pair), _WEIGHTS, tmp_path / "sum"))
    write_sketch(pair[1], [1.0] * 128)
    result_of(adapters.combine(CombinePlan(tuple(pair), _WEIGHTS, tmp_path / "sum")))
    assert (tmp_path / "sum" / "base.json").read_bytes() == (pair[0] / "base.json").read_bytes()


def test_different_names_of_the_base_are_a_caveat(two, tmp_path):
    pair = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in two]
    change_json(pair[0] / _CONFIG, base_model_name_or_path="owner/name")
    (said,) = adapters.combine_outlook(CombinePlan(tuple(pair), _WEIGHTS, tmp_path / "sum")).caveats
    assert "owner/name" in said


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"weights": (1.0,)}, "2 adapters and 1 weights"),
        ({"weights": (0.0, 0.0)}, "not zero"),
        ({"weights": (float("nan"), 1.0)}, "nan"),
        ({"kind": "sum"}, "'sum'"),
        ({"density": 0.0}, "Density"),
        ({"adapters": (Path("a"), Path("a"))}, "named twice"),
    ],
)
def test_a_plan_that_makes_no_sense_cannot_exist(change, why, tmp_path):
    plan = {"adapters": (Path("a"), Path("b")), "weights": (1.0, 1.0), "target": tmp_path / "sum"}
    with pytest.raises(InputError, match=why):
        CombinePlan(**{**plan, **change})


def test_closing_leaves_nothing(two, tmp_path):
    work = adapters.combine(CombinePlan(two, _WEIGHTS, tmp_path / "sum"))
    next(work)
    work.close()
    assert list(tmp_path.iterdir()) == []
