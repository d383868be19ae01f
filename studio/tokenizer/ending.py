"""How a turn ends: which token the template writes there, and whether a model that says it would be stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.checkpoint import read_json
from studio.errors import Unsupported
from studio.tokenizer.conversation import Message
from studio.tokenizer.reading import encode
from studio.tokenizer.template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "probe"


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """What a template writes behind a reply, and what the tokenizer and the generation config say to that."""

    text: str
    """All that the template writes there, such as "<|im_end|>" and a line break."""
    token: str | None
    """The token that ends the turn; None where plain text, or nothing, does."""
    id: int | None
    special: bool
    """Whether it is one special token, which no text of a person is made into by chance."""
    is_eos: bool
    """Whether it is the eos_token of the tokenizer."""
    stops: bool
    """Whether generation ends at it."""
    consequence: str
    """What would happen; empty where all is well."""


def end_of_turn(
    tokenizer: PreTrainedTokenizerBase, generation_eos: int | list[int] | None, *, template: str | None = None
) -> EndOfTurn:
    """Find what ends a turn by rendering one. `generation_eos` is eos_token_id of the model's generation config.

    Where that is None generation ends at the eos_token of the tokenizer. Raises Unsupported where the template does not
    write the reply as it is, and what `render` raises.
    """
    asked = (Message("user", "Hello"), Message("assistant", _PROBE))
    text = render(tokenizer, asked, generation_prompt=False, template=template)
    if text.count(_PROBE) != 1:
        raise Unsupported(
            f"The chat template writes a reply {text.count(_PROBE)} times, so its end cannot be told.",
            "Choose another template: a reply has to stand in the text once, as it is.",
        )
    behind = text.partition(_PROBE)[2]
    added = tokenizer.added_tokens_decoder
    found = next((token for token in encode(tokenizer, behind, special_tokens=False) if token in added), None)
    held = tokenizer.eos_token_id if generation_eos is None else generation_eos
    ends = held if isinstance(held, list) else [] if held is None else [held]
    known = " and ".join(_name(tokenizer, end) for end in ends) or "no token"
    if found is None:
        what = f"with plain text, {behind!r}" if behind else "with nothing"
        said = f"The model would not stop: the template ends a reply {what}, and generation ends at {known}."
        return EndOfTurn(behind, None, None, False, False, False, said)
    stops = found in ends
    said = f"The model would not stop: a reply ends with {_name(tokenizer, found)}, and generation ends at {known}."
    is_eos = found == tokenizer.eos_token_id
    return EndOfTurn(behind, added[found].content, found, added[found].special, is_eos, stops, "" if stops else said)


def generation_ends(folder: Path) -> int | list[int] | None:
    """eos_token_id of generation_config.json in a model's folder; None where it says nothing."""
    file = folder / "generation_config.json"
    found: int | list[int] | None = read_json(file).get("eos_token_id") if file.is_file() else None
    return found


def _name(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return f"{tokenizer.convert_ids_to_tokens(token)} ({token})"
