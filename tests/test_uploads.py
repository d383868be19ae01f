"""Publishing for real: pushed by a worker process, read back, loaded from the server, and nothing given away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from loopback_hub.samples import ALICE, READER
from merge_steps import ordered as merge_ordered
from merge_steps import worked_off as merge_off
from pico import load_pico, save_adapter
from run_steps import made as made_run
from run_steps import until
from run_steps import worked_off as run_off
from upload_steps import at_rest, base_on_hub, everything_written, ordered, worked_off

from studio import keeping, merges, runs, uploads
from studio.cli import main
from studio.errors import AccessDenied, Busy, InputError
from studio.events import Finished
from studio.jobs.publishing import choices
from studio.models import Precision
from studio.runs import State

# Loads each pair as anybody would, and says how far the scores of one are from those of the other.
LOADS = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
ids, scores = torch.arange(10, 40)[None], {}
def apart(one, other):
    with torch.no_grad():
        return float((one(ids).logits - other(ids).logits).abs().max())
for kind, repo, folder in json.loads(sys.argv[1]):
    base = AutoModelForCausalLM.from_pretrained("alice/pico")
    if kind == "adapter":
        there = AutoModelForCausalLM.from_pretrained(repo)  # finds its base by the name in its config
        plain = apart(there, base)
        here = PeftModel.from_pretrained(base, folder)
    else:
        here, there = (AutoModelForCausalLM.from_pretrained(each) for each in (folder, repo))
        plain = apart(there, base)
    scores[kind] = [apart(here, there), plain]
    if kind != "adapter":
        AutoTokenizer.from_pretrained(repo)
for code in json.loads(sys.argv[2]):
    exec(code, {})
print("SCORES", json.dumps(scores))
"""


def snippet(server, repo) -> str:
    """The code of a card that is on the Hub."""
    files = server.repos[repo].commits[server.repos[repo].refs["main"]]
    return files["README.md"].content.decode().split("```python\n")[1].split("```")[0]


def kept(pico, folder) -> Path:
    """The pico model in nf4, written to a folder."""
    loaded = load_pico(pico, precision=Precision.NF4)
    work = keeping.keep(loaded, pico, folder)
    with closing(work):
        for _ in work:
            pass
    return folder


def test_adapter_sharded_merge_and_quantized_model_come_back_as_they_were(hub_server, pico, tmp_path):
    base_on_hub(hub_server, pico)
    adapter = save_adapter(tmp_path / "adapter", pico)
    merge = merges.create(merge_ordered(pico, tmp_path, shard_size=0.0001))
    merge_off(merge)
    merged, quantized = tmp_path / "merged", kept(pico, tmp_path / "quantized")
    assert len(list(merged.glob("*.safetensors"))) > 1
    pairs = [("adapter", "alice/a", adapter), ("merged", "alice/m", merged), ("quantized", "alice/q", quantized)]
    ids = [ordered(folder, repo, base="alice/pico") for _, repo, folder in pairs]
    for id_ in ids:
        uploads.start(id_, token=ALICE)
    assert [at_rest(id_) for id_ in ids] == [State.FINISHED] * 3, [uploads.of(id_).standing for id_ in ids]
    env = {**os.environ, "HF_TOKEN": ALICE, "HF_ENDPOINT": hub_server.url}
    said = json.dumps([(kind, repo, str(folder)) for kind, repo, folder in pairs])
    codes = json.dumps([snippet(hub_server, repo) for _, repo, _ in pairs])
    command = [sys.executable, "-c", LOADS, said, codes]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads(done.stdout.rpartition("SCORES")[2])
    assert all(here == 0.0 for here, _ in scores.values()), scores
    assert all(plain > 1e-3 for _, plain in scores.values()), scores
    for (kind, repo, _), id_ in zip(pairs, ids, strict=True):
        upload = uploads.of(id_)
        found = hub_server.repos[repo]
        card = found.commits[found.refs["main"]]["README.md"].content.decode()
        relation = {"adapter": "adapter", "merged": "finetune", "quantized": "quantized"}[kind]
        lines = card.split("\n")
        assert {"base_model: alice/pico", f"base_model_relation: {relation}", "license: cc-by-sa-4.0"} <= set(lines)
        everything = b"".join(blob.content for blob in found.commits[found.refs["main"]].values())
        assert str(tmp_path).encode() not in everything
        assert (upload.uploaded.commit, upload.uploaded.private) == (found.refs["main"], True)
    # Nothing that was written holds the token, nor does what others see of the processes.
    written = everything_written()
    assert any("log.txt" in name for name in written)
    assert [name for name, content in written.items() if ALICE.encode() in content] == []


