"""The Hub as the studio sees it: search, facts and downloads. Nothing outside this package imports huggingface_hub.

Every call takes the token it may use; `False` is anonymous, and the login of this machine is never picked up by itself.
Whatever goes wrong comes out as a StudioError.
"""

from __future__ import annotations

from studio.hub.cache import CachedModel, cached, cached_models
from studio.hub.client import Reach, Token, cache_folder, endpoint, forget_reach, machine_token, reach
from studio.hub.downloading import download
from studio.hub.repos import ModelSummary, RepoFacts, RepoFile, Sort, facts, search

__all__ = [
    "CachedModel",
    "ModelSummary",
    "Reach",
    "RepoFacts",
    "RepoFile",
    "Sort",
    "Token",
    "cache_folder",
    "cached",
    "cached_models",
    "download",
    "endpoint",
    "facts",
    "forget_reach",
    "machine_token",
    "reach",
    "search",
]
