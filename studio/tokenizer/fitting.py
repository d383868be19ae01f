"""The process that computes a vocabulary: `python -m studio.tokenizer.fitting`.

The library cannot be interrupted while it computes, a process can. It reads one order as a line of JSON from stdin and
reports with lines of JSON on stdout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from studio.child import say, serve
from studio.errors import InputError
from studio.tokenizer.building import finished, trainer, untrained, wrapped
from studio.tokenizer.conversation import Message
from studio.tokenizer.gathering import written
from studio.tokenizer.recipe import BYTES, Kind, Recipe
from studio.tokenizer.template import render

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH = 100
"""Pieces of text that the trainer takes at a time, so that it does not wait for Python after each."""
_BEAT_SECONDS = 0.1


@dataclass(slots=True)
class _Feed:
    """The texts on their way into the trainer, and what was seen in them."""

    file: Path
    recipe: Recipe
    normalizer: Any
    alphabet: set[str] = field(default_factory=set)
    occurrences: dict[str, int] = field(default_factory=dict)

    def batches(self) -> Iterator[list[str]]:
        """All pieces. Raises InputError at the end where their characters alone are more than the vocabulary holds."""
        fed = 0
        beat = 0.0
        with self.file.open("rb") as stream:
            while lines := list(islice(stream, _BATCH)):
                batch = [json.loads(line) for line in lines]
                self._look_at("".join(batch))
                yield batch
                fed += sum(len(piece.encode()) for piece in batch)
                if monotonic() > beat + _BEAT_SECONDS:
                    beat = monotonic()
                    say({"fed": fed})
        if self.recipe.kind != Kind.BYTE_LEVEL:
            special = len(self.recipe.special_tokens)
            least = len(self.alphabet) + special + (BYTES if self.recipe.kind == Kind.BYTE_FALLBACK else 0)
            check_room(self.recipe, len(self.alphabet), least)
        say({"computing": True})

    def _look_at(self, text: str) -> None:
        for token in self.recipe.special_tokens:
            if count := text.count(token):
                self.occurrences[token] = self.occurrences.get(token, 0) + count
        if self.recipe.kind != Kind.BYTE_LEVEL:
            text = self.normalizer.normalize_str(text) if self.normalizer else text
            self.alphabet.update("".join(text.split()) if self.recipe.kind == Kind.WORDPIECE else text)


def check_room(recipe: Recipe, characters: int, least: int) -> None:
    """Raise InputError where a vocabulary has no room for every character of the text."""
    if least > recipe.vocabulary_size:
        raise InputError(
            f"The text has {characters:,} different characters, and with them the smallest vocabulary for"
            f" {recipe.kind} has {least:,} tokens; {recipe.vocabulary_size:,} were asked for.",
            f"Choose at least {least:,}, or byte-level BPE, which needs no characters.",
        )


def main() -> None:
    """Carry out the order on stdin."""
    serve(
        lambda order: fit(
            Recipe(**order["recipe"]),
            Path(order["texts"]),
            json.loads(Path(order["samples"]).read_text(encoding="utf-8")),
            Path(order["folder"]),
        )
    )


def fit(recipe: Recipe, texts: Path, samples: list[str], folder: Path) -> None:
    """Learn from the pieces in `texts`, write a tokenizer to `folder`, and report how it reads `samples`."""
    _try_template(recipe)
    tokenizer = untrained(recipe)
    feed = _Feed(texts, recipe, tokenizer.normalizer)
    tokenizer.train_from_iterator(feed.batches(), trainer(recipe))
    size = tokenizer.get_vocab_size()
    if recipe.kind == Kind.WORDPIECE:  # which needs most characters twice: at the begin of a word, and within one
        check_room(recipe, len(feed.alphabet), size)
    done = finished(tokenizer, recipe)
    with written(folder):
        done.save_pretrained(folder)
    say(
        {
            "fitted": {
                "vocabulary": len(done),
                "came_back": _came_back(folder, done.backend_tokenizer, samples),
            },
            "occurrences": feed.occurrences,
        }
    )


def _try_template(recipe: Recipe) -> None:
    """Raise InputError where the chat template of the recipe fails; before the training, not after it."""
    from tokenizers import Tokenizer, models

    tokenizer = wrapped(Tokenizer(models.BPE()), recipe)
    if tokenizer.chat_template:
        render(tokenizer, (Message("user", "Hello"), Message("assistant", "Hello!"), Message("user", "How are you?")))


def _came_back(folder: Path, trained: Tokenizer, samples: list[str]) -> int:
    """How many samples the tokenizer, read back from its folder, turns into tokens and back into the same text."""
    from transformers import PreTrainedTokenizerFast

    # Not AutoTokenizer, which imports torch: 3 of the 4 seconds that a small training would take.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    count = 0
    for sample in samples:
        ids = tokenizer(sample, add_special_tokens=False).input_ids
        assert ids == trained.encode(sample, add_special_tokens=False).ids, "the folder holds another tokenizer"
        count += tokenizer.decode(ids) == sample
    return count


if __name__ == "__main__":
    main()
