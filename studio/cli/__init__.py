"""The same studio without a browser: `python -m studio generate`, `python -m studio doctor`."""

from __future__ import annotations

from studio.cli.commands import main

__all__ = ["main"]
