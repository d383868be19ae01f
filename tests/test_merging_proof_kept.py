"""What is asked of a proof, what it says, and that it holds for the files that were proven and no others."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from dataclasses import asdict, replace

import pytest
import torch
from proof_steps import change_tensor, edit, failed, proven, save_base, save_lora, save_merged
from safetensors.torch import load_file, save_file

from studio import merging
from studio.errors import DoesNotFit, InputError, Unsupported
from studio.evaluation.scoring import Passage
from studio.events import Finished, Phase, Progress
from studio.models import Precision

ROWS = tuple(Passage(tuple(range(10 + n, 40 + n)), (False,) * 10 + (True,) * 20) for n in range(5))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Base, adapter and a sound merge in bf16."""
    root = tmp_path_factory.mktemp("kept")
    base = save_base(root / "base", dtype="bf16")
    adapter = save_lora(root / "adapter", base, target_modules="all-linear")
    return base, adapter, save_merged(root / "merged", base, adapter, dtype="bf16", shard="20KB")


@pytest.fixture(scope="module")
def proof(folders):
    return proven(*folders, "bf16", rows=ROWS, prompts=("What now?",))


@pytest.fixture
def merged(folders, tmp_path):
    """A copy of the merge, to be changed."""
    return shutil.copytree(folders[2], tmp_path / "merged")


def test_a_proof_says_what_it_covers_and_is_plain(proof):
    assert proof.covered == (
        "All 21 tensors, of which the adapter reaches 14; 5 prompts with up to 8 tokens of reply each"
        " and 5 held-out rows."
    )
    assert proof.passed
    assert proof.whole
    assert all(check.words for check in proof.checks)
    assert json.loads(json.dumps(asdict(proof)))["checks"][0]["name"] == "files"
    assert pickle.loads(pickle.dumps(proof)) == proof
    assert {name for name, _ in proof.versions} >= {"torch", "peft", "transformers"}


def test_perplexity_is_compared_on_rows(proof):
    assert proof["perplexity"].state == "passed"
    assert 0 < proof["perplexity"].found < proof["perplexity"].limit
    assert "5 held-out rows" in proof["perplexity"].words


def test_what_is_allowed_follows_from_the_dtype(folders, tmp_path):
    base, adapter, _ = folders
    limits = {}
    for precision in ("bf16", "fp16", "fp32"):
        merged = save_merged(tmp_path / precision, base, adapter, dtype=precision)
        limits[precision] = proven(base, adapter, merged, precision)
    for name in ("scores", "mean score"):
        # fp16 has three bits more than bf16, and fp32 thirteen more again.
        assert 4 < limits["bf16"][name].limit / limits["fp16"][name].limit < 16
        assert limits["fp16"][name].limit / limits["fp32"][name].limit > 100
    assert all(each.passed for each in limits.values())


def test_a_merge_in_another_dtype_than_promised_is_caught(folders):
    assert {"dtype", "size on disk"} <= failed(proven(*folders, "fp32"))


def test_an_index_that_leaves_a_tensor_out_is_caught(folders, merged):
    index = merged / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    name = min(weight_map)
    file = weight_map.pop(name)
    edit(index, weight_map=weight_map)
    found = proven(*folders[:2], merged, "bf16")
    assert failed(found) == {"files"}
    assert file in found["files"].words


def test_a_head_that_should_be_tied_and_is_another_is_caught(folders, merged):
    shard = next(file for file in merged.glob("*.safetensors") if "model.norm.weight" in load_file(file))
    tensors = load_file(shard)
    embedding = next(load_file(f)[k] for f in merged.glob("*.safetensors") for k in load_file(f) if "embed" in k)
    save_file({**tensors, "lm_head.weight": embedding + 1}, shard, metadata={"format": "pt"})
    index = merged / "model.safetensors.index.json"
    edit(index, weight_map={**json.loads(index.read_text())["weight_map"], "lm_head.weight": shard.name})
    assert {"tying", "other weights"} <= failed(proven(*folders[:2], merged, "bf16", free_bytes=0))


def test_another_config_is_caught(folders, merged):
    edit(merged / "config.json", rms_norm_eps=1e-2)
    found = proven(*folders[:2], merged, "bf16")
    assert {"config", "scores"} <= failed(found)
    assert "rms_norm_eps" in found["config"].words


def test_a_config_that_builds_no_model_is_a_failed_check(folders, merged):
    edit(merged / "config.json", num_attention_heads=3)
    found = proven(*folders[:2], merged, "bf16")
    assert failed(found) == {"files"}
    assert "transformers cannot build a model" in found["files"].words


