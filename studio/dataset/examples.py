"""A row as a model learns from it: its tokens, which of them are trained on, and how many are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from studio.dataset.conversing import Completion, Conversation, Example, Passage, as_conversation, as_turns
from studio.dataset.formats import ColumnMapping, Format
from studio.dataset.preparation import Preparation
from studio.dataset.reasons import BadRow, Reason
from studio.errors import InputError, Unsupported
from studio.tokenizer import Masked, Masker, Trained, masked_completion, masked_text
from studio.tokenizer.backend import refusals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Learnable:
    """A row that can be learnt from."""

    masked: Masked
    """All of it."""
    kept: int
    """How many of its tokens are within the limit."""

    @property
    def ends(self) -> bool | None:
        """Whether its replies end with a trained end-of-turn token that is within the limit; None where unknown."""
        return False if any(self.masked.trained[self.kept :]) else self.masked.ends_trained


class Maker:
    """Makes examples of rows, for one tokenizer and one way to prepare.

    A conversation goes through the chat template, as chat sends it. So does a prompt with its completion, as what the
    user says and what the assistant answers; by a tokenizer without a template it is plain text, the one right behind
    the other. A text by itself is plain text always, and all of it is learnt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, preparation: Preparation) -> None:
        self._tokenizer, self._preparation = tokenizer, preparation
        self._trained = cast("Trained", preparation.trained)
        self._masker = Masker(tokenizer)

    def check(self, name: str, mapping: ColumnMapping) -> None:
        """Raise Unsupported where no row of this format can be learnt from."""
        if mapping.format is Format.PREFERENCE:
            raise Unsupported(
                f"{name} holds pairs of answers, {mapping.column('chosen')!r} and {mapping.column('rejected')!r}:"
                " learning what to prefer is not possible here yet.",
                "To learn the chosen answers alone, map that column as completion or as messages.",
            )
        if mapping.format in (Format.MESSAGES, Format.SHAREGPT, Format.ALPACA) and not self._tokenizer.chat_template:
            raise Unsupported(
                f"{name} holds conversations ({mapping.format}), and this model has no chat template to write them by.",
                "Choose a model whose name ends in Instruct or Chat, or map two columns as prompt and completion.",
            )

    def make(self, example: Example, place: str) -> Learnable:
        """The example in tokens. Raises BadRow where it cannot be learnt from."""
        learnable = self.cut(self.mask(example, place))
        preparation, tokens = self._preparation, len(learnable.masked.ids)
        if tokens > preparation.limit and preparation.too_long == "drop":
            raise BadRow(
                f"{place} has {tokens:,} tokens, and the limit is {preparation.limit:,}.",
                "Raise the limit, or have longer rows cut.",
                Reason.TOO_LONG,
            )
        if not any(learnable.masked.trained[: learnable.kept]):
            first = learnable.masked.trained.index(True)
            raise BadRow(
                f"{place} has its first token to learn at {first + 1:,}, and is cut at {preparation.limit:,}.",
                "Raise the limit, or shorten the prompt.",
                Reason.CUT_AWAY,
            )
        return learnable

    def cut(self, masked: Masked) -> Learnable:
        """With what is behind the limit left out."""
        return Learnable(masked, min(len(masked.ids), self._preparation.limit))

    def mask(self, example: Example, place: str) -> Masked:
        """All of it in tokens, with some that are trained on. Raises BadRow where that cannot be proven."""
        try:
            with refusals():
                masked: Masked = self._masked(example, place)
        except BadRow:
            raise
        except Unsupported as error:
            raise BadRow(f"{place}: {error.message}", error.hint, Reason.UNPROVEN) from error
        except InputError as error:
            raise BadRow(f"{place}: {error.message}", error.hint, Reason.REFUSED) from error
        if not any(masked.trained):
            raise BadRow(f"{place} has nothing to learn: {masked.note or 'no token'}", "Leave it out.", Reason.EMPTY)
        return masked

    def as_chat(self, example: Example) -> bool:
        """Whether it goes through the chat template."""
        return not isinstance(example, Passage) and bool(self._tokenizer.chat_template)

    def _masked(self, example: Example, place: str) -> Masked:
        if isinstance(example, Passage):
            return masked_text(self._tokenizer, example.text)
        if isinstance(example, Completion) and not self._tokenizer.chat_template:
            return self._completed(example, place)
        turns = as_turns(example)
        given = 0 if isinstance(example, Conversation) else len(turns) - _learnt_turns(example)
        if self._trained != "all" and not any(turn.role == "assistant" for turn in turns[given:]):
            said = f"its last turn is of the {turns[-1].role}" if turns else "it has no turns"
            raise BadRow(f"{place} has no reply to learn: {said}.", "Leave the row out.", Reason.NO_REPLY)
        return self._masker.mask(turns, tools=example.tools, trained=self._trained, given=given)

    def _completed(self, example: Completion, place: str) -> Masked:
        if not isinstance(example.prompt, str) or not isinstance(example.completion, str):
            raise BadRow(
                f"{place} holds turns, and this model has no chat template to write them by.",
                "Choose a model whose name ends in Instruct or Chat.",
                Reason.REFUSED,
            )
        prompt = f"{example.system}\n\n{example.prompt}" if example.system else example.prompt
        if self._trained == "all":
            return masked_text(self._tokenizer, prompt + example.completion)
        return masked_completion(self._tokenizer, prompt, example.completion)


def _learnt_turns(example: Completion) -> int:
    return 1 if isinstance(example.completion, str) else len(example.completion)


def read(row: Mapping[str, Any], mapping: ColumnMapping, place: str) -> Example:
    """What a row says. Raises BadRow where that cannot be told."""
    try:
        return as_conversation(row, mapping, place=place)
    except BadRow:
        raise
    except InputError as error:
        raise BadRow(error.message, error.hint) from error
