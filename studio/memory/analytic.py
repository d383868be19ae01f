"""The peak of a training step in closed form: the fullest of five moments, in well under a millisecond."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from studio.errors import Unsupported
from studio.memory.activations import FAMILY, Widths, kept_inputs, passing, saved, widths
from studio.memory.architecture import Facts
from studio.memory.dora import comes_last, held_at_norm, kept_weights, norm_bytes
from studio.memory.hardware import Device
from studio.memory.loss import held_at_loss
from studio.memory.optimizers import step_bytes
from studio.memory.request import PARTS, Estimate, Moment, Note, Part, Question
from studio.memory.sharing import shared
from studio.memory.standing import Standing, stand

WORKSPACE = 8_519_680
"""Bytes that cuBLAS takes, where no device says otherwise: 8.125 MiB on Ampere and Ada."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What the moments are made of, in bytes of one device."""

    question: Question
    standing: Standing
    w: Widths
    vocabulary: int
    tied: bool
    depth: int
    tokens: int
    layer: int
    """What one layer leaves of all tokens."""
    layers: int
    """What is left of all layers when the loss is reached."""
    passing: int
    """What comes and goes while one layer goes backward."""
    matrices: int
    """Gradients of the first layer, which its own backward pass still has to make."""
    cast_layers: int
    """16-bit copies that autocast makes of the fp32 weights of all layers."""
    cast_head: int
    """And of the head."""
    norm: int
    """What the norms of DoRA take on top of what the layers left; 0 for any other method."""
    norm_comes_last: bool
    """Whether the widest of them is computed once the rest of its layer is there."""


def training_peak(facts: Facts, question: Question, device: Device | None = None) -> Estimate:
    """What one device holds at the fullest moment of a training step, by part.

    Exact to about a percent for the Llama family; elsewhere rough, and it says so. Raises Unsupported where the sizes
    of the layers are not known.
    """
    if facts.covers == "encoder-decoder":
        raise Unsupported(
            f"What training a {facts.model_type} takes is not known: it has an encoder beside its decoder.",
            "Its weights and cache are known; choose generate, or a decoder.",
        )
    if not (facts.hidden and facts.heads and facts.intermediate and facts.depth):
        raise Unsupported(
            f"The sizes of a {facts.model_type} are not known well enough to say what training takes.",
            "Its weights are known; choose generate, or a decoder.",
        )
    standing = stand(facts, question, device)
    step = _step(facts, question, standing)
    workspace = device.workspace if device else WORKSPACE
    moments = [(name, {**parts, "workspace": workspace}) for name, parts in _moments(step)]
    if question.devices > 1:
        moments = shared(moments, facts, question, standing)
    moments.sort(key=lambda moment: -sum(moment[1].values()))
    fullest = moments[0][1]
    return Estimate(
        question,
        "closed form",
        tuple(Part(name, fullest[name]) for name in PARTS if fullest.get(name)),
        tuple(Moment(name, sum(parts.values())) for name, parts in moments),
        facts.parameters,
        standing.trainable,
        (*facts.notes, *standing.notes, *_notes(facts, question)),
    )


def _step(facts: Facts, question: Question, standing: Standing) -> _Step:
    w, tokens = widths(facts, question), question.tokens
    copies = kept_weights(facts, question, w)
    layer = tokens * saved(facts, question, w) + _mask(question, w) + copies
    inputs = tokens * (w.stream * w.hidden + (0 if question.software.reentrant else kept_inputs(question, w)))
    casts = question.autocast != "none" and w.weights == 4
    layers = 2 * sum(t.parameters for t in facts.tensors if t.quantizes)
    return _Step(
        question,
        standing,
        w,
        facts.vocabulary,
        facts.tied,
        facts.depth,
        tokens,
        layer,
        (inputs if question.checkpointing else layer) * facts.depth,
        tokens * passing(facts, question, w),
        sum(t.numbers for t in facts.tensors if t.quantizes) // facts.depth * w.weights,
        layers if casts else 0,
        2 * facts.vocabulary * facts.hidden if casts else 0,
        norm_bytes(facts, question, w) + tokens * held_at_norm(facts, question, w) if question.method == "dora" else 0,
        comes_last(facts, question) if question.method == "dora" else False,
    )


