"""Who a token belongs to, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studio.errors import AccessDenied, InputError
from studio.hub.client import Token, ask, endpoint


@dataclass(frozen=True, slots=True)
class Account:
    """A person on the Hub, as a token shows them."""

    name: str
    writable: tuple[str, ...]
    """The person and the organisations that this token may write to, the person first."""
    kind: str
    """Of the token: write, read, fine-grained or sign-in."""

    def check_may_write(self, namespace: str) -> None:
        """Raise AccessDenied where the token may not write to the repositories of a person or an organisation."""
        if namespace in self.writable:
            return
        if not self.writable:
            raise AccessDenied(
                f"This token of {self.name} may read and not write.",
                f"Make one with the right to write at {endpoint()}/settings/tokens.",
            )
        raise AccessDenied(
            f"This token of {self.name} may not write to what belongs to {namespace}.",
            f"Publish under {' or '.join(self.writable)}, or use a token that may write there.",
        )


def account(token: Token) -> Account:
    """Ask the Hub who this is. Raises AccessDenied for nobody, and for a token that is none or has expired."""
    if token is False:
        raise AccessDenied("Nobody is signed in.", f"Sign in, or enter a token from {endpoint()}/settings/tokens.")
    said = ask("whoami-v2", token=token, what="your account").json()
    kind, writable = _rights(said)
    return Account(str(said["name"]), writable, kind)


def _rights(said: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    orgs = [org["name"] for org in said.get("orgs", ()) if org.get("roleInOrg") != "read"]
    everywhere = (said["name"], *orgs)
    auth = said.get("auth", {})
    access = auth.get("accessToken") or {}
    match access.get("role"):
        case "read":
            return "read", ()
        case "fineGrained":
            scoped = (access.get("fineGrained") or {}).get("scoped", ())
            given = {each["entity"].get("name") for each in scoped if "repo.write" in each.get("permissions", ())}
            return "fine-grained", tuple(name for name in everywhere if name in given)
        case "write":
            return "write", everywhere
    # A sign-in: whether the scopes that were granted are enough for an organisation, the Hub says when it is asked.
    return "sign-in", everywhere


def namespace_of(repo: str, account: Account) -> str:
    """Whose a repository is: the person's where its name does not say. Raises InputError for a name that is none."""
    owner, slash, name = repo.rpartition("/")
    if not name or (slash and not owner) or "/" in owner:
        raise InputError(f"{repo!r} is not the name of a repository.", "Write owner/name.")
    return owner or account.name
