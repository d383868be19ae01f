"""An adapter at a smaller rank is the nearest one that there is, and what it lost is told."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from adapter_steps import deltas, error, logits, result_of
from adapter_variants import on_top, save_variant
from safetensors.torch import load_file, save_file

from studio import adapters
from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.events import Finished, Progress

_FILE = "adapter_model.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "q and v",
        "rsLoRA",
        "patterns",
        "GPT-2",
        "embedding and head adapted",
        "a head, untied",
        "a larger vocabulary, tied",
    ],
)
def test_peft_loads_the_nearest_update_of_that_rank(name, tmp_path):
    base, folder = save_variant(name, tmp_path)
    done = result_of(adapters.compress(folder, 2, tmp_path / "small"))
    before, after = deltas(base, folder), deltas(base, tmp_path / "small")
    lost = whole = 0.0
    for module in done.modules:
        update = before[module.module].double()
        u, values, v = torch.linalg.svd(update, full_matrices=False)
        nearest = u[:, :2] * values[:2] @ v[:2]
        torch.testing.assert_close(after[module.module].double(), nearest, rtol=1e-4, atol=1e-6)
        assert module.loss == pytest.approx(float((update - nearest).norm() / update.norm()), rel=1e-3, abs=1e-6)
        assert module.rank == 2
        lost, whole = lost + float((update - nearest).norm() ** 2), whole + float(update.norm() ** 2)
    assert done.loss == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert done.parameters < done.parameters_before
    assert adapters.fit(adapters.read(tmp_path / "small"), base).fits
    json.dumps(asdict(done))


def test_what_is_beside_the_products_stays_as_it_is(tmp_path):
    for name in ("biases that are trained", "biases of its own", "norms", "tokens, untied"):
        base, folder = save_variant(name, tmp_path / name)
        tensors = load_file(folder / _FILE)
        for key in tensors:  # updates of rank 1, so that nothing is lost
            if key.endswith("lora_A.weight"):
                tensors[key][1:] = 0
        save_file(tensors, folder / _FILE)
        done = result_of(adapters.compress(folder, 1, tmp_path / name / "small"))
        assert done.loss < 1e-6
        assert error(logits(on_top(base, tmp_path / name / "small")), logits(on_top(base, folder))) < 1e-5


def test_a_rank_that_is_not_smaller_is_refused(tmp_path):
    base, folder = save_variant("patterns", tmp_path)  # its ranks are 2, 4 and 6
    for rank in (0, 6, 7):
        with pytest.raises(InputError, match=r"from 1 to 5"):
            result_of(adapters.compress(folder, rank, tmp_path / "small"))
    done = result_of(adapters.compress(folder, 5, tmp_path / "small"))
    assert sorted({module.rank for module in done.modules}) == [2, 4, 5]
    assert {module.rank for module in adapters.read(tmp_path / "small").modules} == {2, 4, 5}
    # Those that had a smaller rank are what they were.
    before, after = deltas(base, folder), deltas(base, tmp_path / "small")
    for module in done.modules:
        if module.rank < 5:
            torch.testing.assert_close(after[module.module], before[module.module], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "why"), [("DoRA", "length of every row"), ("Mixtral", "experts")])
def test_updates_that_are_more_than_products_are_refused(name, why, tmp_path):
    _, folder = save_variant(name, tmp_path)
    with pytest.raises(Unsupported, match=why) as refused:
        result_of(adapters.compress(folder, 2, tmp_path / "small"))
    assert "extract" in refused.value.hint


def test_a_number_that_is_none_leaves_nothing(tmp_path):
    _, folder = save_variant("q and v", tmp_path)
    tensors = load_file(folder / _FILE)
    next(iter(tensors.values()))[0, 0] = torch.inf
    save_file(tensors, folder / _FILE)
    with pytest.raises(Damaged, match="not numbers"):
        result_of(adapters.compress(folder, 2, tmp_path / "small"))
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def test_closing_leaves_nothing_and_what_a_killed_one_left_is_no_obstacle(tmp_path):
    _, folder = save_variant("q and v", tmp_path)
    work = adapters.compress(folder, 2, tmp_path / "small")
    assert isinstance(next(work), Progress)
    assert (tmp_path / "small.part").is_dir()
    work.close()
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}
    (tmp_path / "small.part").mkdir()
    (tmp_path / "small.part" / _FILE).write_text("half")
    assert isinstance([*adapters.compress(folder, 2, tmp_path / "small")][-1], Finished)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter", "small"}


def test_a_folder_that_is_there_is_never_written_over(tmp_path):
    _, folder = save_variant("q and v", tmp_path)
    with pytest.raises(InputError, match="exists already"):
        result_of(adapters.compress(folder, 2, folder))


def test_a_full_disk_is_told(tmp_path, small_disk):
    _, folder = save_variant("q and v", tmp_path)
    (small_disk / "filler").write_bytes(bytes(4 << 20))
    with pytest.raises(DoesNotFit, match="free"):
        result_of(adapters.compress(folder, 2, small_disk / "small"))
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
