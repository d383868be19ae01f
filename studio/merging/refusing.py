"""What cannot be merged, and what cannot be merged past the memory, each with its reason."""

from __future__ import annotations

from studio.adapters import Adapter, BaseWeights, Fit, Layout
from studio.errors import InputError, Unsupported
from studio.merging.plan import ORIGINAL, MergePlan

_STREAMED_STARTS = ("default", "gaussian", "eva", "orthogonal")
_MOVED_STARTS = ("pissa", "olora", "mica")
"""Beginnings that PEFT takes out of the base again, each time in the same way."""
_NEVER = {
    **dict.fromkeys(("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "CPT"), "it is a prompt, and no weight"),
    **dict.fromkeys(("PREFIX_TUNING", "CARTRIDGE"), "it lies in the cache of the model, and is no weight"),
    "ADAPTION_PROMPT": "it is a prompt in every layer, and no weight",
    **dict.fromkeys(("XLORA", "POLY"), "it mixes several adapters anew for every text"),
    "SHADOW": "it is a model of its own beside the base",
    "BOFT": "PEFT does not say what it would do before all weights are there",
    "VBLORA": "its parts are taken from one store of vectors, which PEFT does not read back under its own names",
}
_NEVER_WITH = {
    "alora_invocation_tokens": "it works only behind certain tokens, and merged it would always work",
    "arrow_config": "it mixes several adapters anew for every text",
    "layer_replication": "it has more layers than its base",
}
_ON_TOP = "Use it on top of its base, or train a LoRA adapter."


def check_adapter(adapter: Adapter) -> None:
    """Raise Unsupported for an adapter that is no change of weights."""
    why = _NEVER.get(adapter.type) or next((_NEVER_WITH[name] for name in adapter.features if name in _NEVER_WITH), "")
    if why:
        raise Unsupported(f"This adapter ({adapter.type}) cannot be merged: {why}.", _ON_TOP)
    if adapter.start not in (*_STREAMED_STARTS, *_MOVED_STARTS):
        raise Unsupported(
            f"This adapter began as {adapter.start} and was saved without being converted: it goes on a base that is"
            " not the one it names.",
            "Save it with path_initial_model_for_weight_conversion, as PEFT documents.",
        )


def check_fit(fit: Fit) -> None:
    """Raise InputError, with the first name, where an adapter and a base do not belong together."""
    if fit.foreign:
        raise InputError(
            f"This is an adapter for another base: {fit.foreign}.", "Choose the base model that it was trained on."
        )
    if fit.mismatched:
        raise InputError(
            f"The adapter does not fit this base: {fit.mismatched[0]}{_more(fit.mismatched)}.",
            "Choose the base model that it was trained on.",
        )
    if fit.unexpected:
        raise InputError(
            f"The adapter has what this base has no place for, or its own config does not ask for:"
            f" {fit.unexpected[0]}{_more(fit.unexpected)}.",
            "Choose the base model that it was trained on, or save the adapter again.",
        )
    if fit.missing:
        raise InputError(
            f"The adapter is not whole: its config asks for {fit.missing[0]}{_more(fit.missing)}.",
            "Choose another adapter, or save this one again.",
        )


def reason_for_memory(adapter: Adapter, fit: Fit, layout: Layout) -> str:
    """Why an adapter has to be merged in memory; empty where it can be streamed."""
    if adapter.type != "LORA":
        return f"what {adapter.type} adds, PEFT alone knows"
    if fit.older:
        return "its names are from before transformers 5, and PEFT converts them"
    if adapter.features:
        return f"with {adapter.features[0]} an update is more than a product"
    if adapter.start in _MOVED_STARTS:
        return f"{adapter.start} takes what it began with out of the base"
    if len(fit.matches) < len(adapter.modules):
        return "some of its modules are of a kind that only PEFT knows"
    for match in fit.matches:
        if match.parameter in layout.puzzles or (len(match.shape) == 3 and match.experts == 1):
            return f"transformers puts {match.parameter} together in its own way"
    for each in fit.replaced:
        held = each.parameter in layout.tied or len(layout.pieces.get(each.parameter, ())) == 1
        if each.parameter not in layout.parameters or not (held or each.parameter in layout.tied.values()):
            return f"transformers puts {each.parameter} together in its own way"
    return ""


def check_in_memory(plan: MergePlan, adapter: Adapter, weights: BaseWeights) -> None:
    """Raise Unsupported for a base that an adapter is not merged into in memory."""
    if weights.method or plan.onto != ORIGINAL:
        raise Unsupported(
            f"This adapter ({adapter.type}) cannot be merged onto a base that is or was quantized.",
            "Choose the original base.",
        )


def _more(names: tuple[str, ...]) -> str:
    return f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
