"""What one of several devices holds: copies under DDP, shards under FSDP, parts of each matrix under tensor.

By the documentation of PyTorch; no run on several devices was measured here, and the note says so.
"""

from __future__ import annotations

from studio.memory.architecture import Facts
from studio.memory.request import Question
from studio.memory.standing import Standing

_SHARDED = ("weights", "adapters", "gradients", "optimizer")


def shared(
    moments: list[tuple[str, dict[str, int]]], facts: Facts, question: Question, standing: Standing
) -> list[tuple[str, dict[str, int]]]:
    """The moments of one device among `question.devices`."""
    return [(name, _share(parts, facts, question, standing)) for name, parts in moments]


def _share(parts: dict[str, int], facts: Facts, question: Question, standing: Standing) -> dict[str, int]:
    count = question.devices
    match question.strategy:
        case "ddp":
            # Buckets in which gradients travel, as large as they are (gradient_as_bucket_view is off by default).
            return {**parts, "temporaries": parts.get("temporaries", 0) + standing.gradients}
        case "fsdp":
            whole = 2 * standing.weights // max(1, facts.depth)  # the layer at work, and the next one on its way
            cut = {name: size // count if name in _SHARDED else size for name, size in parts.items()}
            return {**cut, "temporaries": cut.get("temporaries", 0) + whole}
        case "tensor":
            split = (*_SHARDED, "activations", "cache", "logits and loss")
            return {name: size // count if name in split else size for name, size in parts.items()}
    return parts
