"""The loopback Hub is what the real huggingface_hub client takes for the Hub, and misbehaves as it is told to."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, errors
from loopback_hub import LoopbackHub
from loopback_hub.samples import ALICE, BOB, READER

WEIGHTS = struct.pack("<Q", 2) + b"{}"
FILES = {"config.json": '{"model_type": "llama"}', "model.safetensors": WEIGHTS, "folder/notes.txt": "hello"}


@pytest.fixture
def api(hub_server: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub_server.url, token=False)


def cdn_get(server: LoopbackHub, content: bytes, **options: object) -> httpx2.Response:
    """The body of a large file, asked for without the client's retries."""
    repo = server.add("alice/body", {"model.safetensors": content})
    (blob,) = repo.commits[repo.refs["main"]].values()
    return httpx2.get(f"{server.url}/_cdn/alice/body/{blob.sha256}", timeout=5, **options)


def test_the_client_knows_who_it_is(api):
    assert api.whoami(token=ALICE)["name"] == "alice"
    with pytest.raises(errors.HfHubHTTPError, match="Invalid"):
        api.whoami(token="hf_nobody")


def test_the_client_finds_models(hub_server, api):
    hub_server.add("alice/llama", FILES, downloads=1)
    hub_server.add("alice/other-llama", FILES, downloads=5)
    hub_server.add("alice/secret-llama", FILES, private=True)
    assert [model.id for model in api.list_models(search="llama")] == ["alice/other-llama", "alice/llama"]
    assert [model.id for model in api.list_models(search="secret", token=ALICE)] == ["alice/secret-llama"]
    assert [model.id for model in api.list_models(limit=1)] == ["alice/other-llama"]


def test_the_client_reads_what_a_model_is(hub_server, api):
    repo = hub_server.add("alice/llama", FILES, license="mit")
    info = api.model_info("alice/llama", files_metadata=True)
    assert (info.sha, info.config["model_type"], info.private, info.gated) == (repo.refs["main"], "llama", False, False)
    assert {file.rfilename: file.size for file in info.siblings} == {
        path: len(content) for path, content in FILES.items()
    }
    assert api.model_info("alice/llama", expand=["downloads"]).siblings is None
    assert [branch.target_commit for branch in api.list_repo_refs("alice/llama").branches] == [info.sha]
    assert len(list(api.list_repo_tree("alice/llama"))) == 2
    assert len(list(api.list_repo_tree("alice/llama", recursive=True))) == 3
    (found,) = api.get_paths_info("alice/llama", ["model.safetensors", "nothing"])
    assert found.lfs.size == len(WEIGHTS)


def test_the_client_downloads_from_the_hub_and_from_its_other_origin(hub_server, api, tmp_path):
    hub_server.add("alice/llama", FILES)
    folder = Path(api.snapshot_download("alice/llama", cache_dir=tmp_path, token=ALICE))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "folder" / "notes.txt").read_text() == "hello"
    (large,) = hub_server.requests("GET", "/_cdn/")
    assert large.headers["host"].startswith("localhost")
    assert "authorization" not in large.headers
    assert all("authorization" in seen.headers for seen in hub_server.requests(path="/resolve/"))