def _mask(question: Question, w: Widths) -> int:
    """What a padded batch adds to a layer: its mask, and keys and values repeated for every head."""
    if question.packing or question.attention == "flash_attention_2" or question.batch == 1:
        return 0
    return question.tokens * w.computes * 2 * (w.query - w.keys)


def _moments(step: _Step) -> Iterator[tuple[str, dict[str, int]]]:
    """Every moment that can be the fullest, with what it holds."""
    there = step.standing
    full = step.question.method == "full"
    always = {"weights": there.weights, "adapters": there.adapters, "optimizer": there.optimizer}
    before = there.gradients if step.question.accumulation > 1 else 0
    embedding = step.w.weights * step.vocabulary * step.w.hidden
    inward = step.w.weights * step.w.hidden * step.w.intermediate  # the first gradient of a layer
    loss = held_at_loss(step.question, step.w, step.vocabulary, trains=full)
    checkpointing = step.question.checkpointing
    kept = {**always, "gradients": before, "activations": step.layers}
    casts = step.cast_head + (0 if checkpointing else step.cast_layers)
    yield "loss", {**kept, "logits and loss": loss, "temporaries": casts}
    if full and checkpointing and step.cast_layers:
        # Until the forward pass is over, autocast keeps the copy of every weight that is trained.
        shorter = loss - 2 * step.tokens * step.vocabulary
        yield "loss forward", {**kept, "logits and loss": shorter, "temporaries": step.cast_head + step.cast_layers}
    parts = step.depth if checkpointing else 1
    yield (
        "backward",
        {
            **always,
            "gradients": before + (embedding + inward if full and not before else 0),
            "activations": step.layers + (step.layer if checkpointing else 0),
            "temporaries": step.passing + step.cast_layers // parts,
        },
    )
    if step.norm:
        # In the forward pass of the last layer, or where it is carried out again; by then the others have gradients.
        there_already = (step.layer if checkpointing else 0) - (0 if step.norm_comes_last else step.layer)
        yield (
            "norms of DoRA",
            {
                **always,
                "gradients": there.gradients if checkpointing else before,
                "activations": step.layers + there_already,
                "temporaries": step.norm + (step.cast_layers // parts),
            },
        )
    step_takes = step_bytes(step.question.optimizer, there.trained, foreach=step.question.software.foreach)
    yield "optimizer step", {**always, "gradients": there.gradients, "temporaries": step_takes}
    if not full:
        return
    missing = 0 if before else step.matrices - inward + (0 if step.tied else embedding)
    yield (
        "first layer backward",
        {
            **always,
            "gradients": there.gradients - missing,
            "activations": step.layer,
            "temporaries": step.passing,
        },
    )
    second = embedding * (2 if step.tied else 1 if before else 0)
    flowing = step.tokens * step.w.stream * step.w.hidden
    yield "embedding backward", {**always, "gradients": there.gradients, "temporaries": second + flowing}


def _notes(facts: Facts, question: Question) -> Iterator[Note]:
    rough = _outside(facts, question)
    if rough:
        yield Note("outside-family", "warning", f"The formula was not made for {rough}; a dry run answers exactly.")
    if facts.context and question.context > facts.context:
        yield Note(
            "beyond-context",
            "note",
            f"The model was made for {facts.context:,} tokens and may read {question.context:,} badly.",
        )
    if question.precision.value == "int8" and question.checkpointing and not question.software.reentrant:
        yield Note(
            "int8-keeps-inputs",
            "warning",
            "bitsandbytes keeps the inputs of int8 layers where checkpointing does not reach them; nf4 does not.",
        )
    if question.devices > 1:
        yield Note("devices-assumed", "note", "What several devices hold is by the documentation; it was not measured.")
    if question.attention == "flash_attention_2" or question.loss == "liger":
        yield Note("kernel-unseen", "note", "The memory that this kernel takes for itself is assumed, not measured.")


def _outside(facts: Facts, question: Question) -> str:
    """What the formula was not made for; empty where it was."""
    if facts.covers != "decoder":
        return f"a model that is {facts.covers}"
    if facts.experts:
        return "experts"
    if strange := sorted({layer.kind for layer in facts.layers} - {"full", "sliding"}):
        return f"{strange[0]} layers"
    if facts.model_type not in FAMILY:
        return f"the architecture {facts.model_type}"
    if question.method not in ("full", "lora", "dora"):
        return f"the method {question.method}"
    return "eager attention" if question.attention == "eager" else ""
