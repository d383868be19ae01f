"""A plan and a folder into a model in memory. Never the network: whoever calls brings the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio import four_bit, gguf, memory
from studio.checkpoint import read_header, read_json
from studio.errors import Damaged, Unsupported
from studio.events import Phase, Progress
from studio.heartbeat import heartbeat
from studio.loading.outlook import Outlook, opened, outlook, read_config, unbuildable
from studio.loading.placing import device_map
from studio.loading.plan import AUTO, LoadPlan
from studio.loading.skeleton import build_skeleton, left_alone, quantization_config, weights_dtype
from studio.memory import ModuleWeights
from studio.models import Precision
from studio.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is in memory, told without the model itself: this travels, the model does not."""

    plan: LoadPlan
    parameters: int
    weights: int
    """Bytes of all parameters, buffers and quantization constants, tied ones counted once, measured."""
    estimated: int
    """The same, as it was computed before loading."""
    modules: tuple[ModuleWeights, ...]
    seconds: float
    """From the first byte read to ready, measured."""
    context: int | None
    """Tokens that the model reads at most; None where its config does not say."""
    has_chat_template: bool


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready. It lives in the session and never leaves the process."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    resident: Resident


def load(plan: LoadPlan, folder: Path) -> Generator[Progress, None, LoadedModel]:
    """Bring the model in `folder` into memory; return it. Closing the generator gives up and lets go of everything.

    Raises Unsupported, Damaged or DoesNotFit, before anything is read where the files show it.
    """
    started = time.monotonic()
    ahead = outlook(plan, folder)
    if ahead.misfit:
        raise ahead.misfit
    plan = ahead.plan
    _check_files(folder, packed=plan.precision is Precision.STORED)
    phase = Phase.QUANTIZE if plan.precision and plan.precision.quantizes else Phase.READ
    yield Progress(phase)

    def read(say: Callable[[Progress], None], stop: Event) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        config = read_config(folder)
        tokenizer = load_tokenizer(_tokenizer_place(folder, plan.adapter))
        with _weights_counted(phase, say, stop), four_bit.in_pieces():
            model = _read_model(folder, config, ahead)
        _check_numbers(model, say, stop)
        four_bit.guard(model)
        return with_adapter(model, plan.adapter) if plan.adapter else model, tokenizer

    model, tokenizer = yield from heartbeat(read, lambda said: said[-1:], every=0.1)
    return LoadedModel(model, tokenizer, _describe(ahead, model, tokenizer, time.monotonic() - started))


def _check_files(folder: Path, *, packed: bool) -> None:
    """Raise Damaged where the index and the files disagree, or where a weight is an integer and nothing is `packed`."""
    names: dict[str, set[str]] = {}
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        names = {"model.safetensors": set()}
    elif index.is_file():
        weight_map = read_json(index)["weight_map"]
        names = {file: {name for name, its in weight_map.items() if its == file} for file in set(weight_map.values())}
    for file, promised in sorted(names.items()):
        header = read_header(folder / file)
        if absent := sorted(promised - header.keys()):
            # What lies on the disk would be looked for at the first word, and not be found.
            raise Damaged(
                f"The index says that {absent[0]} is in {file}, and it is not.",
                "Download the model again; whole files are kept.",
            )
        for name in header.keys() - {"__metadata__"} if not packed else ():
            if name.endswith(".weight") and not header[name]["dtype"].startswith(("F", "BF")):
                # transformers would take the bits of an integer for a weight.
                raise Damaged(
                    f"{file} holds {name} as {header[name]['dtype']}, and the config says of no quantization.",
                    "Download the model again, or choose another one.",
                )


def _read_model(folder: Path, config: Any, ahead: Outlook) -> PreTrainedModel:
    """The weights on their devices, complete and in evaluation mode."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    plan = ahead.plan
    assert plan.precision is not None
    place, options = opened(folder)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype="auto" if plan.precision is Precision.STORED else weights_dtype(plan.precision),
            device_map=_devices(ahead),
            quantization_config=_quantization_of(folder, config, plan),
            attn_implementation=None if plan.attention == AUTO else plan.attention,
            use_safetensors=not options,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (SafetensorError, FileNotFoundError) as error:
        raise Damaged(f"The weights cannot be read: {error}.", "Download the model again.") from error
    except ImportError as error:
        raise Unsupported(f"This model needs more than is installed: {error}", "Install what it names.") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        if "offload_folder" in str(error):
            raise Unsupported(
                "This architecture's weights are put together while they are read, so none can stay on the disk.",
                "Choose a lower precision or a smaller model, or close other programs and turn the disk off.",
            ) from error
        raise unbuildable(error) from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise Damaged("The weights have other shapes than the config says.", "Download the model again.") from error
    if missing := sorted(info["missing_keys"]):
        # transformers fills what is missing with random numbers and goes on; the model would talk nonsense.
        raise Damaged(
            f"{len(missing)} weights that the config asks for are not in the files, the first is {missing[0]}.",
            "The config belongs to another model, or the files are not complete. Download the model again.",
        )
    _check_origin(model, info["unexpected_keys"])
    return model.eval()


def _check_origin(model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Raise Damaged where the weights were not made by this architecture, or are not quantized as the config says."""
    modules = dict(model.named_modules())
    for key in sorted(unexpected):
        owner, _, own = key.rpartition(".")
        # A bias for a layer without one is a sign; what belongs to no module may be a head of another task.
        if own == "bias" and "weight" in getattr(modules.get(owner), "_parameters", ()):
            raise Damaged(
                f"The files hold {key}, which the model of this config has no place for.",
                "The config belongs to another architecture. Download the model again.",
            )
    for name, module in modules.items():
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt") and not list(
            memory.constants(module._parameters["weight"])
        ):
            raise Damaged(
                f"The config says that the weights are quantized, and {name} is not.",
                "The config belongs to other files. Download the model again.",
            )


