"""Every way the studio can fail, in words a person can act on.

* StudioError
  - InputError        the person can fix it in the form
  - HubError          the Hub, or the way to it
    + NotFound        no such repository, revision or file
    + AccessDenied    private, gated, or a token that may not
    + Offline         the Hub cannot be reached, and the cache does not have it
  - DoesNotFit        more memory or disk is needed than there is
  - Busy              somebody else has the model
  - Unsupported       a sound file that the studio cannot use, or will not for safety
    + PickleOnly      weights that have to be converted first
  - Damaged           a file or checkpoint that cannot be trusted
"""

from __future__ import annotations


class StudioError(Exception):
    """Something went wrong and we can say what to do about it.

    `message` says what happened, with the value in it. `hint` says what to do next and is never empty.
    """

    def __init__(self, message: str, hint: str) -> None:
        # Positional and passed on to super(): errors are pickled on their way out of a GPU worker.
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


class InputError(StudioError):
    """The request cannot be carried out as it was asked."""


class HubError(StudioError):
    """The Hub did not do what was asked of it."""


class NotFound(HubError):
    """There is no such repository, revision or file, or it is hidden from whoever asks."""


class AccessDenied(HubError):
    """The repository exists and this token, or no token, may not read it."""


class Offline(HubError):
    """The Hub cannot be reached and the cache on disk does not hold what was asked for."""


class DoesNotFit(StudioError):
    """More memory or disk is needed than there is."""


class Busy(StudioError):
    """The model is in use and did not come free in time."""


class Unsupported(StudioError):
    """The files are sound, but the studio cannot use them, or will not because that would not be safe."""


class PickleOnly(Unsupported):
    """The weights are there as pickle files only, which can run code when they are opened; they can be converted."""


class Damaged(StudioError):
    """A file or checkpoint is broken and must not be used."""
