"""The Hub as the studio sees it: search, facts, downloads. Nothing outside this package imports huggingface_hub.

Every call takes the token it may use; `False` is anonymous, and the login of this machine is never picked up by itself.
Whatever goes wrong comes out as a StudioError.
"""

from __future__ import annotations

from studio.hub.cache import CachedModel, cached, cached_models
from studio.hub.client import Reach, Token, cache_folder, endpoint, forget_reach, machine_token, reach
from studio.hub.downloading import download
from studio.hub.peeking import Peek, Seen, peek
from studio.hub.repos import RepoFacts, RepoFile, facts, holds_rows
from studio.hub.searching import ModelCard, ModelSummary, SearchQuery, Sort, card, read_card, search

__all__ = [
    "CachedModel",
    "ModelCard",
    "ModelSummary",
    "Peek",
    "Reach",
    "RepoFacts",
    "RepoFile",
    "SearchQuery",
    "Seen",
    "Sort",
    "Token",
    "cache_folder",
    "cached",
    "cached_models",
    "card",
    "download",
    "endpoint",
    "facts",
    "forget_reach",
    "holds_rows",
    "machine_token",
    "peek",
    "reach",
    "read_card",
    "search",
]
