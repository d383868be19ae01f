"""What the Hub and the network say to somebody who writes, in our words, and whether it may pass by itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from studio.errors import AccessDenied, DoesNotFit, HubError, InputError, NotFound, Offline, StudioError
from studio.hub.translation import foreign_errors, redact, translate

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_LATER = (408, 425, 429, 500, 502, 503, 504)
_RESUMES = "Start it again: what has arrived already is not sent a second time."


def behind(error: BaseException) -> BaseException:
    """What really happened: the client wraps what goes wrong with a large file in a RuntimeError."""
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, foreign_errors()):
        error = error.__cause__
    return error


def passes(error: BaseException) -> bool:
    """Whether trying again in a while may help."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError

    error = behind(error)
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _LATER
    return isinstance(error, TransportError)


def asked_to_wait(error: BaseException) -> float | None:
    """The seconds of a `Retry-After`, where the Hub sent one."""
    from huggingface_hub.errors import HfHubHTTPError

    error = behind(error)
    said = error.response.headers.get("retry-after", "") if isinstance(error, HfHubHTTPError) else ""
    return float(said) if said.isdigit() else None


def refusal(error: BaseException, repo: str) -> StudioError:
    """Why an upload to a repository could not be done."""
    from huggingface_hub.errors import HfHubHTTPError

    error = behind(error)
    if isinstance(error, HfHubHTTPError):
        return _by_status(error, repo)
    said = translate(error, repo)
    if isinstance(said, Offline):
        return Offline(
            f"The connection to the Hub broke while {repo} was uploaded.", f"Nothing half is there. {_RESUMES}"
        )
    return said


def _by_status(error: HfHubHTTPError, repo: str) -> StudioError:
    status, said = error.response.status_code, redact(error.server_message or "").strip()
    if status in (401, 403, 404):
        return _not_allowed(status, said, repo)
    if status in (402, 413, 507):
        return _no_room(said or str(status), repo)
    match status:
        case 400 | 422:
            return InputError(
                f"The Hub does not take {repo} as it is: {said or status}.", "Change the card or the name."
            )
        case 409:
            return HubError(f"Something else is being changed in {repo}. {said}".strip(), f"Wait a moment. {_RESUMES}")
        case 412:
            return HubError(f"Somebody else changed {repo} meanwhile, so nothing of this was put there.", _RESUMES)
        case 429:
            wait = asked_to_wait(error)
            after = f"in {wait:.0f} seconds" if wait else "in a few minutes"
            return HubError(f"The Hub is asked too often just now ({repo}).", f"Try again {after}. {_RESUMES}")
    what = "has a problem" if status >= 500 else "answered"
    return HubError(f"The Hub {what} ({status}) with {repo}. {said}".strip(), _RESUMES)


def _not_allowed(status: int, said: str, repo: str) -> StudioError:
    if status == 401:
        return AccessDenied(
            "The Hub does not accept the token any more: it has expired, or was taken back.",
            f"Sign in again, or enter another token. {_RESUMES}",
        )
    if status == 404:
        return NotFound(
            f"The Hub has no {repo} that this token may write to.", "Check the name, and who the token belongs to."
        )
    if re.search("storage|quota", said, re.IGNORECASE):
        return _no_room(said, repo)
    return AccessDenied(
        f"This token may not write to {repo}. {said}".strip(),
        "Use a token with the right to write there, or publish under your own name.",
    )


def _no_room(said: str, repo: str) -> StudioError:
    return DoesNotFit(f"The Hub has no room for {repo}: {said}", "Free some storage there, then start it again.")
