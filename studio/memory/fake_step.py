"""The real training step, and the real reading of a prompt, told to a tracker phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from studio.errors import Unsupported
from studio.memory import head
from studio.memory.cuda_like import Autocast
from studio.memory.step import Step
from studio.memory.tracker import Tracker

if TYPE_CHECKING:
    import torch

STEPS = 2
"""The states of the optimizer are made in the first step, and are there for the whole of the second."""


def phases(step: Step) -> int:
    """How many phases will begin."""
    return STEPS * (5 if step.accumulates else 3) if step.train else 2


def train(model: Any, tracker: Tracker, step: Step, began: Callable[[str], None]) -> None:
    """Train for two steps, as the trainer does; `began` hears which phase begins."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hold_model(model, tracker, step)
    optimizer = _optimizer(step.optimizer, trainable)
    if step.optimizer.endswith("8-bit"):
        _keep_embeddings_wide(model)
    inputs = _inputs(step)
    tracker.hold(inputs.values(), "temporaries")
    outputs, cast = None, _autocast(step)
    head.install(model, tracker, step, cast)
    with _layers_told(model, tracker, cast):
        for number in range(1, STEPS + 1):
            for _ in range(2 if step.accumulates else 1):
                began("forward")
                tracker.phase(number, "forward")
                outputs = _forward(model, inputs, step, cast)
                loss = outputs.loss
                if loss is None:
                    raise Unsupported("This model computes no loss.", "Only models that write text are rehearsed.")
                if step.loss != "kept":
                    outputs = None
                began("backward")
                tracker.phase(number, "backward")
                loss.backward()
                del loss
                tracker.hold([p.grad for p in trainable if p.grad is not None], "gradients")
            began("optimizer step")
            tracker.phase(number, "optimizer step")
            optimizer.step()
            tracker.hold(_states(optimizer), "optimizer")
            optimizer.zero_grad(set_to_none=True)
    tracker.done()


def generate(model: Any, tracker: Tracker, step: Step, began: Callable[[str], None]) -> None:
    """Read a prompt and keep its keys and values, then write one more token."""
    import torch

    model.eval()
    model.config.use_cache = True
    hold_model(model, tracker, step)
    inputs = {name: value for name, value in _inputs(step).items() if name != "labels"}
    kept = {"logits_to_keep": 1} if _knows(model, "logits_to_keep") else {}
    with _layers_told(model, tracker):
        began("prefill")
        tracker.phase(1, "prefill")
        with torch.no_grad():
            outputs = model(**inputs, use_cache=True, **kept)
        cache = outputs.past_key_values
        tracker.hold(_tensors(cache), "cache")
        del outputs
        began("decode")
        tracker.phase(1, "decode")
        inputs["input_ids"] = inputs["input_ids"][:, :1]
        if "attention_mask" in inputs:
            inputs["attention_mask"] = torch.ones(step.batch, step.tokens + 1, dtype=torch.long)
        with torch.no_grad():
            outputs = model(**inputs, past_key_values=cache, use_cache=True, **kept)
        tracker.hold(_tensors(outputs.past_key_values), "cache")
    tracker.done()


def hold_model(model: Any, tracker: Tracker, step: Step) -> None:
    """Tell the tracker what the model is made of, and take what cuBLAS takes."""
    from studio.memory.weights import constants

    adapters: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []
    for parameter in model.parameters():
        (adapters if step.adapter is not None and parameter.requires_grad else weights).append(parameter)
        weights.extend(constants(parameter))
    tracker.hold([*weights, *model.buffers()], "weights")
    tracker.hold(adapters, "adapters")
    if step.workspace:
        tracker.reserve(step.workspace, "workspace")


def _forward(model: Any, inputs: dict[str, torch.Tensor], step: Step, cast: Autocast | None) -> Any:
    if cast is None:
        return model(**inputs, use_cache=False)
    with cast.on():
        outputs = model(**inputs, use_cache=False)
    if step.loss not in ("chunked", "liger") and outputs.logits is not None:
        # accelerate/utils/operations.py, convert_outputs_to_fp32
        outputs.logits = outputs.logits.float()
    return outputs


