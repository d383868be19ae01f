"""The errors of huggingface_hub, of the network and of the disk, in our words."""

from __future__ import annotations

import errno
import json
import re
from typing import TYPE_CHECKING, Any

from studio.errors import (
    AccessDenied,
    Damaged,
    DoesNotFit,
    HubError,
    InputError,
    NotFound,
    Offline,
    StudioError,
    Unsupported,
)

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub.errors import HfHubHTTPError

# That of a sign-in has dots in it.
_TOKEN = re.compile(r"\b(?:hf|api_org)_\w+(?:[.-]\w+)*|(?<=Bearer )[^\s'\"]+")
_AGAIN = "Try again in a few minutes. What is on this machine already can be used meanwhile."
OFFLINE_HINT = "Check the connection, or use what is on this machine already: the starter always is."


def redact(text: str) -> str:
    """The text without any Hub token that is in it."""
    return _TOKEN.sub("hf_…redacted", text)


def foreign_errors() -> tuple[type[Exception], ...]:
    """Every class of exception by which a call of huggingface_hub says something about the world, not about a bug."""
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import errors

    declared = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    theirs = tuple(kind for kind in declared if issubclass(kind, Exception))
    return (*theirs, HTTPError, InvalidURL, OSError, RuntimeError, json.JSONDecodeError)


def translate(error: BaseException, what: str) -> StudioError:
    """Say why something about `what`, a model or a search, could not be done."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return _refusal(error, what)
    if isinstance(error.__cause__, foreign_errors()):
        # huggingface_hub wraps what really happened in LocalEntryNotFoundError or RuntimeError.
        return translate(error.__cause__, what)
    return _failure(error, what)


def _failure(error: BaseException, what: str) -> StudioError:
    """What went wrong without an answer of the Hub."""
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import errors

    said = redact(str(error)) or type(error).__name__
    if isinstance(error, errors.HFValidationError | errors.HfUriError):
        return InputError(f"{what} is not the name of a model.", "Write it as owner/name, for example Qwen/Qwen3-0.6B.")
    if isinstance(error, errors.NotASafetensorsRepoError):
        return Unsupported(f"{what} has no safetensors weights.", "Choose a model with *.safetensors files.")
    if isinstance(error, errors.SafetensorsParsingError | errors.CorruptedCacheException):
        return Damaged(
            f"A file of {what} is broken: {said}", "Delete the model from the Hugging Face cache and download it again."
        )
    if isinstance(error, errors.LocalEntryNotFoundError | HTTPError | InvalidURL | ConnectionError | TimeoutError):
        return Offline(f"The Hub cannot be reached for {what}: {said}", OFFLINE_HINT)
    if isinstance(error, json.JSONDecodeError):
        return HubError(
            f"What answered for {what} is not the Hub.",
            "A network that asks for a login may be in the way: check it in a browser.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DoesNotFit(
            f"The disk filled up with {what}.", "Free some space and try again: it goes on where it stopped."
        )
    if isinstance(error, PermissionError):
        return HubError(f"{what} cannot be stored: {said}", "Set HF_HOME to a folder that you may write to.")
    return HubError(
        f"The Hub's client failed on {what}: {said}", "Try again; if it stays, look at the log of the studio."
    )


def _refusal(error: HfHubHTTPError, what: str) -> StudioError:
    """What the Hub answered instead. Most specific first: to its client, a gated repository is also a missing one."""
    from huggingface_hub import errors

    kind = "dataset" if re.match("/(api/)?datasets/", error.response.url.path) else "model"
    page = f"{error.response.url.copy_with(path='/datasets/' if kind == 'dataset' else '/', query=None)}"
    page += re.split("[@:]", what)[0]
    anonymous = "authorization" not in error.response.request.headers
    if isinstance(error, errors.GatedRepoError):
        hint = (
            f"Sign in, and accept its terms at {page}"
            if anonymous
            else f"Ask for access at {page} and wait for its authors"
        )
        return AccessDenied(f"{what} is gated: its authors decide who may read it.", f"{hint}, then try again.")
    if isinstance(error, errors.DisabledRepoError):
        return AccessDenied(f"The Hub has disabled {what}.", f"Choose another {kind}.")
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(
            f"There is no revision of that name in {what}.", f"Look at the branches of {page}, or leave the @ out."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return NotFound(f"A file of {what} is missing on the Hub.", "It may just have changed: try again.")
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "or sign in if it is private" if anonymous else "and that your token may read it if it is private"
        return NotFound(f"There is no {kind} called {what}, or it is hidden.", f"Check the spelling, {hint}.")
    if error.response.status_code == 401 and anonymous:
        return AccessDenied(f"The Hub shows {what} only to those it knows.", "Sign in, then try again.")
    return _by_status(error.response, what, redact(error.server_message or ""))


def _by_status(response: Response, what: str, said: str) -> StudioError:
    """What a bare status code means."""
    status = response.status_code
    match status:
        case 401:
            return AccessDenied(
                f"The Hub does not accept the token that was sent for {what}.",
                "Sign in again, or make a new one at https://huggingface.co/settings/tokens.",
            )
        case 403:
            return AccessDenied(
                f"The Hub does not let this token read {what}. {said}".rstrip(),
                "Use a token that has read access to it.",
            )
        case 404:
            return NotFound(f"The Hub has nothing called {what}.", "Check the spelling.")
        case 429:
            return HubError(f"The Hub is asked too often just now ({what}).", f"Try again {_when(response.headers)}.")
        case _ if status >= 500:
            return HubError(f"The Hub has a problem ({status}) with {what}. {said}".rstrip(), _AGAIN)
        case _:
            return HubError(f"The Hub answered {status} for {what}. {said}".rstrip(), _AGAIN)


def _when(headers: Any) -> str:
    """When a Hub that is asked too often wants to be asked again: `Retry-After: 7`, or `ratelimit: "api";r=0;t=55`."""
    after = headers.get("retry-after", "")
    if limit := re.search(r";t=(\d+)", headers.get("ratelimit", "")):
        after = after or limit[1]
    return f"in {after} seconds" if after.isdigit() else f"after {after}" if after else "in a minute"