def test_a_proof_is_kept_beside_the_files_and_read_back(proof, merged):
    assert merging.read_proof(merged) is None
    assert merging.write_proof(proof, merged) == merged / "proof.json"
    assert merging.read_proof(merged) == proof
    (merged / "README.md").write_text("A card comes later.")
    assert merging.read_proof(merged) == proof
    assert sorted(file.name for file in merged.iterdir() if file.name.startswith(".")) == []


@pytest.mark.parametrize("what", ["weights", "config.json", "tokenizer.json", "chat_template.jinja", "a new file"])
def test_a_proof_does_not_hold_for_files_that_changed(what, proof, merged):
    merging.write_proof(proof, merged)
    if what == "weights":
        file = next(merged.glob("*.safetensors"))
        name = sorted(load_file(file))[0]
        change_tensor(file, name, lambda tensor: tensor.clone().view(torch.int16).bitwise_xor(1).view(torch.bfloat16))
    elif what == "a new file":
        (merged / "generation_config.json.new").write_text("{}")
    else:
        (merged / what).write_text((merged / what).read_text() + " ")
    assert merging.read_proof(merged) is None
    with pytest.raises(InputError, match="has changed since it was proven"):
        merging.write_proof(proof, merged)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"checks": [{"name": 1}]}'])
def test_what_is_no_proof_is_none(content, merged):
    (merged / "proof.json").write_text(content)
    assert merging.read_proof(merged) is None


def test_a_large_file_is_sampled_and_counts_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(merging.proof, "_WHOLE_BYTES", 1000)
    file = tmp_path / "model.safetensors"
    content = bytearray(5_000_000)
    file.write_bytes(content)
    before = merging.proof.fingerprint(tmp_path)
    for place in (0, len(content) - 1, 4095):
        changed = bytearray(content)
        changed[place] = 1
        file.write_bytes(changed)
        assert merging.proof.fingerprint(tmp_path) != before
    file.write_bytes(content)
    assert merging.proof.fingerprint(tmp_path) == before


def test_a_proof_that_finds_no_room_leaves_nothing(proof, merged, small_disk):
    full = shutil.copytree(merged, small_disk / "merged")
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(5_000_000))
    with pytest.raises(DoesNotFit, match="cannot be written"):
        merging.write_proof(proof, full)
    assert not [file for file in full.iterdir() if "proof" in file.name]


def test_it_tells_how_far_it_is_and_can_be_closed_at_any_event(folders):
    question = merging.ProofQuestion(*folders, reply_tokens=4)
    events = list(merging.prove(question))
    assert isinstance(events[-1], Finished)
    assert {event.phase for event in events[:-1]} >= {Phase.CHECK, Phase.READ, Phase.MEASURE}
    for after in range(1, 12, 3):
        work = merging.prove(question)
        for _ in range(after):
            assert isinstance(next(work), Progress)
        work.close()
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("studio-work")] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"precision": Precision.NF4}, "not proven"),
        ({"reply_tokens": 0}, "Reply tokens"),
        ({"prompts": (" ",)}, "empty"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(change, says, folders):
    with pytest.raises(InputError, match=says) as caught:
        replace(merging.ProofQuestion(*folders), **change)
    assert caught.value.hint


def test_a_folder_that_is_not_there_or_is_named_twice_is_refused(folders, tmp_path):
    base, adapter, _ = folders
    with pytest.raises(InputError, match="the same"):
        merging.ProofQuestion(base, adapter, base)
    with pytest.raises(InputError, match="There is no folder"):
        proven(base, adapter, tmp_path / "nowhere")


def test_an_adapter_for_another_model_is_refused(folders, tmp_path):
    wider = save_base(tmp_path / "wider", hidden_size=64)
    with pytest.raises(Unsupported, match="does not fit this model"):
        proven(wider, folders[1], folders[2], "bf16")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight"), "up_proj.weight: missing"),
        (lambda tensors: tensors.update(stray=torch.ones(2)), "stray: unknown to the model"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}), "norm.weight: of another shape than"),
    ],
)
def test_a_tensor_that_does_not_belong_to_the_model_is_caught(spoil, says, folders, tmp_path):
    merged = save_merged(tmp_path / "merged", *folders[:2], dtype="bf16")
    tensors = load_file(merged / "model.safetensors")
    spoil(tensors)
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})
    found = proven(*folders[:2], merged, "bf16", free_bytes=0)
    assert "names and shapes" in failed(found)
    assert says in found["names and shapes"].words
    assert found["adapted weights"].state == "not done"


def test_a_folder_that_changes_meanwhile_is_not_proven(folders, merged):
    work = merging.prove(merging.ProofQuestion(*folders[:2], merged, free_bytes=0))
    while next(work).phase != Phase.CHECK:
        pass
    (merged / "added_tokens.json").write_text("{}")
    with pytest.raises(InputError, match="changed while it was proven"):
        list(work)
