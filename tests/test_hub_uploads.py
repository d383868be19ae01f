"""Uploads: the real client in its own process against a Hub that misbehaves; one whole commit or none."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest
from loopback_hub.samples import ALICE, BOB, LARGE, READER

from studio import hub
from studio.errors import AccessDenied, Damaged, DoesNotFit, HubError, InputError, NotFound, Offline
from studio.events import Finished, Phase, Progress, Retrying
from studio.hub import Outgoing, Target, sending

COMMIT, PUT, PREUPLOAD, BATCH = "/commit/", "/_lfs/", "/preupload/", "objects/batch"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Outgoing, ...]:
    made = []
    for name, content in (LARGE | {"model-2.safetensors": LARGE["model.safetensors"] + b"2"}).items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        made.append(Outgoing(name, (tmp_path / name).stat().st_size, tmp_path / name))
    card = "---\nlicense: mit\n---\n\n# Hello\n"
    return (*made, Outgoing("README.md", len(card), text=card))


@pytest.fixture
def quick(monkeypatch):
    """The same in this process, without Xet and without waiting; what was waited for comes in a list."""
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


def pushed(files, token=ALICE):
    """The events of an upload in its own process."""
    return list(hub.upload(Target("alice/new"), files, "All of it", token=token))


def sent(files, repo="alice/new", token=ALICE, **wishes):
    """The same in this process."""
    plain = tuple(sending.Outgoing(f.path, f.size, str(f.place or ""), f.text) for f in files)
    return sending.send(sending.Order(repo, token, plain, "All of it", **wishes), lambda said: None)


def test_a_folder_is_uploaded_in_one_commit_and_read_back(hub_server, files):
    *events, last = pushed(files)
    done = last.result
    repo = hub_server.repos["alice/new"]
    assert (done.files, done.private, repo.private, repo.refs["main"]) == (5, True, True, done.commit)
    assert len(hub_server.requests("POST", COMMIT)) == 1
    for file in files:
        content = file.text.encode() if file.text else file.place.read_bytes()
        assert repo.commits[done.commit][file.path].content == content
    told = [event.phase for event in events if isinstance(event, Progress)]
    assert list(dict.fromkeys(told))[:2] == [Phase.HASH, Phase.UPLOAD]
    # Again: nothing is sent, nothing is committed.
    before = len(hub_server.requests("PUT", PUT))
    assert pushed(files)[-1].result.commit == done.commit
    assert (len(hub_server.requests("PUT", PUT)), len(hub_server.requests("POST", COMMIT))) == (before, 1)


def test_what_was_cut_off_goes_on_and_sends_only_what_is_missing(hub_server, files):
    second = hashlib.sha256(files[3].place.read_bytes()).hexdigest()
    hub_server.fault(f"/_lfs/.*{second}$", method="PUT", end="stall")
    with closing(hub.upload(Target("alice/new"), files, "All", token=ALICE)) as events:
        next(_ for _ in events if len(hub_server.requests("PUT", PUT)) == 2)
        next(_ for _ in events if hub_server.requests("POST", "/verify"))
    assert list(hub_server.repos["alice/new"].commits) == [hub_server.repos["alice/new"].refs["main"]]
    hub_server.faults.clear()
    hub_server.log.clear()
    assert isinstance(pushed(files)[-1], Finished)
    assert [request.path.rpartition("/")[2] for request in hub_server.requests("PUT", PUT)] == [second]


@pytest.mark.parametrize(
    ("path", "fault", "kind", "says"),
    [
        (COMMIT, {"status": 401}, AccessDenied, "expired"),
        (COMMIT, {"status": 403, "headers": {"x-error-message": "No rights"}}, AccessDenied, "No rights"),
        (COMMIT, {"status": 403, "headers": {"x-error-message": "Private storage limit reached"}}, DoesNotFit, "room"),
        (COMMIT, {"status": 404}, NotFound, "no alice/new"),
        (COMMIT, {"status": 409}, HubError, "being changed"),
        (COMMIT, {"status": 412}, HubError, "Somebody else changed"),
        (COMMIT, {"status": 429, "headers": {"retry-after": "600"}}, HubError, "in 600 seconds"),
        (COMMIT, {"status": 500}, HubError, "500"),
        (PREUPLOAD, {"status": 503}, HubError, "503"),
        (BATCH, {"status": 403}, AccessDenied, "may not write"),
        (PUT, {"status": 403}, AccessDenied, "may not write"),
        (COMMIT, {"end": "drop"}, Offline, "broke"),
        (PUT, {"end": "drop"}, Offline, "broke"),
        ("/api/repos/create", {"end": "drop"}, Offline, "broke"),
    ],
)
def test_a_fault_that_stays_is_told_and_leaves_nothing_half(hub_server, files, quick, path, fault, kind, says):
    hub_server.fault(path, **fault)
    with pytest.raises(kind, match=says) as told:
        sent(files)
    assert told.value.hint
    assert ALICE not in str(told.value)
    repo = hub_server.repos.get("alice/new")
    assert repo is None or (repo.private and list(repo.commits[repo.refs["main"]]) == [".gitattributes"])


@pytest.mark.parametrize("path", [COMMIT, PREUPLOAD, BATCH, PUT, "/verify", "/api/repos/create", "/tree/"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"end": "drop"}, {"status": 429, "headers": {"retry-after": "7"}}])
def test_a_fault_that_passes_is_waited_for(hub_server, files, quick, path, fault):
    hub_server.fault(path, times=1, **fault)
    done = sent(files)
    assert hub_server.repos["alice/new"].refs["main"] == done["commit"]
    assert any(wait >= 7 for wait in quick) if "headers" in fault else quick


def test_an_answer_that_got_lost_makes_no_second_commit(hub_server, files, quick):
    # The commit is made, and the connection ends before the client hears of it.
    hub_server.fault(COMMIT, times=1, end="drop", after=0)
    done = sent(files)
    assert len(hub_server.repos["alice/new"].commits) == 2
    assert hub_server.repos["alice/new"].refs["main"] == done["commit"]


def test_a_retry_is_told_to_whoever_follows(hub_server, files):
    hub_server.fault(COMMIT, times=1, status=429, headers={"retry-after": "1"})
    assert [event.seconds for event in pushed(files) if isinstance(event, Retrying)] == [1.0]


def test_a_hub_that_says_nothing_is_given_up(hub_server, files, monkeypatch):
    monkeypatch.setattr("studio.hub.uploading.STALL_SECONDS", 6.0)
    hub_server.fault(COMMIT, end="stall")
    with pytest.raises(HubError, match="moved for 6 seconds"):
        pushed(files)
    assert len(hub_server.repos["alice/new"].commits) == 1


def test_what_was_there_is_kept_but_for_weights_that_would_be_loaded_instead(hub_server, files, quick):
    repo = hub_server.add("alice/new", {"old.txt": "x", "model-9.safetensors": b"old"}, private=True)
    done = sent(files)
    assert repo.commits[done["commit"]].keys() == {*(file.path for file in files), "old.txt"}


def test_a_pull_request_leaves_the_branch_alone(hub_server, files, quick):
    repo = hub_server.add("alice/new", {"old.txt": "x"}, private=True)
    before = repo.refs["main"]
    done = sent(files, pull_request=True)
    assert (repo.refs["main"], repo.refs["refs/pr/1"]) == (before, done["commit"])
    assert done["url"].endswith("/discussions/1")
    # One whose answer got lost is not opened twice.
    hub_server.fault(COMMIT, times=1, end="drop", after=0)
    with pytest.raises(HubError, match="pull request"):
        sent((*files, Outgoing("more.txt", 4, text="more")), pull_request=True)
    assert sorted(repo.refs) == ["main", "refs/pr/1", "refs/pr/2"]


def test_a_repository_becomes_public_only_when_it_is_whole(hub_server, files, quick):
    hub_server.fault(COMMIT, times=5, status=500)
    with pytest.raises(HubError):
        sent(files, "alice/open", private=False)
    assert hub_server.repos["alice/open"].private
    assert not sent(files, "alice/other", private=False)["private"]
    assert not hub_server.repos["alice/other"].private
    with pytest.raises(InputError, match="public"):
        sent(files, "alice/other")


def test_a_name_that_somebody_else_has_is_told(hub_server, files, quick):
    hub_server.orgs["alice"] = ("atelier",)
    hub_server.add("alice/x", {"a": "b"})
    with pytest.raises(AccessDenied, match="may not write"):
        sent(files, "bob/new")
    with pytest.raises(AccessDenied, match="may not write"):
        sent(files, token=READER)
    assert sent(files, "atelier/new")["commit"]


def test_a_file_that_changes_meanwhile_is_noticed(hub_server, files, quick, monkeypatch):
    hashed = sending._hashed

    def then_changed(order, told):
        found = hashed(order, told)
        (files[0].place).write_text("{}".ljust(files[0].size))
        return found

    monkeypatch.setattr(sending, "_hashed", then_changed)
    with pytest.raises(Damaged, match="otherwise than it is here"):
        sent(files)


def test_who_a_token_is_of_and_what_it_may_do(hub_server):
    hub_server.orgs["alice"] = ("atelier",)
    assert hub.account(ALICE) == hub.Account("alice", ("alice", "atelier"), "write")
    assert hub.account(READER) == hub.Account("alice", (), "read")
    for token, says in ((False, "Nobody"), ("hf_nobody", "not accept")):
        with pytest.raises(AccessDenied, match=says):
            hub.account(token)
    with pytest.raises(AccessDenied, match="may read and not write"):
        hub.account(READER).check_may_write("alice")
    with pytest.raises(AccessDenied, match="bob"):
        hub.account(BOB).check_may_write("alice")
    assert hub.namespace_of("new", hub.account(ALICE)) == "alice"


def test_a_token_stays_out_of_logs(caplog):
    import logging

    before = logging.getLogRecordFactory()
    hub.keep_tokens_out()
    try:
        logging.getLogger("any").warning("sent %s", {"authorization": f"Bearer {ALICE}"})
        try:
            raise ValueError(f"hf_oauth_eyJ.abc-d.ef_g and {ALICE}")
        except ValueError:
            logging.getLogger("any").exception("failed")
    finally:
        logging.setLogRecordFactory(before)
    assert "redacted" in caplog.text
    assert ALICE not in caplog.text
    assert "eyJ" not in caplog.text
    assert "ef_g" not in caplog.text
