"""Which tokens of a conversation are trained on: the one answer for previews, for training and for checking it.

A mask is proven, or it is refused. The prompt of every reply, as chat would send it, has to be a prefix of the whole
conversation, as text and as tokens; else the model would be trained on what it never reads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

from studio.errors import InputError, Unsupported
from studio.tokenizer.conversation import Message, Role, ToolDefinition
from studio.tokenizer.ending import EndOfTurn, end_of_turn
from studio.tokenizer.reading import encode
from studio.tokenizer.template import render, render_tracked

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerBase

MASK_SECONDS = 10.0
"""How long the template may take for all prefixes of one conversation; a real one takes milliseconds for each."""
Trained = Literal["assistant", "last", "all"]
"""All replies, the last one alone, or every token."""
How = Literal["generation", "prefix", "everything", "completion"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a turn stands in the text, its header included. Turns that the template runs together share a span."""

    role: Role
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Masked:
    """A text as a model is trained on it."""

    text: str
    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """For each token whether it is trained on."""
    turns: tuple[Turn, ...]
    """Empty where there is no conversation."""
    spans: tuple[Span, ...]
    """The characters that are trained on, reply by reply."""
    how: How
    """By {% generation %} in the template, by comparing prefixes, or because all of it, or the completion, is."""
    ends_trained: bool | None
    """Whether every trained reply has its end-of-turn token among what is trained; None where no reply is."""
    note: str = ""
    """What else is to be known of the proof, such as two ways that disagree."""


def mask_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: tuple[Message, ...],
    *,
    tools: tuple[ToolDefinition, ...] = (),
    trained: Trained = "assistant",
    template: str | None = None,
) -> Masked:
    """The tokens of a conversation and which of them are trained on, each reply with its end-of-turn token.

    Raises Unsupported, with the reason, where that cannot be proven, and what `render` raises.
    """
    return Masker(tokenizer, template).mask(messages, tools=tools, trained=trained)


class Masker:
    """Masks many conversations: what is the same for all of them is asked of the tokenizer once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        self.tokenizer, self.template = tokenizer, template

    def mask(
        self,
        messages: tuple[Message, ...],
        *,
        tools: tuple[ToolDefinition, ...] = (),
        trained: Trained = "assistant",
        given: int = 0,
    ) -> Masked:
        """The same as `mask_conversation`. Of the first `given` turns nothing is trained on, unless all of it is."""
        work = _Conversation(self, messages, tools)
        if trained == "all":
            return work.everything()
        replies = [number for number, message in enumerate(messages) if message.role == "assistant"]
        wanted = [number for number in (replies[-1:] if trained == "last" else replies) if number >= given]
        if not wanted:
            return work.masked((), "prefix", "The assistant says nothing in it.")
        try:
            by_prefix, refusal = work.masked(tuple(work.reply(number) for number in wanted), "prefix", ""), None
        except Unsupported as error:
            by_prefix, refusal = None, error
        blocks = work.blocks(replies, wanted)
        if blocks is None:
            if refusal:
                raise refusal
            assert by_prefix
            return by_prefix
        note = f"Comparing prefixes does not prove it: {refusal.message}" if refusal else ""
        by_blocks = work.masked(blocks, "generation", note)
        if by_prefix and by_prefix.trained != by_blocks.trained:
            return work.masked(blocks, "generation", _disagreement(self.tokenizer, by_blocks, by_prefix))
        return by_blocks

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """The special tokens, and what ends a turn where that is not flagged as one; the longest first."""
        held = {token.content for token in self.added.values() if token.special}
        usual = self.end_of_turn.token if self.end_of_turn else None
        return tuple(sorted(held | ({usual} if usual else set()), key=len, reverse=True))

    @cached_property
    def end_of_turn(self) -> EndOfTurn | None:
        """What the template ends a plain reply with; None where it has none by itself."""
        try:
            return end_of_turn(self.tokenizer, None, template=self.template)
        except (InputError, Unsupported):
            return None

    @cached_property
    def added(self) -> dict[int, AddedToken]:
        """The added tokens, which no text becomes by merging."""
        return dict(self.tokenizer.added_tokens_decoder)


def masked_completion(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Masked:
    """A prompt and its completion as plain text, the completion trained on, with one end-of-text token behind it.

    The prompt begins as in generation. Raises Unsupported where its tokens are no prefix of those of the whole.
    """
    if not completion:
        raise InputError("The completion is empty: there is nothing to learn.", "Drop this row, or write a completion.")
    text, opening = prompt + completion, _opening(tokenizer)
    ids = opening + encode(tokenizer, text, special_tokens=False)
    before = opening + encode(tokenizer, prompt, special_tokens=False)
    if ids[: len(before)] != before:
        raise Unsupported(
            f"The prompt ends inside of a token: “{prompt[-10:]}” and “{completion[:10]}” run together.",
            "End the prompt with a line break, or begin the completion with the space.",
        )
    return _plain(tokenizer, text, ids, len(prompt), len(before))


def masked_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Masked:
    """A plain text, all of it trained on, with one end-of-text token behind it."""
    if not text:
        raise InputError("The text is empty: there is nothing to learn.", "Drop this row.")
    whole = _plain(tokenizer, text, _opening(tokenizer) + encode(tokenizer, text, special_tokens=False), 0, 0)
    return replace(whole, how="everything")


def _plain(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], start: int, first: int) -> Masked:
    end = tokenizer.eos_token_id
    if end is not None and ids[-1:] != [end]:
        ids = [*ids, end]
    mask = tuple(place >= first for place in range(len(ids)))
    return Masked(text, tuple(ids), mask, (), ((start, len(text)),), "completion", end is not None)


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text, where generation has them too."""
    plain, whole = (encode(tokenizer, "a", special_tokens=special) for special in (False, True))
    size = next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)
    return whole[:size]


