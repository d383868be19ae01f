"""What a token leaves behind in a layer while a decoder is trained, in bytes.

Read from the autograd graphs of the Llama family in transformers 5.23 (RMSNorm, gated MLP, grouped attention), and held
against dry runs. H hidden, I intermediate, q and kv the widths of queries and of keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from studio.memory.adapters import targeted
from studio.memory.architecture import Facts
from studio.memory.request import Question
from studio.memory.standing import adapter_itemsize, held_precision
from studio.models import Precision

FAMILY = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "ministral")
"""Architectures that the formulas were held against, or that are built of the same parts."""
_ATTENTION = ("q_proj", "k_proj", "v_proj")
_GATED = ("gate_proj", "up_proj")


@dataclass(frozen=True, slots=True)
class Widths:
    """The sizes of a layer, and in what it computes."""

    hidden: int
    intermediate: int
    query: int
    keys: int
    heads: int
    norms_heads: bool
    """Queries and keys have a norm of their own, as in Qwen3."""
    computes: int
    """Bytes of a number that a matrix multiplication takes and gives."""
    stream: int
    """Bytes of a number of the residual stream, and of what a norm gives."""
    weights: int
    """Bytes of a number of a weight that is trained with the model."""
    gates: int
    """Bytes of a number of what a linear layer gives: those of bitsandbytes give what they get."""


def widths(facts: Facts, question: Question) -> Widths:
    """Of the layers of a model, as a question has them compute."""
    precision = held_precision(facts, question)
    wide = precision is Precision.FP32 or question.prepares_kbit
    if question.method == "dora" and question.precision.quantizes and question.autocast != "none":
        wide = True  # PEFT does not cast what the magnitudes, which are in fp32, make of the product
    computes = 2 if question.autocast != "none" or not wide else 4
    stream = 4 if wide else 2
    return Widths(
        facts.hidden,
        facts.intermediate,
        facts.heads * facts.head_dim,
        facts.kv_heads * facts.head_dim,
        facts.heads,
        norms_heads=any(tensor.module == "q_norm" for tensor in facts.tensors),
        computes=computes,
        stream=stream,
        weights=4 if precision is Precision.FP32 else 2,
        gates=stream if precision.quantizes else computes,
    )


def saved(facts: Facts, question: Question, w: Widths) -> int:
    """Bytes that a token leaves in one layer until its backward pass."""
    full = question.method == "full"
    inputs = _full_inputs(w) if full else _adapter_inputs(facts, question, w)
    # A norm holds its input in fp32; where its weight is trained, also what it is multiplied with.
    norms = 2 * (4 + (w.stream if full else 0)) * w.hidden
    if w.norms_heads:
        norms += (4 + (w.computes if full else 0)) * (w.query + w.keys)
    attention = w.computes * 2 * (w.query + w.keys) + 4 * w.heads
    if holds_scores(question, w):
        attention = w.computes * 4 * w.query + 4 * w.heads * question.context  # keys and values are repeated
    gated = w.gates * 3 * w.intermediate
    # The input of o is the output of the attention, which is held anyway; an adapter that reads the inputs of an int8
    # layer as they are holds the same ones.
    kept = max(0, kept_inputs(question, w) - w.computes * w.query)
    if not full and reads_as_is(facts, question, w):
        kept = 0
    return norms + attention + gated + inputs + _scores(question, w) + kept


def holds_scores(question: Question, w: Widths) -> bool:
    """Whether sdpa finds no kernel but the plain one: no other computes grouped queries in 32 bit."""
    unmasked = question.packing or question.batch == 1
    return question.attention == "sdpa" and w.computes == 4 and w.keys < w.query and unmasked


def _full_inputs(w: Widths) -> int:
    """Inputs of the linear layers, which their weights' gradients need: of q, k and v one, of gate and up one."""
    product = w.computes * w.intermediate
    if w.stream == w.computes:
        return 2 * w.computes * w.hidden + product
    return 5 * w.computes * w.hidden + product  # autocast makes a copy for each of the five


