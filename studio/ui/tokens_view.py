"""Tokens as coloured text: every token a hover and a click away from all there is to know about it.

The HTML is as small as it can be, since 20,000 tokens are 20,000 elements: one letter of a class each, and what a token
is in one JSON list beside them, which `tokens.js` reads when the mouse first asks for it.
"""

from __future__ import annotations

import html
import json
import unicodedata
import zlib
from collections.abc import Collection, Sequence
from functools import lru_cache

from studio.tokenizer.pieces import Piece

WINDOW = 20_000
"""Tokens that are drawn at once."""
_CHUNK = 500
"""Tokens in a paragraph: the browser lays out those that are in sight, where one flow of 20,000 takes it seconds."""
_COLOURS = "abcdef"
_BREAK = "\u200b"  # so that a line may end before a space, which is drawn as a dot


def tokens(pieces: Sequence[Piece], *, total: int, trained: Collection[int] | None = None) -> str:
    """The pieces as one flow of text and one of ids, in the same colours, with a line for the one that is chosen.

    `total` is how many tokens the whole text has. `trained` are the indices of those that count as trained; all others
    are dimmed where that is not None.
    """
    if not pieces:
        return ""
    looks = [_look(piece, trained) for piece in pieces]
    shown = _chunks([f'<i class="{look}">{_shown(piece)}</i>' for piece, look in zip(pieces, looks, strict=True)], "")
    ids = _chunks([f'<i class="{look}">{piece.id}</i>' for piece, look in zip(pieces, looks, strict=True)], " ")
    facts = json.dumps([_facts(piece) for piece in pieces], ensure_ascii=False, separators=(",", ":"))
    # Gradio goes through old and new elements one by one, unless the outermost one has another name.
    box = f"tokens-{zlib.crc32(repr((pieces[0].index, total, looks, facts)).encode()):x}"
    return (
        f'<{box} class="tokenized" data-first="{pieces[0].index}" data-total="{total}" data-chunk="{_CHUNK}">'
        f'<div class="tokens" tabindex="0" role="group" aria-label="Tokens; the arrow keys go through them">'
        f'{shown}</div><div class="token" role="status">Point at a token, or choose one with a click.</div>'
        f'<div class="ids" aria-label="Token ids">{ids}</div>'
        f'<data hidden value="{html.escape(facts)}"></data></{box}>'
    )


def _chunks(drawn: list[str], between: str) -> str:
    chunks = (between.join(drawn[first : first + _CHUNK]) for first in range(0, len(drawn), _CHUNK))
    return "".join(f"<p>{chunk}</p>" for chunk in chunks)


def _look(piece: Piece, trained: Collection[int] | None) -> str:
    """One letter for what it is, and a second one where it is dimmed."""
    letter = {"unknown": "u", "special": "s", "added": "s"}.get(piece.kind) or _COLOURS[piece.index % len(_COLOURS)]
    return letter if trained is None or piece.index in trained else f"{letter} m"


def _shown(piece: Piece) -> str:
    if piece.kind == "byte" or (piece.shared and piece.utf8):
        whole = html.escape(visible(piece.text)) if piece.text and not piece.shared else ""
        return f"{whole}<q>{_hex(piece.utf8)}</q>"
    if piece.kind in ("special", "added", "unknown"):
        return html.escape(visible(piece.text)) if piece.text else f"<q>{html.escape(visible(piece.token))}</q>"
    return html.escape(visible(piece.text)) if piece.text else f"<q>{html.escape(visible(piece.token))}</q>"


def _facts(piece: Piece) -> list[object]:
    return [piece.id, piece.token, piece.text, _hex(piece.utf8), piece.start, piece.end, piece.word, piece.kind]


def _hex(utf8: Sequence[int]) -> str:
    return " ".join(f"{value:02X}" for value in utf8)


def visible(text: str) -> str:
    """The text with what cannot be seen drawn: spaces as dots, controls as their signs, the rest by its number."""
    return "".join(map(_sign, text))


@lru_cache(maxsize=4096)
def _sign(letter: str) -> str:
    match letter:
        case " ":
            return f"{_BREAK}·"
        case "\n":
            return "⏎\n"
        case "\t":
            return "⇥\t"
    code = ord(letter)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    category = unicodedata.category(letter)
    if category in ("Cf", "Cc", "Cn", "Co", "Cs", "Zl", "Zp") or (category == "Zs"):
        return f"⟨{code:04X}⟩"
    return f"◌{letter}" if category == "Mn" else letter


def plain(text: str) -> str:
    """A text by itself, with everything in it visible."""
    return f'<div class="tokens plain">{html.escape(visible(text))}</div>'