class _Conversation:
    """A conversation and all that was rendered of it."""

    def __init__(self, masker: Masker, messages: tuple[Message, ...], tools: tuple[ToolDefinition, ...]) -> None:
        self._masker, self._messages, self._tools = masker, messages, tools
        self._late = time.monotonic() + MASK_SECONDS
        self._whole = render_tracked(
            masker.tokenizer, messages, tools=tools, generation_prompt=False, template=masker.template
        )
        self.text = self._whole.text
        self._edges = Edges(masker.tokenizer, self.text, masker.added)
        self._ids = self._edges.ids
        self._known: dict[tuple[int, bool], str | InputError] = {(len(messages), False): self.text}

    def masked(self, spans: tuple[Span, ...], how: How, note: str) -> Masked:
        """With these characters trained on. Raises Unsupported where they begin or end inside of a token."""
        mask = [False] * len(self._ids)
        for start, end in spans:
            first, last = self._edges.at(start), self._edges.at(end)
            mask[first:last] = [True] * (last - first)
        # A reply may be marked in several pieces, and the end belongs to the last of them.
        places = {(turn.start, turn.end) for turn in self._turns if turn.role == "assistant"}
        ends = [max((end for start, end in spans if low <= start < high), default=None) for low, high in places]
        ended = all(self._ends_at(end) for end in ends if end is not None) if spans else None
        return Masked(self.text, tuple(self._ids), tuple(mask), self._turns, spans, how, ended, note)

    def everything(self) -> Masked:
        """With all of it trained on, the replies or not."""
        replies = [number for number, message in enumerate(self._messages) if message.role == "assistant"]
        try:
            ended = all(self._ends_at(self.reply(number)[1]) for number in replies) if replies else None
            note = ""
        except Unsupported as error:
            ended, note = None, error.message
        mask = (True,) * len(self._ids)
        return Masked(self.text, tuple(self._ids), mask, self._turns, ((0, len(self.text)),), "everything", ended, note)

    def _ends_at(self, position: int) -> bool:
        """Whether the token before a character ends a turn: the one that ends others, or another one in its place."""
        place = self._edges.at(position)
        before, behind = self._ids[max(0, place - 1) : place], self._ids[place : place + 2]
        usual = self._masker.end_of_turn.id if self._masker.end_of_turn else None
        special = any(token in self._masker.added and self._masker.added[token].special for token in before)
        return before == [usual] or (special and usual not in behind)

    def reply(self, number: int) -> Span:
        """The characters of a reply, from where the model takes over to its end-of-turn token.

        Raises Unsupported where they cannot be told, because the template writes it otherwise once the turn is over.
        """
        prompt, place = self._until(number, prompt=True), f"turn {number + 1}"
        closed = self._until(number + 1)
        if isinstance(prompt, InputError) or isinstance(closed, InputError):
            error = prompt if isinstance(prompt, InputError) else cast("InputError", closed)
            said = error.message.rstrip(".")
            raise _unproven(f"the conversation up to {place} cannot be rendered by itself: {said}")
        if not closed.startswith(prompt):
            raise _unproven(f"the prompt of {place} reads {_difference(prompt, closed)} once it is answered")
        end = len(prompt) + self._end(closed[len(prompt) :])
        if not self.text.startswith(closed[:end]):
            raise _unproven(f"{place} reads {_difference(closed, self.text)} once the conversation goes on")
        return len(prompt), end

    def _end(self, said: str) -> int:
        """Where the end-of-turn token ends in what the template makes of a reply.

        What stands behind it, space and other special tokens, the model never gets to write, for it is stopped. Where
        the usual one is not there, it is the last special token; without any, all is the reply's.
        """
        found, rest = None, said.rstrip()
        while token := self._closing(rest):
            usual = self._masker.end_of_turn is not None and token == self._masker.end_of_turn.token
            found = len(rest) if found is None or usual else found
            if usual:
                break
            rest = rest.removesuffix(token).rstrip()
        return len(said) if found is None else found

    def blocks(self, replies: list[int], wanted: list[int]) -> tuple[Span, ...] | None:
        """What the template marks as generated of these replies; None where it marks nothing, or not one a reply."""
        found = self._whole.generated
        if found is None:
            return None
        if len(wanted) == len(replies):
            return found
        return found[-len(wanted) :] if len(found) == len(replies) else None

    def _shared(self, closed: str) -> int | None:
        """Where the whole goes on from a part of it, but for what closes any text; None where it reads otherwise."""
        while not self.text.startswith(closed):
            last = closed[-1] if closed[-1:].isspace() else self._closing(closed)
            if not last:
                return None
            closed = closed.removesuffix(last)
        return len(closed)

    def _closing(self, text: str) -> str:
        """The special token that a text ends with; empty where it ends otherwise."""
        return next((token for token in self._masker.specials if text.endswith(token)), "")

    @cached_property
    def _turns(self) -> tuple[Turn, ...]:
        ends: list[int | None] = []
        for number in range(1, len(self._messages)):
            text = self._until(number)
            ends.append(None if isinstance(text, InputError) else self._shared(text))
        ends.append(len(self.text))
        turns, start = [], 0
        for number, message in enumerate(self._messages):
            end = next(end for end in ends[number:] if end is not None)
            turns.append(Turn(message.role, start, end))
            start = start if ends[number] is None else end
        return tuple(turns)

    def _until(self, count: int, *, prompt: bool = False) -> str | InputError:
        """The first turns alone, with the prompt of a reply where asked for; or why the template refuses that."""
        if time.monotonic() > self._late:
            raise InputError(
                f"The chat template needs more than {MASK_SECONDS:g} seconds for the turns of one conversation.",
                "Shorten the conversation, or choose a template that is faster.",
            )
        if (count, prompt) not in self._known:
            try:
                self._known[count, prompt] = render(
                    self._masker.tokenizer,
                    self._messages[:count],
                    tools=self._tools,
                    generation_prompt=prompt,
                    template=self._masker.template,
                )
            except InputError as error:
                self._known[count, prompt] = error
        return self._known[count, prompt]