def _adapter_inputs(facts: Facts, question: Question, w: Widths) -> int:
    """Inputs of the adapters and what lies between their two matrices."""
    autocast = question.autocast != "none"
    held = 2 if autocast else adapter_itemsize(facts, question)
    as_is = reads_as_is(facts, question, w)
    total, seen = 0, set()
    for tensor in {tensor.module: tensor for tensor in targeted(facts, question)}.values():
        outputs, inputs = tensor.shape
        comes_as = w.stream if tensor.module in (*_ATTENTION, *_GATED) else w.computes
        total += held * question.rank
        if question.dropout:
            total += (held + 1) * inputs  # a copy of its own, and a byte for each that says whether it was dropped
        elif not as_is and (autocast or comes_as != held):
            total += held * inputs  # cast for this adapter alone
        else:
            shared = _shared(tensor.module)
            total += 0 if shared in seen or shared == "o_proj" else held * inputs  # o's is the attention's own output
            seen.add(shared)
        if question.method == "dora":
            # What the magnitudes are multiplied with: the product of the layer, and that of the adapter.
            total += ((held if question.dropout else w.computes) + held) * outputs
    if question.method == "dora" and autocast and question.precision.quantizes:
        total += w.stream * w.intermediate
    return total


def _shared(module: str) -> str:
    """Modules that read the same tensor have the same word."""
    return "attention" if module in _ATTENTION else "gated" if module in _GATED else module


def reads_as_is(facts: Facts, question: Question, w: Widths) -> bool:
    """Whether adapters read what their layers read, without a cast: PEFT makes none beside bitsandbytes in autocast."""
    if question.autocast != "none":
        return question.precision.quantizes and w.stream == 2
    return adapter_itemsize(facts, question) == w.stream == w.computes


def kept_inputs(question: Question, w: Widths) -> int:
    """What int8 layers hold of their inputs where checkpointing does not reach (MatMul8bitLt, ctx.tensors)."""
    if question.precision is not Precision.INT8:
        return 0
    return w.computes * (2 * w.hidden + w.query + w.intermediate)


def _scores(question: Question, w: Widths) -> int:
    """The attention weights of one token, which eager attention holds: the softmax in fp32, and cast."""
    if question.attention != "eager":
        return 0
    return w.heads * question.context * (4 + w.computes if w.computes < 4 else 4)


def passing(facts: Facts, question: Question, w: Widths) -> int:
    """Bytes of a token that come and go while a layer goes backward: within the gate, or within held scores."""
    if holds_scores(question, w):
        # Two copies of the gradient of the scores, once what the gated part of the layer left is gone.
        gone = 4 * w.gates * w.intermediate
        if question.method == "dora":
            gone += 8 * (2 * w.intermediate + w.hidden)
        return max(8 * w.heads * question.context - gone, 2 * w.gates * w.intermediate)
    wide, all_three = (parts * w.gates * w.intermediate for parts in (2, 3))
    if question.method == "full":
        return wide + (4 + (w.stream if question.software.reentrant else 0)) * w.hidden
    if question.autocast != "none" and not question.precision.quantizes:
        return all_three + 10 * w.hidden
    if question.autocast != "none":
        return wide + (6 if w.stream == 4 else 4) * w.hidden
    if not {tensor.module for tensor in targeted(facts, question)} & {*_GATED, "down_proj"}:
        return all_three + w.computes * w.hidden
    if question.dropout:
        return all_three + 14 * w.hidden
    if reads_as_is(facts, question, w):
        return wide + (0 if question.checkpointing else 4 * w.hidden)
    if question.precision is Precision.INT8:
        return w.computes * w.intermediate + 8 * w.hidden
    return wide + (10 if question.precision.quantizes else 12) * w.hidden
