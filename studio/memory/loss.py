"""What the logits and the loss take: with a large vocabulary the most of all, or hardly anything."""

from __future__ import annotations

from studio.memory.activations import Widths
from studio.memory.request import Question

_PIECE = 1 << 24
"""Logits that the studio's own head has at once (studio/training/loss.py)."""


def held_at_loss(question: Question, w: Widths, vocabulary: int, *, trains: bool) -> int:
    """Bytes of the last norm, the logits and the loss; `trains` says whether the head is trained."""
    tokens, held = question.tokens, w.computes
    head = vocabulary * w.hidden
    # What the last norm holds: its input in fp32, and where it is trained what it is multiplied with and its output.
    norm = tokens * w.hidden * (4 + (w.stream + held if trains else 0))
    gradient = tokens * w.hidden * held
    if question.loss == "chunked":
        piece = min(_PIECE, tokens * vocabulary) * (4 + (held if held < 4 else 0))
        rows = tokens * w.hidden * w.stream  # the trained ones, picked out
        if trains:
            return norm + rows + max(piece, 3 * head * w.weights)  # its gradient, that of a piece, and their sum
        # A frozen head in fp32 beside quantized weights is cast as a whole; elsewhere its copy is counted apart.
        cast = 2 * head if held < w.stream and w.weights < 4 else 0
        return norm + 2 * rows + piece + cast
    if question.loss == "liger":
        chunk = _liger_chunk(tokens, w.hidden, vocabulary)
        return norm + chunk * vocabulary * (held + 2) + gradient + (head * w.weights if trains else 0)
    if question.software.loss == "copied":
        norm += tokens * w.hidden * w.stream  # the peak is before the model has returned: its last state is there too
    entry = {
        # log-softmax, its gradient and that of the loss, each in fp32
        "freed": 12,
        "kept": 12 + held,
        # the logits, an fp32 copy, a shifted one and the log-softmax
        "copied": 14 if held == 2 else 12,
        "upcast": 12,
    }[question.software.loss]
    return norm + tokens * vocabulary * entry


def _liger_chunk(tokens: int, hidden: int, vocabulary: int) -> int:
    """Tokens that Liger computes at once: so many that their logits are about as large as the hidden states."""
    parts = max(1, -(vocabulary // -hidden))
    return min(tokens, 1 << max(0, (-(tokens // -parts) - 1).bit_length()))
