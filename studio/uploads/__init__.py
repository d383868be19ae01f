"""Uploads to the Hub, as jobs: what lasts is a directory, what works is a process of its own that outlives the page."""

from __future__ import annotations

from studio.uploads.directory import Upload, at, create, delete, listing, of
from studio.uploads.following import follow
from studio.uploads.order import UploadOrder
from studio.uploads.starting import ask_to_stop, start

__all__ = ["Upload", "UploadOrder", "ask_to_stop", "at", "create", "delete", "follow", "listing", "of", "start"]
