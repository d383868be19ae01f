"""What the environment decides, read once. Importing this module reads nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from studio.errors import InputError

ASSETS = Path(__file__).parent.parent / "assets"
STARTER_FOLDER = ASSETS / "starter_model"
REQUIREMENTS = ASSETS.parent / "requirements.txt"
ROWS_LIMIT = 20_000_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the page is served, who is let near the machine behind it, and where the studio keeps what it makes."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None takes the first free port from 7860 on."""
    shared: bool = False
    """Visitors share this machine: they may name no folder of it and never use its Hub login."""
    workspace: Path = field(default_factory=lambda: Path("workspace").absolute())
    """Folder, absolute, for what lasts: models/<name>, tokenizers/<name>, and in rows/ what was read of datasets."""
    rows_limit: int = ROWS_LIMIT
    """Bytes that rows/ may have; beyond, what was not used for longest goes."""

    @property
    def rows_days(self) -> int:
        """After how many days without use rows go: those of visitors soon, as nobody comes back for them."""
        return 1 if self.shared else 30

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read STUDIO_HOST, STUDIO_PORT, STUDIO_WORKSPACE, STUDIO_ROWS_GB and what a Space sets.

        Without STUDIO_WORKSPACE it is ./workspace. Raises InputError for a port or a size that is none.
        """
        on_a_space = bool(env.get("SPACE_ID"))
        port = env.get("STUDIO_PORT") or env.get("GRADIO_SERVER_PORT")
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise InputError(f"STUDIO_PORT is {port!r}, which is not a port.", "Use a number from 1 to 65535.")
        host = env.get("STUDIO_HOST") or ("0.0.0.0" if on_a_space else "127.0.0.1")  # noqa: S104 - a Space's proxy comes from outside
        loopback = host in ("127.0.0.1", "localhost", "::1")
        # As ModelRef.parse does: Path.expanduser() raises for a person that is not there.
        workspace = Path(os.path.abspath(os.path.expanduser(env.get("STUDIO_WORKSPACE") or "workspace")))  # noqa: PTH100, PTH111
        return cls(
            host=host,
            port=int(port) if port else None,
            shared=on_a_space or not loopback,
            workspace=workspace,
            rows_limit=_rows_limit(env.get("STUDIO_ROWS_GB", "")),
        )


def _rows_limit(gigabytes: str) -> int:
    if not gigabytes:
        return ROWS_LIMIT
    try:
        limit = float(gigabytes)
    except ValueError:
        limit = -1
    if not 0 <= limit < math.inf:
        raise InputError(f"STUDIO_ROWS_GB is {gigabytes!r}, which is no size.", "Use gigabytes, for example 20 or 0.5.")
    return round(limit * 1e9)
