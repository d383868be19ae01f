"""A plan and a folder into a model in memory. Never the network: whoever calls brings the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio import compute
from studio.checkpoint import read_checkpoint, read_header
from studio.errors import Damaged, DoesNotFit, Unsupported
from studio.events import Phase, Progress
from studio.heartbeat import heartbeat
from studio.models import ModelRef, Precision
from studio.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RESERVE = 300_000_000
"""Bytes that must stay free beside the weights: the buffers of a short prompt and what the allocator keeps."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Which model to hold and how. Two equal plans are the same model in memory."""

    model: ModelRef
    precision: Precision = Precision.BF16
    adapter: Path | None = None
    """Folder of a PEFT adapter to put on top."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is in memory, told without the model itself: this travels, the model does not."""

    plan: LoadPlan
    parameters: int
    weights: int
    """Bytes of all parameters and buffers, tied ones counted once, measured."""
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


def best_precision(machine: compute.Machine) -> tuple[Precision, str]:
    """The precision that suits a machine, and the reason."""
    if machine.has_bf16:
        return Precision.BF16, f"this {machine.device.upper()} computes in bf16"
    if machine.device == "cuda":
        return Precision.FP16, "this GPU is older than bf16"
    return Precision.FP32, "this CPU has no bf16 of its own, and fp16 is slow on a CPU"


def load(plan: LoadPlan, folder: Path) -> Generator[Progress, None, LoadedModel]:
    """Bring the model in `folder` into memory; return it. Closing the generator gives up and lets go of everything.

    Raises Unsupported, Damaged or DoesNotFit, before anything is read where the files show it.
    """
    started = time.monotonic()
    check_room(folder, plan.precision)
    yield Progress(Phase.READ)

    def read(say: Callable[[Progress], None], stop: Event) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        config = _read_config(folder)
        tokenizer = load_tokenizer(folder)
        with _weights_counted(say, stop):
            model = _read_model(folder, config, plan.precision)
        return _with_adapter(model, plan.adapter) if plan.adapter else model, tokenizer

    model, tokenizer = yield from heartbeat(read, lambda said: said[-1:] or [Progress(Phase.READ)], every=0.1)
    return LoadedModel(model, tokenizer, _describe(plan, model, tokenizer, time.monotonic() - started))


def check_room(folder: Path, precision: Precision) -> None:
    """Raise DoesNotFit, with what would fit, where the weights need more memory than is free."""
    checkpoint = read_checkpoint(folder)
    needed, free = checkpoint.loaded_bytes(precision.bytes_per_weight), compute.free_memory()
    if needed + RESERVE <= free:
        return
    halved = checkpoint.loaded_bytes(Precision.BF16.bytes_per_weight)
    raise DoesNotFit(
        f"The weights take {needed / 1e9:.2f} GB in {precision}, and {free / 1e9:.2f} GB are free.",
        f"Load it in bf16: {halved / 1e9:.2f} GB."
        if halved + RESERVE <= free
        else "Close other programs or choose a smaller model.",
    )


def _read_model(folder: Path, config: Any, precision: Precision) -> PreTrainedModel:
    """The weights on the device, complete and in evaluation mode."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision],
            device_map=None if compute.machine().device == "cpu" else compute.machine().device,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (SafetensorError, FileNotFoundError) as error:
        raise Damaged(f"The weights cannot be read: {error}.", "Download the model again.") from error
    except ImportError as error:
        raise Unsupported(f"This model needs more than is installed: {error}", "Install what it names.") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise _unbuildable(error) from error
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
    return model.eval()


def _read_config(folder: Path) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ValueError as error:
        raise Unsupported(
            f"transformers does not know this architecture: {str(error).splitlines()[0]}",
            "Choose another model, or update transformers if it is new. The studio runs no code of a model.",
        ) from error
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise _unbuildable(error) from error
    except BaseException as error:
        # The class belongs to huggingface_hub, which only studio/hub may import.
        if "StrictDataclassError" not in [base.__name__ for base in type(error).__mro__]:
            raise
        raise _unbuildable(error) from error
    # transformers would read a model that fills in blanks as one that goes on, and it would talk nonsense.
    fills_blanks = any(str(name).endswith(("ForMaskedLM", "ForPreTraining")) for name in config.architectures or ())
    if fills_blanks or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise Unsupported(
            f"A {config.model_type} model does not generate text.",
            "Choose a causal language model, for example Qwen/Qwen3-0.6B.",
        )
    if method := _quantization(config):
        # It would load in its own precision whatever the plan says, and every number on the page would be wrong.
        raise Unsupported(
            f"This model is quantized already ({method}), and the studio loads only fp32, bf16 and fp16 so far.",
            "Choose the original model that it was made from; its page on the Hub names it.",
        )
    # How to compute is this machine's choice: a config may name a kernel that is not here, or one of the Hub.
    config._attn_implementation = None
    return config


def _quantization(config: Any) -> str:
    """The method that a checkpoint was quantized with; empty where it was not."""
    how = getattr(config, "quantization_config", None)
    if not how:
        return ""
    return str(how.get("quant_method", "unknown") if isinstance(how, dict) else getattr(how, "quant_method", "unknown"))


def _unbuildable(error: BaseException) -> Unsupported:
    """What transformers raises for a value in a config that it cannot build a model of."""
    words = " ".join(str(error).split())[:200]
    return Unsupported(
        f"transformers cannot build a model of this config: {type(error).__name__}: {words}",
        "Download the model again, or choose another one: its config.json has a value that makes no sense.",
    )


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    from peft import PeftModel, get_peft_model_state_dict

    if not (adapter / "adapter_model.safetensors").is_file():
        raise Unsupported(
            f"There is no adapter_model.safetensors in {adapter.name}.",
            "Choose the folder that training wrote; pickles are refused.",
        )
    saved = read_header(adapter / "adapter_model.safetensors").keys() - {"__metadata__"}
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), local_files_only=True).eval()
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise Unsupported(
            f"The adapter does not fit this model: {str(error).splitlines()[0]}",
            "Choose the base model it was trained on.",
        ) from error
    # peft leaves out what the model has no place for, begins the rest anew, and goes on with a warning.
    if strangers := sorted(saved ^ get_peft_model_state_dict(adapted).keys()):
        raise Unsupported(
            f"The adapter does not fit this model: {len(strangers)} weights are in one of them only,"
            f" the first is {strangers[0]}.",
            "Choose the base model it was trained on.",
        )
    return adapted


class _GaveUp(Exception):
    """Raised inside the thread that reads, to end it."""


@contextmanager
def _weights_counted(say: Callable[[Progress], None], stop: Event) -> Iterator[None]:
    """Hear from transformers how many tensors it has read, and stop it between two of them."""
    from transformers.utils import logging

    def counted(_factory: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
        items = list(arguments[0] if arguments else options["iterable"])
        for done, item in enumerate(items):
            if stop.is_set():
                raise _GaveUp
            say(Progress(Phase.READ, done, len(items)))
            yield item

    before = logging.set_tqdm_hook(counted)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _describe(plan: LoadPlan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seconds: float) -> Resident:
    # Tied weights are one tensor under two names.
    parameters = {p.data_ptr(): p for p in model.parameters()}
    tensors = parameters | {b.data_ptr(): b for b in model.buffers()}
    return Resident(
        plan=plan,
        parameters=sum(p.numel() for p in parameters.values()),
        weights=sum(t.numel() * t.element_size() for t in tensors.values()),
        seconds=seconds,
        context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        has_chat_template=bool(tokenizer.chat_template),
    )
