"""Publishing: what a folder holds, which of its files go to the Hub, and the card that tells where it comes from."""

from __future__ import annotations

from studio.publishing.card import draw
from studio.publishing.contents import Contents, contents
from studio.publishing.licences import UNKNOWN, check_licence, may_follow
from studio.publishing.picture import CURVE, curve
from studio.publishing.record import Dataset, Figure, Lineage, Record, Sample
from studio.publishing.secrets import check_text
from studio.publishing.thing import Kind, Thing, look

__all__ = [
    "CURVE",
    "UNKNOWN",
    "Contents",
    "Dataset",
    "Figure",
    "Kind",
    "Lineage",
    "Record",
    "Sample",
    "Thing",
    "check_licence",
    "check_text",
    "contents",
    "curve",
    "draw",
    "look",
    "may_follow",
]