class Edges:
    """Which token begins at a character, proven by making tokens of the text before it alone."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text: str, added: dict[int, AddedToken] | None = None
    ) -> None:
        self._tokenizer, self._text = tokenizer, text
        self._added = dict(tokenizer.added_tokens_decoder) if added is None else added
        self._fixed = {0: 0}
        if tokenizer.is_fast:
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            self.ids = list(encoded.input_ids)
            self._fixed |= self._separators([start for start, _ in encoded.offset_mapping])
        else:
            self.ids = encode(tokenizer, text, special_tokens=False)
        self._found: dict[int, int] = {}

    def at(self, position: int) -> int:
        """Raises Unsupported where the text before it is made of other tokens when the rest is there."""
        if position == len(self._text):
            return len(self.ids)
        if position not in self._found:
            self._found[position] = self._proven(position)
        return self._found[position]

    def _proven(self, position: int) -> int:
        start = max(place for place in self._fixed if place <= position)
        first, before = self._fixed[start], encode(self._tokenizer, self._text[start:position], special_tokens=False)
        if self.ids[first : first + len(before)] != before:
            near, far = self._text[max(0, position - 10) : position], self._text[position : position + 10]
            raise _unproven(f"a token reaches across the border of “{near}” and “{far}”")
        return first + len(before)

    def _separators(self, starts: list[int]) -> dict[int, int]:
        """Where the text falls apart: character → token of the special tokens in it.

        The text before one and the text from it on are made into tokens each by itself, so that no proof
        goes back to the beginning: for 20 turns of 200 tokens that takes 2 ms rather than 25.
        """
        plain = {
            n: t.content for n, t in self._added.items() if not (t.lstrip or t.rstrip or t.single_word or t.normalized)
        }
        return {
            start: number
            for number, (token, start) in enumerate(zip(self.ids, starts, strict=True))
            if token in plain and self._text.startswith(plain[token], start)
        }


def _unproven(reason: str) -> Unsupported:
    return Unsupported(
        f"Which tokens are the assistant's cannot be proven: {reason}.",
        "Train on the last reply alone where more were asked for, or choose a template with {% generation %}.",
    )


def _difference(one: str, other: str) -> str:
    """Two texts from where they part."""
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    before, after = (repr(text[max(0, at - 12) : at + 28]) for text in (one, other))
    return f"{before}, and {after}"


def _disagreement(tokenizer: PreTrainedTokenizerBase, blocks: Masked, prefix: Masked) -> str:
    apart = [place for place, (a, b) in enumerate(zip(blocks.trained, prefix.trained, strict=True)) if a != b]
    token = tokenizer.convert_ids_to_tokens(blocks.ids[apart[0]])
    does = "trains on" if blocks.trained[apart[0]] else "leaves out"
    return (
        f"{{% generation %}} in the template {does} {token!r}, and comparing prefixes does not agree:"
        f" they differ in {len(apart)} of {len(blocks.ids)} tokens. The template decides."
    )
