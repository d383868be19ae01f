"""The Hub as the studio sees it: search, facts, downloads. Nothing outside this package imports huggingface_hub.

Every call takes the token it may use; `False` is anonymous, and the login of this machine is never picked up by itself.
Whatever goes wrong comes out as a StudioError.
"""

from __future__ import annotations

from studio.hub.account import Account, account, namespace_of
from studio.hub.cache import CachedModel, cached, cached_models
from studio.hub.cards import Result as CardResult
from studio.hub.cards import compose as compose_card
from studio.hub.cards import faults as card_faults
from studio.hub.cards import knows_licence
from studio.hub.cards import licence_of as card_licence
from studio.hub.client import Reach, Token, cache_folder, endpoint, forget_reach, machine_token, reach
from studio.hub.downloading import download
from studio.hub.peeking import Peek, Seen, peek
from studio.hub.redacting import keep_tokens_out
from studio.hub.repos import RepoFacts, RepoFile, facts, holds_rows
from studio.hub.searching import ModelCard, ModelSummary, SearchQuery, Sort, card, read_card, search
from studio.hub.uploading import Outgoing, Target, Uploaded, upload

__all__ = [
    "Account",
    "CachedModel",
    "CardResult",
    "ModelCard",
    "ModelSummary",
    "Outgoing",
    "Peek",
    "Reach",
    "RepoFacts",
    "RepoFile",
    "SearchQuery",
    "Seen",
    "Sort",
    "Target",
    "Token",
    "Uploaded",
    "account",
    "cache_folder",
    "cached",
    "cached_models",
    "card",
    "card_faults",
    "card_licence",
    "compose_card",
    "download",
    "endpoint",
    "facts",
    "forget_reach",
    "holds_rows",
    "keep_tokens_out",
    "knows_licence",
    "machine_token",
    "namespace_of",
    "peek",
    "reach",
    "read_card",
    "search",
    "upload",
]
