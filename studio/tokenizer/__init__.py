"""Text into ids: the tokenizer of a model and its chat template, the same for chat, training and export."""

from __future__ import annotations

from studio.tokenizer.batch import BatchSettings, Grid, grid
from studio.tokenizer.comparing import Comparison, compare
from studio.tokenizer.conversation import Message, Role, ToolCall, ToolDefinition, read_messages, read_tools
from studio.tokenizer.counting import Census, Share, census
from studio.tokenizer.ending import EndOfTurn, end_of_turn, generation_ends
from studio.tokenizer.forms import Form, ways_to_model
from studio.tokenizer.gathering import TEXT_LIMIT, read_texts
from studio.tokenizer.learning import Learned, learn
from studio.tokenizer.masking import Masked, Masker, Trained, Turn, mask_conversation, masked_completion, masked_text
from studio.tokenizer.pace import Pace, rust_against_python
from studio.tokenizer.pieces import Piece, Tokenized, tokenize
from studio.tokenizer.reading import encode, load_tokenizer
from studio.tokenizer.recipe import Kind, Normalizer, Recipe, Split, Template
from studio.tokenizer.round_trip import RoundTrip, decoded, parse_ids, round_trip
from studio.tokenizer.samples import Sample, bundled
from studio.tokenizer.special import AddedEntry, added_tokens, mismatches
from studio.tokenizer.stages import Stages, stages
from studio.tokenizer.template import TEMPLATE_SECONDS, NamedTemplate, Trial, render, templates, try_template
from studio.tokenizer.vocabulary import Entry, Vocabulary, Window, all_tokens, search
from studio.tokenizer.words import WordStory, word_story

__all__ = [
    "TEMPLATE_SECONDS",
    "TEXT_LIMIT",
    "AddedEntry",
    "BatchSettings",
    "Census",
    "Comparison",
    "EndOfTurn",
    "Entry",
    "Form",
    "Grid",
    "Kind",
    "Learned",
    "Masked",
    "Masker",
    "Message",
    "NamedTemplate",
    "Normalizer",
    "Pace",
    "Piece",
    "Recipe",
    "Role",
    "RoundTrip",
    "Sample",
    "Share",
    "Split",
    "Stages",
    "Template",
    "Tokenized",
    "ToolCall",
    "ToolDefinition",
    "Trained",
    "Trial",
    "Turn",
    "Vocabulary",
    "Window",
    "WordStory",
    "added_tokens",
    "all_tokens",
    "bundled",
    "census",
    "compare",
    "decoded",
    "encode",
    "end_of_turn",
    "generation_ends",
    "grid",
    "learn",
    "load_tokenizer",
    "mask_conversation",
    "masked_completion",
    "masked_text",
    "mismatches",
    "parse_ids",
    "read_messages",
    "read_texts",
    "read_tools",
    "render",
    "round_trip",
    "rust_against_python",
    "search",
    "stages",
    "templates",
    "tokenize",
    "try_template",
    "ways_to_model",
    "word_story",
]
