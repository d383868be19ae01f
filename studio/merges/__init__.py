"""Merges with their proofs, as jobs: what lasts is a directory, what works is a process of its own."""

from __future__ import annotations

from studio.merges.directory import Merge, at, create, delete, listing, of
from studio.merges.following import follow
from studio.merges.order import MergeOrder
from studio.merges.starting import ask_to_stop, start

__all__ = ["Merge", "MergeOrder", "ask_to_stop", "at", "create", "delete", "follow", "listing", "of", "start"]
