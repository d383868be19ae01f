"""Rules on merging an adapter into its base, and on using several adapters at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from studio.adapters import Adapter
from studio.advice.conversations import template_mismatch
from studio.advice.rule import Advice, size
from studio.merging.outlook import MergeOutlook
from studio.merging.plan import ORIGINAL, QUANTIZED
from studio.models import Precision

_MEASURED = "measured with a model of 5 million weights on a CPU, bitsandbytes 0.50 and peft 0.21"
_FOUR_BIT = (Precision.NF4, Precision.FP4)


def on_merge(ahead: MergeOutlook) -> list[Advice]:
    """What to know about a merge before it begins."""
    rules = (_quantized_merge, _safe_merge, _dora_overhead, _tied_embeddings)
    return [*(advice for rule in rules for advice in rule(ahead)), *template_mismatch(ahead.ways)]


def on_batch(adapters: Sequence[Adapter]) -> list[Advice]:
    """What to know about answering with several adapters in one batch."""
    dora = [adapter for adapter in adapters if adapter.dora]
    if len(adapters) < 2 or not dora:
        return []
    return [
        Advice(
            "dora-mixed-batch",
            "warning",
            f"{len(dora)} of these {len(adapters)} adapters learnt with DoRA, and rows of one batch cannot each have"
            " another one of that kind. Compare them one after another.",
            "peft 0.21 raises ValueError for adapter_names with DoRA",
        )
    ]


def _quantized_merge(ahead: MergeOutlook) -> Iterator[Advice]:
    learnt = ahead.learnt_on or (Precision.NF4 if ahead.stored_as else None)
    if ahead.plan.onto == QUANTIZED and learnt is Precision.INT8:
        why = "Quantized to int8 again, the merged model is 0.0001 in KL from what was trained."
        yield Advice("quantized-merge", "note", why, _MEASURED)
    elif ahead.plan.onto == QUANTIZED:
        yield Advice(
            "quantized-merge",
            "warning",
            "Quantized to 4 bit again, the merged model keeps about half of what the adapter learnt: its updates come"
            " out 97 % off, and replies 0.0058 in KL from what was trained. The original base in 16 bit is 0.0012 from"
            " it, the dequantized one 0.00005.",
            _MEASURED,
        )
    elif ahead.plan.onto == ORIGINAL and ahead.stored_as:
        yield Advice(
            "quantized-merge",
            "note",
            "The base is there quantized alone. The adapter goes into what its weights stand for in 16 bit: if it"
            " learnt on this base, into the very weights that it learnt on.",
            _MEASURED,
        )
    elif ahead.plan.onto == ORIGINAL and learnt and learnt.quantizes:
        apart = "0.0012" if learnt in _FOUR_BIT else "0.0001"
        yield Advice(
            "quantized-merge",
            "note",
            f"The adapter learnt on a base in {learnt}, and the original one is {apart} in KL from that. The"
            " dequantized base is what it learnt on: 0.00005, which is one rounding to bf16. Both are good.",
            _MEASURED,
        )


def _safe_merge(ahead: MergeOutlook) -> Iterator[Advice]:
    whole = len(ahead.adapter.whole) + len(ahead.adapter.tokens)
    also = f", the {whole:,} that it brings whole among them" if whole else ""
    yield Advice(
        "safe-merge",
        "note",
        f"All {ahead.adapter.tensors:,} tensors of the adapter{also} are searched for values that are not numbers, and"
        " so is every sum. Where one is, it is named, and nothing is written.",
        "peft 0.21 with safe_merge looks at sums alone, and leaves a model half merged: measured",
    )


def _dora_overhead(ahead: MergeOutlook) -> Iterator[Advice]:
    if ahead.adapter.dora:
        yield Advice(
            "dora-overhead",
            "note",
            "Unmerged, every word takes about 27 % longer with DoRA than with LoRA. Merged, it takes what the base"
            " takes.",
            "measured with the starter on a CPU, rank 16, 8 × 128 tokens, peft 0.21; Liu et al. 2024",
        )


def _tied_embeddings(ahead: MergeOutlook) -> Iterator[Advice]:
    if ahead.untied:
        both, named = _short(ahead.tied), _short(ahead.changed)
        yield Advice(
            "tied-embeddings",
            "warning",
            f"{both} are one weight in the base, and the adapter changes {named}. The merged model has two, which its"
            f" config says, and takes {size(ahead.table_bytes)} more.",
            "measured with peft 0.21, which writes one over the other: off by 3.5 and 83 times the size",
        )


def _short(names: Sequence[str]) -> str:
    return " and ".join(name.removesuffix(".weight").rpartition(".")[2] for name in names)
