"""The endpoints: what the Hub answers to a request, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from loopback_hub import uploads
from loopback_hub.repos import Repo, entry
from loopback_hub.server import Answer, Request

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

_ORDERS = {"downloads", "likes", "lastModified", "createdAt", "trendingScore"}


class Refusal(Exception):
    """An error as the Hub words it: `code` is what the client's exception classes follow."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        headers = {"x-error-message": message} | ({"x-error-code": code} if code else {})
        self.answer = Answer.json({"error": message}, status=status, headers=headers)


class Asked:
    """A request with the parts of its path, and who asks."""

    def __init__(self, hub: LoopbackHub, request: Request, parts: dict[str, str | None]) -> None:
        self.hub, self.request = hub, request
        self.parts = {name: unquote(part or "") for name, part in parts.items()}
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.user, self.token = hub.users.get(token), token
        if token and self.user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")

    def query(self, name: str) -> str:
        """One value of the query, or nothing."""
        return self.request.query.get(name, [""])[0]

    def repo(self, *, content: bool = False) -> Repo:
        """The repository in the path, if the user may see it and, for its content, read it."""
        repo = self.hub.repos.get(self.parts["repo"].removeprefix("models/"))
        if repo is None or (repo.private and repo.owner not in self.namespaces):
            # The Hub sends this code with 404 only. Over http the client needs it with 401 as well to raise what it
            # raises over https.
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if repo.disabled:
            raise Refusal(403, "Access to this resource is disabled.")
        if content and repo.gated and self.user not in {repo.owner, *repo.allowed}:
            raise Refusal(403 if self.user else 401, f"Access to {repo.path} is restricted.", "GatedRepo")
        return repo

    @property
    def namespaces(self) -> list[str]:
        """The user and the organisations that the user is in."""
        return [self.user, *self.hub.orgs.get(self.user, ())] if self.user else []

    def may_write(self, namespace: str) -> None:
        """Refuse who may not write there, or whose token may not write at all."""
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if namespace not in self.namespaces or self.hub.roles.get(self.token) == "read":
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')

    def writable(self) -> Repo:
        """The repository in the path, if the user may write to it."""
        repo = self.repo()
        self.may_write(repo.owner)
        return repo

    def commit(self, repo: Repo) -> str:
        """The commit in the path, or that of main."""
        sha = repo.resolve(self.parts.get("revision") or "main")
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {self.parts['revision']}", "RevisionNotFound")
        return sha


def whoami(asked: Asked) -> Answer:
    if asked.user is None:
        raise Refusal(401, "Invalid username or password.")
    access = {"displayName": "test", "role": asked.hub.roles.get(asked.token, "write")}
    orgs = [{"type": "org", "name": name} for name in asked.hub.orgs.get(asked.user, ())]
    auth = {"type": "access_token", "accessToken": access}
    return Answer.json({"type": "user", "name": asked.user, "orgs": orgs, "auth": auth})


def search(asked: Asked) -> Answer:
    """One page of the models that fit, the greatest first, and in the Link header the way to the next."""
    order = asked.query("sort") or "downloads"
    if order not in _ORDERS:
        raise Refusal(400, f"Invalid sort: {order}")
    shown = [repo for repo in asked.hub.repos.values() if repo.kind == "models" and _visible(repo, asked)]
    found = [repo.describe(repo.refs["main"]) for repo in shown]
    found = [said for said in found if _fits(said, asked)]
    found.sort(key=lambda said: said[order], reverse=asked.query("direction") != "1")
    begin, limit = int(asked.query("cursor") or 0), int(asked.query("limit") or 1000)
    headers = {}
    if begin + limit < len(found):
        query = urlencode({**asked.request.query, "cursor": begin + limit}, doseq=True)
        headers = {"link": f'<{asked.hub.url}{asked.request.path}?{query}>; rel="next"'}
    return Answer.json([_only(said, asked) for said in found[begin : begin + limit]], headers=headers)


def _visible(repo: Repo, asked: Asked) -> bool:
    return not repo.private or repo.owner in asked.namespaces


def _fits(said: dict[str, Any], asked: Asked) -> bool:
    gated, weights = asked.query("gated"), said.get("safetensors")
    least, most = (re.search(rf"{end}:(\d+)([KMBT]?)", asked.query("num_parameters")) for end in ("min", "max"))
    total = weights["total"] if weights else None  # what has not been counted is in no range
    return all(
        (
            set(asked.request.query.get("filter", [])) <= set(said["tags"]),
            asked.query("search").lower() in said["id"].lower(),
            asked.query("author") in ("", said["author"]),
            asked.query("pipeline_tag") in ("", said.get("pipeline_tag")),
            not gated or bool(said["gated"]) == (gated == "true"),
            not least or (total is not None and total >= _number(least)),
            not most or (total is not None and total <= _number(most)),
        )
    )


