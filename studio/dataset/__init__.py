"""Datasets: which files make one, its rows, what they are meant as, and what they are in tokens."""

from __future__ import annotations

from studio.dataset.colliding import Collision
from studio.dataset.conversing import Completion, Conversation, Example, Passage, as_conversation
from studio.dataset.formats import OPTIONAL, REQUIRED, ColumnMapping, Format, mapping_of
from studio.dataset.lengths import FAILED, Bin, FailedRow, Lengths, LongRow, as_text, measure
from studio.dataset.packing import CutOff, at_cut_off
from studio.dataset.preparation import Dropped, Examples, Preparation, Prepared
from studio.dataset.preparing import prepare
from studio.dataset.previewing import Preview, example, preview
from studio.dataset.reading import read
from studio.dataset.reasons import BadRow, Reason
from studio.dataset.recognising import Recognition, recognise
from studio.dataset.rows import Part, Rows
from studio.dataset.sniffing import FileFormat, delimiter_of
from studio.dataset.splits import Layout, Split, layout, place_of
from studio.dataset.sweeping import sweep

__all__ = [
    "FAILED",
    "OPTIONAL",
    "REQUIRED",
    "BadRow",
    "Bin",
    "Collision",
    "ColumnMapping",
    "Completion",
    "Conversation",
    "CutOff",
    "Dropped",
    "Example",
    "Examples",
    "FailedRow",
    "FileFormat",
    "Format",
    "Layout",
    "Lengths",
    "LongRow",
    "Part",
    "Passage",
    "Preparation",
    "Prepared",
    "Preview",
    "Reason",
    "Recognition",
    "Rows",
    "Split",
    "as_conversation",
    "as_text",
    "at_cut_off",
    "delimiter_of",
    "example",
    "layout",
    "mapping_of",
    "measure",
    "place_of",
    "prepare",
    "preview",
    "read",
    "recognise",
    "sweep",
]
