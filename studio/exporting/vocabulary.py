"""The tokenizer of a folder as a GGUF file holds it, with the splitting that gives the same tokens in llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import Damaged, Unsupported
from studio.exporting.shape import Pairs
from studio.exporting.splits import CONTROL, NORMAL, SPLITS, UNUSED, USER_DEFINED, as_read
from studio.tokenizer import encode, generation_ends
from studio.tokenizer.backend import described, own_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HINT = "llama.cpp may read it: the command for its own converter is given."
_FIRST = 2_000  # texts that show most splittings to be others; all are tried with the one that is left


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the file says of text."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    split: str
    """The name of one of SPLITS."""
    pairs: Pairs
    """Everything else that the file says of it, by key."""
    caveats: tuple[str, ...]


def read_vocabulary(
    folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int, texts: Sequence[str], given_up: Callable[[], None]
) -> Vocabulary:
    """The vocabulary for an embedding of `rows`, with the splitting that makes the same ids of all `texts`.

    `given_up` is called now and then and may raise. Raises Unsupported where llama.cpp would not read text as the
    folder does, and Damaged where tokenizer and model do not belong together.
    """
    told = _described(tokenizer)
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in told["model"]["merges"]]
    tokens, types = _tokens(told, rows)
    caveats = []
    if told["normalizer"]:
        caveats.append(
            "llama.cpp does not put text into its normal form (NFC) first, so accents that are typed as characters of"
            " their own become other tokens"
        )
    pairs, more = _special(folder, tokenizer)
    found = Vocabulary(tuple(tokens), tuple(types), tuple(merges), "", pairs, (*caveats, *more))
    return _with_split(found, tokenizer, texts, given_up)


def own_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """What the folder makes of texts that are in its normal form."""
    backend = own_backend(tokenizer)
    assert backend
    return [each.ids for each in backend.encode_batch(list(texts), add_special_tokens=False)]


def normal_forms(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """The texts as the tokenizer would put them before it splits them."""
    normalizer: Any = getattr(tokenizer, "backend_tokenizer").normalizer  # noqa: B009  # the Rust half is there
    return [normalizer.normalize_str(text) for text in texts] if normalizer else list(texts)


def _described(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """tokenizer.json as a value. Raises Unsupported where it is not the byte-level BPE that llama.cpp has too."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise Unsupported("This tokenizer has no tokenizer.json, so it cannot be written into a GGUF file.", _HINT)
    told: dict[str, Any] = json.loads(backend.to_str())
    model = told["model"]
    steps = [step["type"] for step in described(backend.pre_tokenizer)]
    spaced = any(step.get("add_prefix_space") for step in described(backend.pre_tokenizer))
    changes = [step["type"] for step in described(backend.normalizer) if step["type"] != "NFC"]
    odd = {
        f"it is {model['type']}": model["type"] != "BPE",
        "it does not spell text in bytes": "ByteLevel" not in steps,
        "it puts a space before every text": spaced,
        f"it changes the text first ({', '.join(changes)})": bool(changes),
        "it marks parts of words": bool(model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")),
        "it has no merges, without which llama.cpp opens no file": not model.get("merges"),
    }
    if found := [what for what, is_so in odd.items() if is_so]:
        raise Unsupported(
            f"The studio writes byte-level BPE into GGUF files, and this tokenizer is other: {found[0]}.", _HINT
        )
    return told


def _tokens(told: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Every row of the embedding with its token, and what kind of token it is."""
    by_id = {number: token for token, number in told["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in told["added_tokens"]}
    highest = max([*by_id, *added])
    if highest >= rows:
        raise Damaged(
            f"The tokenizer makes a token with the number {highest:,}, and the model knows {rows:,} tokens.",
            "Its tokenizer belongs to another model. Take the tokenizer files from the model it was made from.",
        )
    tokens, types = [], []
    for number in range(rows):
        if number in added:
            tokens.append(added[number]["content"])
            types.append(CONTROL if added[number]["special"] else USER_DEFINED)
        else:
            tokens.append(by_id.get(number, f"[PAD{number}]"))
            types.append(NORMAL if number in by_id else UNUSED)
    if len(set(tokens)) < rows:
        raise Damaged("Two tokens of this tokenizer are spelled alike.", "Train or download the tokenizer again.")
    return tokens, types


def _special(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Pairs, list[str]]:
    """Which tokens begin, end and pad, and the chat template."""
    held = generation_ends(folder)
    held = tokenizer.eos_token_id if held is None else held
    ends = held if isinstance(held, list) else [] if held is None else [held]
    if not ends:
        raise Unsupported("Nothing says with which token this model ends.", "Set eos_token in its tokenizer first.")
    # The tokenizer's own comes first: llama.cpp calls that one the end of text.
    ends = sorted(ends, key=lambda token: token != tokenizer.eos_token_id)
    bare, dressed = (encode(tokenizer, "a", special_tokens=flag) for flag in (False, True))
    before, after = _around(bare, dressed)
    begins, closes = before == [tokenizer.bos_token_id], after == [tokenizer.eos_token_id]
    if (before and not begins) or (after and not closes):
        raise Unsupported("This tokenizer puts more around a text than a first and a last token.", _HINT)
    pairs: Pairs = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.eos_token_id": ends[0],
        "tokenizer.ggml.add_bos_token": begins,
        "tokenizer.ggml.add_eos_token": closes,
    }
    roles = {"eot": dict(enumerate(ends)).get(1), "eom": dict(enumerate(ends)).get(2)}
    roles |= {"bos": tokenizer.bos_token_id, "padding": tokenizer.pad_token_id, "unknown": tokenizer.unk_token_id}
    pairs |= {f"tokenizer.ggml.{role}_token_id": number for role, number in roles.items() if number is not None}
    if isinstance(tokenizer.chat_template, str) and tokenizer.chat_template:
        pairs["tokenizer.chat_template"] = tokenizer.chat_template
    caveats = [f"{len(ends) - 3} more tokens end a reply here, and a file can name three"] if len(ends) > 3 else []
    return pairs, caveats


def _around(bare: list[int], dressed: list[int]) -> tuple[list[int], list[int]]:
    """What was put before and behind."""
    start = next(at for at in range(len(dressed) + 1) if dressed[at : at + len(bare)] == bare)
    return dressed[:start], dressed[start + len(bare) :]


def _with_split(
    found: Vocabulary, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], given_up: Callable[[], None]
) -> Vocabulary:
    texts = normal_forms(tokenizer, texts)
    expected = own_ids(tokenizer, texts)
    closest = ("", len(texts) + 1, "")
    for name, split in SPLITS.items():
        given_up()
        read = as_read(found.tokens, found.types, found.merges, split)
        # From the end: conversations and rare tokens first, which are what is dear.
        for part in (slice(-_FIRST, None), slice(None)):
            ids = [each.ids for each in read.encode_batch(list(texts[part]), add_special_tokens=False)]
            wrong = [text for text, own, theirs in zip(texts[part], expected[part], ids, strict=True) if own != theirs]
            if wrong:
                closest = min(closest, (name, len(wrong), wrong[0]), key=lambda each: each[1])
                break
        else:
            pairs = found.pairs | {"tokenizer.ggml.pre": name}
            return Vocabulary(found.tokens, found.types, found.merges, name, pairs, found.caveats)
    raise Unsupported(
        f"No way of splitting text that llama.cpp knows gives the tokens of this tokenizer; the closest, {closest[0]},"
        f" makes others of {closest[2][:40]!r}.",
        "Serve this model with transformers or vLLM, which read tokenizer.json itself.",
    )