def _devices(ahead: Outlook) -> dict[str, str] | None:
    """The device map; None for the plain case of everything on the CPU, which needs no hooks."""
    where = device_map(ahead.blocks)
    quantized = ahead.plan.precision in (Precision.INT8, Precision.NF4, Precision.FP4, Precision.STORED)
    return None if where == {"": "cpu"} and not quantized else where


def _quantization_of(folder: Path, config: Any, plan: LoadPlan) -> Any:
    """What from_pretrained is told of quantization. Its own list of modules to keep is completed, not replaced."""
    if packed := gguf.found(folder):
        return gguf.weight_options(packed).get("quantization_config")
    if plan.precision is None or not plan.precision.quantizes:
        return None
    model = build_skeleton(config, replace(plan, precision=Precision.BF16)).model
    return quantization_config(plan, left_alone(model, plan.quantization.kept))


def _check_numbers(model: PreTrainedModel, say: Callable[[Progress], None], stop: Event) -> None:
    """Raise Damaged where a weight is not a number: everything that the model says would be noise."""
    modules = list(model.named_modules())
    for done, (name, module) in enumerate(modules):
        for own, tensor in module._parameters.items():
            if stop.is_set():
                raise _GaveUp
            say(Progress(Phase.CHECK, done, len(modules)))
            if not all(map(four_bit.are_numbers, _numbers(module, own, tensor))):
                raise Damaged(
                    f"{name}.{own} holds values that are not numbers.",
                    "Its training broke, or the file did. Choose another revision or another model.",
                )


def _numbers(module: Any, own: str, tensor: Any) -> list[Any]:
    """What tells whether a parameter is sound: itself, or the constants that NaN ends up in where it was quantized."""
    if tensor is None:
        return []
    if tensor.is_meta:
        held = memory.offloaded(module)
        found = [] if held is None else [held[own]]
    else:
        found = list(memory.constants(tensor)) or [tensor]  # packed weights may be called bf16, and are none
    return [part.detach() for part in found if part.is_floating_point() and part.numel()]


def with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Put an adapter on a model, frozen. Raises Unsupported where it is not made for this one, weight by weight."""
    from peft import PeftModel, get_peft_model_state_dict

    if not (adapter / "adapter_model.safetensors").is_file():
        raise Unsupported(
            f"There is no adapter_model.safetensors in {adapter.name}.",
            "Choose the folder that training wrote; pickles are refused.",
        )
    saved = read_header(adapter / "adapter_model.safetensors").keys() - {"__metadata__"}
    make_room_for_tokens(model, adapter)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), local_files_only=True).eval()
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise Unsupported(
            f"The adapter does not fit this model: {str(error).splitlines()[0]}",
            "Choose the base model it was trained on.",
        ) from error
    # peft leaves out what the model has no place for, begins the rest anew, and goes on with a warning.
    # Said outright: left to itself it asks the Hub whether the vocabulary of the base has another size.
    held = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    if strangers := sorted((held - saved) | (saved - held - adapted.state_dict().keys())):
        raise Unsupported(
            f"The adapter does not fit this model: {len(strangers)} weights are in one of them only,"
            f" the first is {strangers[0]}.",
            "Choose the base model it was trained on.",
        )
    return adapted


def _tokenizer_place(folder: Path, adapter: Path | None) -> Path:
    """Where the tokenizer is: with an adapter that has new tokens, beside it."""
    return adapter if adapter and (adapter / "tokenizer.json").is_file() else folder


def make_room_for_tokens(model: PreTrainedModel, adapter: Path) -> None:
    """Give the tokens that an adapter brings rows of their own, which it fills."""
    config = adapter / "adapter_config.json"
    told = read_json(config).get("trainable_token_indices") if config.is_file() else None
    lists = list(told.values()) if isinstance(told, dict) else [told] if told else []
    highest = max((number for each in lists for number in each if isinstance(number, int)), default=0)
    if model.get_input_embeddings().weight.shape[0] <= highest < _MOST_TOKENS:
        model.resize_token_embeddings(highest + 1, mean_resizing=False)


_MOST_TOKENS = 1 << 20
"""No vocabulary is larger; a number beyond comes from a file that is damaged, and would take all of the memory."""


class _GaveUp(Exception):
    """Raised inside the thread that reads, to end it."""


@contextmanager
def _weights_counted(phase: Phase, say: Callable[[Progress], None], stop: Event) -> Iterator[None]:
    """Hear from transformers how many tensors it has read, and stop it between two of them."""
    from transformers.utils import logging

    def counted(_factory: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
        items = list(arguments[0] if arguments else options["iterable"])
        for done, item in enumerate(items):
            if stop.is_set():
                raise _GaveUp
            say(Progress(phase, done, len(items)))
            yield item

    before = logging.set_tqdm_hook(counted)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _describe(ahead: Outlook, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seconds: float) -> Resident:
    modules = tuple(memory.measured(model, {module.name: module.note for module in ahead.modules if module.note}))
    return Resident(
        plan=ahead.plan,
        parameters=sum(module.parameters for module in modules),
        weights=memory.total(modules),
        estimated=ahead.weights,
        modules=modules,
        seconds=seconds,
        context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        has_chat_template=bool(tokenizer.chat_template),
    )