def test_a_folder_can_be_put_on_the_hub(hub_server, api, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file.txt").write_text("hello")
    hub_server.add("alice/folder", tmp_path)
    assert api.list_repo_files("alice/folder") == ["sub/file.txt"]


@pytest.mark.parametrize(
    ("settings", "token", "refused"),
    [
        ({}, False, None),
        ({"private": True}, False, errors.RepositoryNotFoundError),
        ({"private": True}, BOB, errors.RepositoryNotFoundError),
        ({"private": True}, ALICE, None),
        ({"gated": True}, False, errors.GatedRepoError),
        ({"gated": True}, BOB, errors.GatedRepoError),
        ({"gated": True, "allowed": {"bob"}}, BOB, None),
        ({"disabled": True}, ALICE, errors.DisabledRepoError),
    ],
)
def test_the_client_is_refused_as_by_the_hub(hub_server, api, tmp_path, settings, token, refused):
    hub_server.add("alice/llama", FILES, **settings)
    asks = [
        lambda: api.auth_check("alice/llama", token=token),
        lambda: api.hf_hub_download("alice/llama", "config.json", cache_dir=tmp_path, token=token),
    ]
    for ask in asks:
        if refused is None:
            ask()
        else:
            # A download wraps a refusal that the client does not expect.
            with pytest.raises((refused, errors.LocalEntryNotFoundError)) as caught:
                ask()
            assert refused in (type(caught.value), type(caught.value.__cause__))


def test_what_does_not_exist_is_told_apart(hub_server, api, tmp_path):
    hub_server.add("alice/llama", FILES)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("alice/nothing")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info("alice/llama", revision="v9")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        api.hf_hub_download("alice/llama", "nothing.txt", cache_dir=tmp_path)
    with pytest.raises(errors.RemoteEntryNotFoundError):
        list(api.list_repo_tree("alice/llama", "nowhere"))


def test_parts_of_a_file_can_be_asked_for(hub_server):
    part = cdn_get(hub_server, b"0123456789", headers={"range": "bytes=4-"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"456789", "bytes 4-9/10")
    assert cdn_get(hub_server, b"0123456789", headers={"range": "bytes=2-3"}).content == b"23"
    assert cdn_get(hub_server, b"0123456789", headers={"range": "bytes=10-"}).status_code == 416


def test_a_fault_counts_and_chooses_its_requests(hub_server):
    hub_server.fault("/api/whoami", method="GET", status=503, headers={"retry-after": "1"}, times=2)
    seen = [httpx2.get(f"{hub_server.url}/api/{path}").status_code for path in ("models", *["whoami-v2"] * 3)]
    assert seen == [200, 503, 503, 401]


def test_a_connection_can_be_cut_before_and_within_the_answer(hub_server):
    fault = hub_server.fault("/_cdn/", end="drop")
    with pytest.raises(httpx2.RemoteProtocolError, match="without sending a response"):
        cdn_get(hub_server, b"x" * 200_000)
    fault.after = 100_000
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        cdn_get(hub_server, b"x" * 200_000)
    assert hub_server.log[-1].sent == 100_000


def test_a_file_can_be_shorter_than_it_should_be(hub_server):
    hub_server.fault("/_cdn/", shorten=3)
    assert cdn_get(hub_server, b"0123456789").content == b"012"
    assert cdn_get(hub_server, b"0123456789", headers={"range": "bytes=3-"}).status_code == 416


def test_an_answer_can_be_late_and_a_body_slow(hub_server):
    hub_server.fault("/_cdn/", delay=0.3, pace=0.1)
    begin = time.monotonic()
    assert len(cdn_get(hub_server, b"x" * 100_000).content) == 100_000
    assert time.monotonic() - begin > 0.4


def test_a_silent_server_does_not_keep_the_test_from_ending():
    with LoopbackHub() as server:
        server.fault("/api/models", end="stall")
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.get(f"{server.url}/api/models", timeout=0.2)
        begin = time.monotonic()
    assert time.monotonic() - begin < 8


def test_the_client_uploads_whole_commits(hub_server, api, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    api.create_repo("alice/new", private=True, token=ALICE)
    with pytest.raises(errors.HfHubHTTPError, match="already"):
        api.create_repo("alice/new", token=ALICE)
    wanted = [CommitOperationAdd(name, tmp_path / name) for name in FILES]
    done = api.create_commit("alice/new", wanted, commit_message="All", token=ALICE)
    repo = hub_server.repos["alice/new"]
    assert repo.refs["main"] == done.oid
    assert {path: blob.content for path, blob in repo.commits[done.oid].items() if path in FILES} == {
        path: (content if isinstance(content, bytes) else content.encode()) for path, content in FILES.items()
    }
    assert len(hub_server.requests("PUT", "/_lfs/")) == 1
    # A second time nothing is sent; a stale parent is refused; a pull request leaves main alone.
    again = [CommitOperationAdd(name, tmp_path / name) for name in FILES]
    assert api.create_commit("alice/new", again, commit_message="All", token=ALICE).oid == done.oid
    more = CommitOperationAdd("more.txt", b"more")
    with pytest.raises(errors.HfHubHTTPError, match="412"):
        api.create_commit("alice/new", [more], commit_message="x", token=ALICE, parent_commit="0" * 40)
    request = api.create_commit("alice/new", [more], commit_message="x", token=ALICE, create_pr=True)
    assert (request.pr_revision, repo.refs["main"]) == ("refs/pr/1", done.oid)
    assert len(hub_server.requests("PUT", "/_lfs/")) == 1


def test_who_may_not_write_is_refused(hub_server, api):
    hub_server.add("alice/llama", FILES)
    hub_server.orgs["alice"] = ("atelier",)
    assert [each["name"] for each in api.whoami(token=ALICE)["orgs"]] == ["atelier"]
    assert api.whoami(token=READER)["auth"]["accessToken"]["role"] == "read"
    api.create_repo("atelier/theirs", private=True, token=ALICE)
    for repo, token in (("alice/new", BOB), ("alice/new", READER), ("elsewhere/new", ALICE)):
        with pytest.raises(errors.HfHubHTTPError, match="403"):
            api.create_repo(repo, token=token)
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api.create_commit("alice/llama", [CommitOperationAdd("x", b"x")], commit_message="x", token=BOB)