def _autocast(step: Step) -> Autocast | None:
    import torch

    if step.autocast == "none":
        return None
    return Autocast(torch.bfloat16 if step.autocast == "bf16" else torch.float16)


def _inputs(step: Step) -> dict[str, torch.Tensor]:
    import torch

    ids = torch.zeros(step.batch, step.tokens, dtype=torch.long)
    inputs = {"input_ids": ids, "labels": ids.clone()}
    if step.padded:
        mask = torch.ones_like(ids)
        mask[:, -1] = 0
        inputs["attention_mask"] = mask
    return inputs


def _optimizer(name: str, trainable: list[torch.nn.Parameter]) -> Any:
    """The optimizer by its name in the question. Which of PyTorch's variants it is decides its peak, so it is said."""
    import torch

    match name:
        case "adamw fused":
            return torch.optim.AdamW(trainable, lr=1e-5, fused=True)
        case "adamw foreach":
            return torch.optim.AdamW(trainable, lr=1e-5, foreach=True)
        case "sgd":
            return torch.optim.SGD(trainable, lr=1e-5, foreach=True)
        case "adafactor":
            from transformers.optimization import Adafactor

            return Adafactor(trainable, lr=1e-5, scale_parameter=False, relative_step=False)
        case _:
            from bitsandbytes import optim

            kind = {
                "adamw 8-bit": optim.AdamW8bit,
                "paged adamw": optim.PagedAdamW32bit,
                "paged adamw 8-bit": optim.PagedAdamW8bit,
            }[name]
            return kind(trainable, lr=1e-5)


def _keep_embeddings_wide(model: Any) -> None:
    """Embeddings get 32-bit states of an 8-bit optimizer, as the Trainer asks for (Trainer.create_optimizer)."""
    import torch
    from bitsandbytes.optim import GlobalOptimManager

    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            GlobalOptimManager.get_instance().register_module_override(module, "weight", {"optim_bits": 32})


def _states(optimizer: Any) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in _tensors(state)]


def _tensors(value: Any) -> list[torch.Tensor]:
    """All tensors within what may be a cache, its layers, lists or dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in _tensors(part)]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    return (
        _tensors(vars(value))
        if type(value).__module__.startswith("transformers.") and hasattr(value, "__dict__")
        else []
    )


def _knows(model: Any, name: str) -> bool:
    import inspect

    return name in inspect.signature(model.forward).parameters


@contextmanager
def _layers_told(model: Any, tracker: Tracker, cast: Autocast | None = None) -> Iterator[None]:
    """Within it, the tracker hears which layer computes, and a layer that computes once more does so in `cast`."""
    hooks = []
    for number, layer in enumerate(layers_of(model)):
        hooks.append(layer.register_forward_pre_hook(lambda *_, number=number: tracker.layer(number)))
        hooks.append(layer.register_forward_hook(lambda *_: tracker.layer(None)))
        if checkpoint := getattr(layer, "_gradient_checkpointing_func", None):
            # What is computed again in the backward pass passes no hooks.
            layer._gradient_checkpointing_func = _told_again(checkpoint, number, tracker, cast)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _told_again(checkpoint: Any, number: int, tracker: Tracker, cast: Autocast | None) -> Any:
    def checkpointed(function: Any, *arguments: Any, **options: Any) -> Any:
        def compute(*inputs: Any, **settings: Any) -> Any:
            tracker.layer(number)
            try:
                with cast.on() if cast else nullcontext():
                    return function(*inputs, **settings)
            finally:  # it may be cut short, as soon as nothing more is needed of it
                tracker.layer(None)

        return checkpoint(compute, *arguments, **options)

    return checkpointed


def layers_of(model: Any) -> list[Any]:
    """The layers of the text model, in order; none where they cannot be told."""
    import torch

    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == count]
    return list(found[0]) if found else []