def test_a_token_is_never_seen_from_outside_while_an_upload_is_at_work(hub_server, pico, tmp_path):
    base_on_hub(hub_server, pico)
    hub_server.fault("/preupload/", end="stall")
    id_ = ordered(save_adapter(tmp_path / "adapter", pico), base="alice/pico")
    uploads.start(id_, token=ALICE)
    until(lambda: hub_server.requests("POST", "/preupload/"))
    workers = psutil.Process().children(recursive=True)
    assert len(workers) >= 2
    for worker in workers:
        assert ALICE not in " ".join(worker.cmdline())
        assert ALICE not in " ".join(worker.environ().values())
    with pytest.raises(Busy, match="Stop it first"):
        uploads.delete(id_)
    uploads.ask_to_stop(id_)
    assert at_rest(id_) is State.STOPPED
    hub_server.faults.clear()
    assert isinstance(worked_off(id_)[-1], Finished)
    with pytest.raises(InputError, match="finished"):
        uploads.start(id_, token=ALICE)
    assert [each.id for each in uploads.listing("alice")] == [id_]
    assert uploads.listing("bob") == ()
    uploads.delete(id_)
    assert uploads.listing() == ()
    assert [name for name, content in everything_written().items() if ALICE.encode() in content] == []


def test_what_fails_says_why_in_its_record_and_can_be_started_again(hub_server, pico, tmp_path):
    base_on_hub(hub_server, pico)
    id_ = ordered(save_adapter(tmp_path / "adapter", pico), base="alice/pico")
    hub_server.fault("/commit/", status=401)
    with pytest.raises(AccessDenied, match="expired"):
        worked_off(id_)
    standing = uploads.of(id_).standing
    assert (standing.state, "expired" in standing.message) == (State.FAILED, True)
    with pytest.raises(AccessDenied, match="Nobody"):
        uploads.start(id_, token=False)
    hub_server.faults.clear()
    with pytest.raises(AccessDenied, match="may not write"):
        worked_off(id_, token=READER)
    sent = len(hub_server.requests("PUT", "/_lfs/"))
    assert isinstance(worked_off(id_)[-1], Finished)
    assert len(hub_server.requests("PUT", "/_lfs/")) == sent == 1  # what had arrived was not sent again


def test_a_folder_that_changes_before_it_is_sent_is_looked_over_again(hub_server, pico, tmp_path):
    base_on_hub(hub_server, pico)
    adapter = save_adapter(tmp_path / "adapter", pico)
    id_ = ordered(adapter, base="alice/pico")
    (adapter / "notes.json").write_text(json.dumps({"token": ALICE}))
    with pytest.raises(InputError, match=r"notes\.json holds what looks like a token of Hugging Face"):
        worked_off(id_)
    assert "alice/new" not in hub_server.repos


def test_a_run_is_published_with_its_curve_and_its_record(hub_server, pico, tmp_path):
    run = made_run(pico, tmp_path, most_steps=4, evaluate_every=2)
    run_off(run)
    folder = runs.of(run).folder
    labels = [choice.label.partition(":")[0] for choice in choices()]
    assert labels == ["Adapter", "Record of the run"]
    for place, repo in ((folder / "adapter", "alice/adapter"), (folder, "alice/record")):
        assert isinstance(worked_off(ordered(place, repo))[-1], Finished)
        found = hub_server.repos[repo]
        files = found.commits[found.refs["main"]]
        assert files["loss.svg"].content.startswith(b"<svg")
        assert "license: unknown" in files["README.md"].content.decode()
        everything = b"".join(blob.content for blob in files.values())
        assert str(tmp_path).encode() not in everything.replace(str(pico).encode(), b"") or repo == "alice/record"
    assert {"run.yaml", "events.jsonl", "README.md"} <= files.keys()
    assert not any(path.startswith(("data/", "checkpoints/")) for path in files)


def test_push_on_the_command_line(hub_server, pico, tmp_path, capsys, monkeypatch):
    base_on_hub(hub_server, pico)
    adapter = save_adapter(tmp_path / "adapter", pico)

    def push(*words):
        code = main(["push", str(adapter), *words])
        return code, *capsys.readouterr()

    code, _, err = push("alice/new")
    assert (code, "Nobody is signed in" in err) == (1, True)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    code, out, _ = push("new", "--base", "alice/pico", "--dry", "--json")
    said = json.loads(out)
    assert (code, said["kind"], said["licence"], said["as"]) == (0, "adapter", "cc-by-sa-4.0", "alice")
    assert [file["path"] for file in said["files"]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert "alice/new" not in hub_server.repos
    code, out, err = push("new", "--base", "alice/pico")
    assert (code, out) == (0, f"{hub_server.url}/alice/new\n")
    for words, says in (
        (("new", "--base", "alice/pico", "--licence", "mit"), "cannot be published under mit"),
        (("bob/new",), "may not write"),
        (("--", "no/such/name"), "is not the name"),
        (("new", "--base", str(pico)), "not a place of this machine"),
    ):
        code, _, err = push(*words)
        assert (code, says in err) == (1, True), err
    assert ALICE not in out + err
