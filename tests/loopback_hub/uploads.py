"""The endpoints that write: repositories made, files taken in, commits, branches and pull requests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from loopback_hub.repos import Blob, Repo
from loopback_hub.server import Answer

if TYPE_CHECKING:
    from loopback_hub.api import Asked

GITATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def _said(asked: Asked) -> dict[str, Any]:
    return dict(json.loads(asked.request.body or b"{}"))


def create(asked: Asked) -> Answer:
    said, kind = _said(asked), "models"
    asked.may_write(namespace := said.get("organization") or asked.user or "")
    if said.get("type") == "dataset":
        kind = "datasets"
    name = f"{namespace}/{said['name']}"
    path = name if kind == "models" else f"{kind}/{name}"
    url = f"{asked.hub.url}/{path}"
    if path in asked.hub.repos:
        message = "You already created this model repo"
        return Answer.json({"error": message, "url": url}, status=409, headers={"x-error-message": message})
    made = asked.hub.add(name, {".gitattributes": GITATTRIBUTES}, kind=kind)
    made.private = said.get("visibility") == "private"
    return Answer.json({"url": url, "name": name, "private": made.private})


def settings(asked: Asked) -> Answer:
    repo, said = asked.writable(), _said(asked)
    if "visibility" in said:
        repo.private = said["visibility"] == "private"
    if "gated" in said:
        repo.gated = bool(said["gated"])
    return Answer.json(said)


def validate_yaml(asked: Asked) -> Answer:
    """The Hub looks at far more; what it says is in this form."""
    import yaml

    match = re.match(r"---\n(.*?)\n---", _said(asked)["content"], re.S)
    try:
        yaml.safe_load(match[1] if match else "")
    except yaml.YAMLError as error:
        return Answer.json({"errors": [{"message": str(error)}], "warnings": []}, status=400)
    return Answer.json({"errors": [], "warnings": []})


def preupload(asked: Asked) -> Answer:
    """Which files go to large file storage, and which are there already."""
    repo = asked.writable()
    tree, files = repo.commits[asked.commit(repo)], []
    for file in _said(asked)["files"]:
        here = tree.get(file["path"])
        mode = "lfs" if Blob.is_large(file["path"], file["size"]) else "regular"
        known = {"oid": here.sha256 if here.large else here.oid} if here else {}
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
    return Answer.json({"files": files})


def batch(asked: Asked) -> Answer:
    """Where each large file is to be put; nothing for one that is there already."""
    repo, objects = asked.writable(), []
    stored = {blob.sha256 for tree in repo.commits.values() for blob in tree.values()} | repo.objects.keys()
    for file in _said(asked)["objects"]:
        place = f"{asked.hub.url}/_lfs/{repo.path}/{file['oid']}"
        todo = {"upload": {"href": place, "header": {}}, "verify": {"href": f"{place}/verify", "header": {}}}
        objects.append(file | ({} if file["oid"] in stored else {"actions": todo}))
    return Answer.json({"transfer": "basic", "objects": objects})


def put(asked: Asked) -> Answer:
    """The bytes of one large file. As with the real storage, the address is the permission."""
    content, name = asked.request.body, asked.parts["sha256"]
    if hashlib.sha256(content).hexdigest() != name:
        return Answer.json({"error": "The hash is another one"}, status=400)
    asked.hub.repos[asked.parts["repo"]].objects[name] = content
    return Answer(200, {}, b"")


def verify(asked: Asked) -> Answer:
    stored = asked.hub.repos[asked.parts["repo"]].objects.get(asked.parts["sha256"])
    return Answer(200 if stored is not None and len(stored) == _said(asked)["size"] else 404, {}, b"")


def commit(asked: Asked) -> Answer:
    """Files added and deleted, all at once; with create_pr on a branch of their own."""
    from loopback_hub.api import Refusal

    repo = asked.writable()
    head, lines = asked.commit(repo), [json.loads(line) for line in asked.request.body.splitlines() if line.strip()]
    expected = lines[0]["value"].get("parentCommit")
    if expected and expected != head:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    branch = asked.parts["revision"] or "main"
    answer = {}
    if asked.query("create_pr"):
        number = sum(name.startswith("refs/pr/") for name in repo.refs) + 1
        branch = f"refs/pr/{number}"
        answer = {"pullRequestUrl": f"{asked.hub.url}/{repo.path}/discussions/{number}"}
    tree = dict(repo.commits[head])
    for line in lines[1:]:
        _apply(repo, tree, line["key"], line["value"])
    sha = repo.put(tree, branch)
    page = f"{asked.hub.url}/{repo.path}/commit/{sha}"
    return Answer.json({"success": True, "commitOid": sha, "commitUrl": page, **answer})


def _apply(repo: Repo, tree: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    from loopback_hub.api import Refusal

    path = value["path"]
    if key == "file":
        tree[path] = Blob(base64.b64decode(value["content"]), large=False)
    elif key == "lfsFile":
        known = {blob.sha256: blob.content for files in repo.commits.values() for blob in files.values()} | repo.objects
        if value["oid"] not in known:
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
        tree[path] = Blob(known[value["oid"]], large=True)
    elif key == "deletedFile" and tree.pop(path, None) is None:
        raise Refusal(404, f"A file with the name {path!r} does not exist", "EntryNotFound")


def branch(asked: Asked) -> Answer:
    from loopback_hub.api import Refusal

    repo, name = asked.writable(), asked.parts["branch"]
    if name in repo.refs:
        raise Refusal(409, "Reference already exists")
    repo.refs[name] = repo.refs["main"]
    return Answer.json({})
