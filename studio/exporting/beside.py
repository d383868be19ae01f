"""A GGUF file opened by transformers beside the folder that it was made from: the same weights, the same words."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import gguf
from studio.errors import DoesNotFit
from studio.events import Progress
from studio.exporting.greedy import Answer, reply, scores
from studio.exporting.plan import Likeness
from studio.exporting.proving import differs, opened, unpacked
from studio.exporting.shape import Shape
from studio.exporting.texts import conversation
from studio.exporting.vocabulary import normal_forms, own_ids
from studio.loading import LoadedModel, LoadPlan, load
from studio.models import ModelRef, Precision
from studio.tokenizer import encode, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

TOKENS = 32
"""That both models write. A greedy reply that is the same so far is so by no accident."""
LOGIT_ERROR = 1e-4
"""How far scores may be apart where the weights are the same to the last bit: it is one program on one machine."""
_PLAIN = "The train leaves at half past seven, and"

Compared = tuple[Likeness | None, str, tuple[str, ...]]
"""How alike they are; why they were not compared; what transformers reads otherwise than the folder does."""


def compare(
    folder: Path, file: Path, shape: Shape, texts: Sequence[str], *, exact: bool
) -> Generator[Progress, None, Compared]:
    """Load one after the other in fp32 and let both write. Closing the generator gives up.

    Raises Damaged where the loaded weights are not those of the file, or where an `exact` file gives other scores.
    """
    facts = gguf.read_gguf(file)
    if reason := facts.why_not or _other_heads(shape) or "".join(facts.caveats):
        return None, f"{reason[0].upper()}{reason[1:]}.", ()
    try:
        model = yield from load(_plan(folder), folder)
        prompt = _prompt(model.tokenizer)
        answer = yield from reply(model, prompt, TOKENS)
        reference = scores(model, [*prompt, *answer.ids])
        del model
        gc.collect()
        model = yield from load(_plan(file), file)
        _check_loaded(model, file, shape)
        again = yield from reply(model, prompt, TOKENS)
        own = scores(model, [*prompt, *answer.ids])
    except DoesNotFit as error:
        return None, error.message, ()
    likeness = _likeness(answer, again, reference, own, len(prompt))
    if exact and (likeness.same < likeness.tokens or likeness.logit_error > LOGIT_ERROR):
        raise differs(f"transformers gives scores that are {likeness.logit_error:.1%} off")
    return likeness, "", _read_otherwise(folder, model.tokenizer, texts)


def _plan(place: Path) -> LoadPlan:
    return LoadPlan(ModelRef("folder", str(place)), Precision.FP32)


def _other_heads(shape: Shape) -> str:
    """transformers reads no size of heads for this architecture, and takes 128 for it."""
    odd = shape.architecture == "qwen3" and shape.head_dim != 128
    return (
        f"transformers takes heads of a {shape.architecture} to have 128 numbers, and here they have {shape.head_dim}"
        * odd
    )


def _prompt(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if tokenizer.chat_template:
        return encode(tokenizer, conversation(tokenizer), special_tokens=False)
    return encode(tokenizer, _PLAIN, special_tokens=True)


def _check_loaded(loaded: LoadedModel, file: Path, shape: Shape) -> None:
    """Raise Damaged where a weight in memory is another than the file has: rows in another order, above all."""
    import torch

    held: dict[str, Any] = {tensor.name: tensor for tensor in opened(file).tensors}
    weights = loaded.model.state_dict()
    for source, name in shape.names().items():
        values = torch.from_numpy(unpacked(held[name], slice(None)).copy()).reshape(weights[source].shape)
        if shape.interleaved and name.endswith(("attn_q.weight", "attn_k.weight")):
            values = values.reshape(-1, shape.head_dim // 2, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        if not torch.equal(values, weights[source].float().cpu()):
            raise differs(f"transformers opens it with another {source}")


def _likeness(answer: Answer, again: Answer, reference: Tensor, own: Tensor, begin: int) -> Likeness:
    pairs = zip(answer.ids, again.ids, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(answer.ids), len(again.ids)))
    places = slice(begin - 1, -1)
    alike = (reference[places].argmax(-1) == own[places].argmax(-1)).double().mean()
    return Likeness(
        tokens=len(answer.ids),
        same=same,
        agreement=float(alike),
        logit_error=float((own - reference).norm() / reference.norm()),
    )


def _read_otherwise(folder: Path, theirs: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[str, ...]:
    """Whether transformers, which knows fewer ways of splitting than llama.cpp, makes the same tokens of all texts."""
    own = load_tokenizer(folder)
    if theirs.chat_template != own.chat_template:
        raise differs("transformers reads another chat template")
    texts = normal_forms(own, texts)
    pairs = zip(own_ids(own, texts), own_ids(theirs, texts), strict=True)
    if wrong := sum(one != other for one, other in pairs):
        return (f"opened by transformers, the file makes other tokens of {wrong:,} of {len(texts):,} short texts",)
    return ()
