"""Rules on fine-tuning: what is wished, held against the model, the data and the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from studio.advice.rule import Advice, size
from studio.compute import Machine
from studio.models import Precision
from studio.training import ALL_LINEAR, Amount, Proof, Targets, TrainingSettings

_LIGER = (
    *("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "qwen3_moe", "phi3"),
    *("granite", "olmo2", "glm4", "smollm3", "gpt_oss"),
)
"""Architectures that Liger has kernels for: its README, table of models."""
_FEW_STEPS = 20


@dataclass(frozen=True, slots=True)
class Wish:
    """A fine-tuning as it is about to be begun; what is not known yet is None."""

    settings: TrainingSettings
    targets: Targets
    precision: Precision
    machine: Machine
    amount: Amount | None = None
    proof: Proof | None = None


def on_training(wish: Wish) -> list[Advice]:
    """What to know about a fine-tuning before it begins."""
    rules = (_tied_embeddings, _target_modules, _lora_rank, _dora_overhead, _four_bit_backprop)
    more = (_mixed_precision, _batch_size, _gradient_checkpointing, _liger_kernel)
    return [advice for rule in (*rules, *more) for advice in rule(wish)]


def on_adapter(peft_type: str) -> list[Advice]:
    """What to know about an adapter by the type that its config says."""
    if peft_type.upper() != "BONE":
        return []
    return [
        Advice(
            "bone-deprecated",
            "warning",
            "Adapters of the type Bone are no longer opened; MiSS has taken their place. Converting one to it changes"
            " no number; or train a LoRA adapter anew.",
            "release notes of peft 0.17: deprecated, and removed in 0.19",
        )
    ]


def _adapts(wish: Wish) -> bool:
    return wish.settings.method != "full" and not wish.settings.adapter


def _names(wish: Wish) -> str:
    """The targets that are wished, without those that are refused."""
    settings = wish.settings
    refused = {group.name for group in wish.targets.groups if group.refused}
    return ", ".join(name for name in settings.target_names if name not in refused) or ALL_LINEAR


def _tied_embeddings(wish: Wish) -> Iterator[Advice]:
    tied = {g.name for g in wish.targets.groups if g.kind in ("head", "embedding") and g.refused}
    source = "measured with peft 0.21: the merged model is off by 3.5 and 83 times its size"
    if named := sorted(tied & set(wish.settings.target_names)):
        yield Advice(
            "tied-embeddings",
            "warning",
            f"{' and '.join(named)} cannot have an adapter: {' and '.join(sorted(tied))} are one weight, and merging"
            " would be wrong without a word. Name it among the whole modules, where both are trained as one.",
            source,
        )
    elif named := sorted(tied & set(wish.settings.whole_names)):
        weights = next(group.weights for group in wish.targets.groups if group.name in named)
        yield Advice(
            "tied-embeddings",
            "note",
            f"{' and '.join(sorted(tied))} are one weight and stay so: {weights:,} parameters are trained whole,"
            f" {size(4 * weights)} in the adapter.",
            source,
        )


def _target_modules(wish: Wish) -> Iterator[Advice]:
    if not _adapts(wish) or wish.settings.targets == ALL_LINEAR:
        return
    settings, targets = wish.settings, wish.targets
    dora = settings.method == "dora"
    mine, every = (targets.parameters(names, settings.rank, dora=dora) for names in (_names(wish), ALL_LINEAR))
    if mine < 0.9 * every:
        yield Advice(
            "target-modules",
            "note",
            f"{settings.targets} is {mine:,} parameters ({size(4 * mine)}), all linear modules are {every:,}"
            f" ({size(4 * every)}). All of them are what it takes to learn as much as full fine-tuning does; a few"
            " make the step a fifth faster.",
            "QLoRA, Dettmers et al. 2023, figure 2; read from this model; time measured with the starter",
        )


def _lora_rank(wish: Wish) -> Iterator[Advice]:
    settings, amount = wish.settings, wish.amount
    if not _adapts(wish):
        return
    source = "Kalajdzievski 2023, rsLoRA: with alpha over rank, ranks from 32 up learn no more than 16"
    if settings.rank >= 32 and not settings.rslora:
        yield Advice(
            "lora-rank",
            "note",
            f"Rank {settings.rank} is scaled by {settings.alpha / settings.rank:g} and learns little more than rank 16."
            f" Rank-stabilized, it would be scaled by {settings.alpha / settings.rank**0.5:.3g}.",
            source,
        )
    count = wish.targets.parameters(_names(wish), settings.rank, dora=settings.method == "dora")
    if amount and settings.rank > 16 and count > 20 * amount.tokens:
        yield Advice(
            "lora-rank",
            "warning",
            f"The adapter has {count:,} parameters for {amount.tokens:,} tokens: it will know them by heart. Rank 8 to"
            " 16 is enough to begin with.",
            "Hu et al. 2021, LoRA, table 6: rank 4 to 8 is as good as 64; computed for this model and these rows",
        )


def _dora_overhead(wish: Wish) -> Iterator[Advice]:
    if wish.settings.method == "dora":
        yield Advice(
            "dora-overhead",
            "note",
            "A step takes about 27 % longer than with LoRA, and so does every word while it is not merged: merge it to"
            " generate.",
            "measured with the starter on a CPU, rank 16, 8 × 128 tokens, peft 0.21; Liu et al. 2024",
        )


def _four_bit_backprop(wish: Wish) -> Iterator[Advice]:
    if wish.precision not in (Precision.NF4, Precision.FP4):
        return
    proof = wish.proof
    told = (
        f"Gradients through {len(proof.layers)} layers were held against fp32: off by {proof.error:.2%} at most, and"
        f" the format allows {proof.within:.0%}."
        if proof
        else "Gradients through four-bit weights are held against fp32 before the run, on this machine; where they are"
        " wrong it does not begin."
    )
    yield Advice(
        "four-bit-backprop",
        "note",
        told,
        "measured: plain bitsandbytes 0.50 on a CPU with AVX512-BF16 is 84–92 % wrong after an evaluation",
    )


def _mixed_precision(wish: Wish) -> Iterator[Advice]:
    asked, machine = wish.settings.compute, wish.machine
    if asked in ("fp32", "fp16") and machine.device == "cuda" and machine.has_bf16:
        better = {"fp32": "takes half the room and less time", "fp16": "needs no scaled loss and cannot overflow"}
        yield Advice(
            "mixed-precision",
            "note",
            f"{machine.name} computes in bf16, which {better[asked]}. Choose auto.",
            "NVIDIA, guide to mixed precision; bf16 since Ampere",
        )
    elif asked == "bf16" and not machine.has_bf16:
        yield Advice(
            "mixed-precision",
            "warning",
            f"{machine.name} has no bf16 of its own and computes it by way of fp32, slower than that. Choose auto.",
            "asked of the device",
        )


def _batch_size(wish: Wish) -> Iterator[Advice]:
    settings, amount = wish.settings, wish.amount
    if amount is None:
        return
    step = settings.batch_tokens * settings.accumulation
    steps = int(amount.tokens * settings.epochs / step)
    if steps < _FEW_STEPS:
        yield Advice(
            "batch-size",
            "warning",
            f"{amount.tokens:,} tokens {settings.epochs:g} times over are {steps} steps of {step:,}: too few to learn"
            f" from. {max(1, step * max(steps, 1) // 60):,} tokens a step make about 60.",
            "computed for these rows",
        )
    longest = amount.percentile(100)
    if settings.accumulation > 1 and settings.batch_tokens < longest:
        yield Advice(
            "batch-size",
            "note",
            f"The longest row has {longest:,} tokens, more than a batch of {settings.batch_tokens:,}, and is a batch by"
            " itself.",
            "computed for these rows",
        )


def _gradient_checkpointing(wish: Wish) -> Iterator[Advice]:
    if wish.settings.checkpointing == "on" and wish.targets.weights < 100_000_000 and wish.machine.memory > 4 * 10**9:
        yield Advice(
            "gradient-checkpointing",
            "note",
            f"A model of {wish.targets.weights / 1e6:.1f} million weights leaves room enough; without checkpointing a"
            " step takes 0.78 of the time.",
            "measured: 1.28 times as long with it, the same loss to the bit",
        )


def _liger_kernel(wish: Wish) -> Iterator[Advice]:
    known, cuda = wish.targets.model_type in _LIGER, wish.machine.device == "cuda"
    source = "Hsu et al. 2024, Liger Kernel: 20 % more tokens a second and 60 % less memory, on A100"
    if wish.settings.liger and not (known and cuda):
        lacks = (
            f"has no kernels for {wish.targets.model_type}" if cuda else f"needs CUDA, and this is {wish.machine.name}"
        )
        yield Advice("liger-kernel", "warning", f"Liger {lacks}. Turn it off.", source)
    elif known and cuda and not wish.settings.liger:
        yield Advice(
            "liger-kernel",
            "note",
            "Liger kernels make training about 20 % faster and take up to 60 % less memory: install liger-kernel and"
            " turn them on.",
            source,
        )