def _number(text: re.Match[str]) -> int:
    """`7B` as a number."""
    return int(text[1]) * 1000 ** " KMBT".index(text[2] or " ")


def info(asked: Asked) -> Answer:
    repo = asked.repo()
    return Answer.json(_only(repo.describe(asked.commit(repo), blobs="blobs" in asked.request.query), asked))


def tree(asked: Asked) -> Answer:
    repo = asked.repo()
    recursive = asked.query("recursive").lower() == "true"
    found = repo.entries(asked.commit(repo), asked.parts["path"].strip("/"), recursive=recursive)
    if not found and asked.parts["path"]:
        raise Refusal(404, f"{asked.parts['path']} does not exist", "EntryNotFound")
    return Answer.json(found)


def paths_info(asked: Asked) -> Answer:
    repo = asked.repo()
    files = repo.commits[asked.commit(repo)]
    wanted = parse_qs(asked.request.body.decode())["paths"]
    return Answer.json([entry(path, files[path]) for path in wanted if path in files])


def refs(asked: Asked) -> Answer:
    branches = asked.repo().refs.items()
    listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches]
    return Answer.json({"branches": listed, "tags": [], "converts": []})


def auth_check(asked: Asked) -> Answer:
    asked.repo(content=True)
    return Answer(200, {}, b"")


def resolve(asked: Asked) -> Answer:
    """A small file, or the way to a large one."""
    repo = asked.repo(content=True)
    sha = asked.commit(repo)
    blob = repo.commits[sha].get(asked.parts["path"])
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    headers = {"x-repo-commit": sha, "etag": f'"{blob.etag}"'}
    if not blob.large:
        return Answer.file(blob.content, asked.request, headers)
    location = f"{asked.hub.cdn}/_cdn/{quote(repo.path)}/{blob.sha256}"
    linked = {"location": location, "x-linked-etag": f'"{blob.sha256}"', "x-linked-size": str(len(blob.content))}
    return Answer(302, headers | linked, b"")


def cdn(asked: Asked) -> Answer:
    repo = asked.hub.repos[asked.parts["repo"]]
    blobs = {blob.sha256: blob for files in repo.commits.values() for blob in files.values()}
    return Answer.file(blobs[asked.parts["sha256"]].content, asked.request, {})


def harnesses(_: Asked) -> Answer:
    """Asked for by the client's telemetry; anything but an object breaks it."""
    return Answer.json({})


_REPO = r"(?P<repo>(?:datasets/)?[^/]+(?:/[^/]+)?)"
_INFO = r"/api/(?P<repo>(?:models|datasets)/[^/]+(?:/[^/]+)?)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, str, Callable[[Asked], Answer]]] = [
    ("GET", r"/api/whoami-v2", whoami),
    ("GET", r"/api/agent-harnesses", harnesses),
    ("GET|HEAD", r"/api/models", search),
    ("GET", rf"{_INFO}/tree/{_REVISION}(?P<path>/.*)?", tree),
    ("POST", rf"{_INFO}/paths-info/{_REVISION}", paths_info),
    ("GET", rf"{_INFO}/refs", refs),
    ("GET", rf"{_INFO}/auth-check", auth_check),
    ("GET", rf"{_INFO}/revision/{_REVISION}", info),
    ("GET", _INFO, info),
    ("POST", r"/api/repos/create", uploads.create),
    ("POST", r"/api/validate-yaml", uploads.validate_yaml),
    ("PUT", rf"{_INFO}/settings", uploads.settings),
    ("POST", rf"{_INFO}/preupload/{_REVISION}", uploads.preupload),
    ("POST", rf"{_INFO}/commit/{_REVISION}", uploads.commit),
    ("POST", rf"{_INFO}/branch/(?P<branch>[^/]+)", uploads.branch),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", uploads.batch),
    ("PUT", rf"/_lfs/{_REPO}/(?P<sha256>[0-9a-f]{{64}})", uploads.put),
    ("POST", rf"/_lfs/{_REPO}/(?P<sha256>[0-9a-f]{{64}})/verify", uploads.verify),
    ("GET|HEAD", rf"/_cdn/{_REPO}/(?P<sha256>[0-9a-f]{{64}})", cdn),
    ("GET|HEAD", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", resolve),
]


def answer(hub: LoopbackHub, request: Request) -> Answer:
    """What the Hub says to a request."""
    try:
        for methods, pattern, endpoint in _ROUTES:
            if re.fullmatch(methods, request.method) and (match := re.fullmatch(pattern, request.path)):
                return endpoint(Asked(hub, request, match.groupdict()))
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")
    except Refusal as refusal:
        return refusal.answer


def _only(said: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """What of a description was asked for: `expand` names the fields."""
    fields = asked.request.query.get("expand")
    return {key: value for key, value in said.items() if key in fields or key == "id"} if fields else said
