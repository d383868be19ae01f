"""What DoRA takes beyond LoRA: what its magnitudes are multiplied with, and the norm of every weight it adapts.

PEFT computes the norm of a whole matrix in every forward pass, and the update by multiplying an identity as wide as
the inputs (peft/tuners/lora/dora.py, 0.21): for a layer of 14,336 inputs that alone is 0.8 GB, however short the text.
"""

from __future__ import annotations

from math import prod

from studio.memory.activations import Widths, reads_as_is
from studio.memory.adapters import targeted
from studio.memory.architecture import Facts, Tensor
from studio.memory.request import Question
from studio.memory.standing import adapter_itemsize


def kept_weights(facts: Facts, question: Question, w: Widths) -> int:
    """Bytes of a layer's weights that dropout makes it keep: its product is computed anew, with a copy of it."""
    own = _computes(facts, question)
    if question.method != "dora" or not question.dropout or (not question.precision.quantizes and own == w.weights):
        return 0
    return sum(own * prod(tensor.shape) * tensor.count for tensor in targeted(facts, question)) // facts.depth


def norm_bytes(facts: Facts, question: Question, w: Widths) -> int:
    """Bytes that the widest of the norms takes while it is computed, whatever the number of tokens."""
    return max(_norm(tensor, facts, question, w) for tensor in targeted(facts, question))


def _norm(tensor: Tensor, facts: Facts, question: Question, w: Widths) -> int:
    outputs, inputs = tensor.shape
    identity, matrix, own = inputs * inputs, outputs * inputs, adapter_itemsize(facts, question)
    if question.autocast != "none":
        return (own + 2) * identity + 2 * matrix  # the identity, its copy in 16 bit, and the update
    cast = question.precision.quantizes or own != w.weights
    # The identity, the update, the update scaled and the sum; and a copy of the weight in the dtype of the adapter.
    return own * identity + (4 if cast and not question.dropout else 3) * own * matrix


def held_at_norm(facts: Facts, question: Question, w: Widths) -> int:
    """Bytes of a token that wait while the norm of the last matrix of a layer is computed, beside what is saved."""
    residual = w.computes * w.hidden + (2 * w.stream * w.hidden if w.stream == 2 else 0)
    flowing = 2 * w.stream * w.hidden if question.checkpointing else 0
    residual -= (w.computes + _computes(facts, question)) * w.hidden  # what this very layer saves comes after it
    if question.autocast != "none":
        return residual + flowing + (6 if question.precision.quantizes else 8) * w.intermediate
    copies = 0 if reads_as_is(facts, question, w) else 1 + question.checkpointing
    return residual + flowing + copies * w.computes * w.intermediate


def comes_last(facts: Facts, question: Question) -> bool:
    """Whether the last matrix of a layer is among those with an adapter, so that all of the layer is there by then."""
    return any(tensor.module == "down_proj" for tensor in targeted(facts, question))


def _computes(facts: Facts, question: Question) -> int:
    return 2 if question.autocast != "none" else adapter_itemsize(facts, question)
