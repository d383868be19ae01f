"""Datasets: which files make one, its rows, what they are meant as, and what they are in tokens."""

from __future__ import annotations

from studio.dataset.colliding import Collision
from studio.dataset.conversing import Completion, Conversation, Example, Passage, as_conversation
from studio.dataset.formats import OPTIONAL, REQUIRED, ColumnMapping, Format
from studio.dataset.lengths import FAILED, Bin, FailedRow, Lengths, LongRow, as_text, measure
from studio.dataset.packing import CutOff, at_cut_off
from studio.dataset.reading import read
from studio.dataset.recognising import Recognition, recognise
from studio.dataset.rows import Part, Rows
from studio.dataset.sniffing import FileFormat
from studio.dataset.splits import Layout, Split, layout, place_of

__all__ = [
    "FAILED",
    "OPTIONAL",
    "REQUIRED",
    "Bin",
    "Collision",
    "ColumnMapping",
    "Completion",
    "Conversation",
    "CutOff",
    "Example",
    "FailedRow",
    "FileFormat",
    "Format",
    "Layout",
    "Lengths",
    "LongRow",
    "Part",
    "Passage",
    "Recognition",
    "Rows",
    "Split",
    "as_conversation",
    "as_text",
    "at_cut_off",
    "layout",
    "measure",
    "place_of",
    "read",
    "recognise",
]
