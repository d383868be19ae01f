"""Keep a loaded model, quantized or not, in a folder that loads again bit for bit: written aside, proven, renamed."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from studio.checkpoint import read_checkpoint, read_json
from studio.disk import sync
from studio.errors import Damaged, DoesNotFit, InputError, StudioError, Unsupported
from studio.events import Phase, Progress
from studio.heartbeat import heartbeat
from studio.loading import LoadedModel
from studio.tokenizer import encode, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

REPORT = "kept.json"
SHARD_BYTES = 1_000_000_000
"""A file this long is written in about a second, in which safetensors lets nothing else of this process run."""
SMALL_FILES = 100_000_000
"""Bytes of disk for everything beside the weights; the largest tokenizers take 40 MB."""
_SUFFIX = ".part"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_SAMPLE = "The quick brown fox, 42 times: für 5 €!\n\n\tdef f(x): return x  # 😀"


@dataclass(frozen=True, slots=True)
class Kept:
    """A model that was written, and what proves that it is the one in memory."""

    folder: Path
    before: int
    """Bytes of the weight files that it was loaded from."""
    after: int
    """Bytes of the weight files that were written."""
    seconds: float
    tensors: int
    """How many tensors were read back and compared byte for byte with those in memory."""


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A model of the workspace, as it tells of itself."""

    name: str
    folder: Path
    model: str
    """What it was made from."""
    precision: str
    bytes: int


def place(workspace: Path, name: str, what: str = "model") -> Path:
    """Where a model, or `what` else, of this name is kept. Raises InputError for a name that is none, or is taken."""
    if not _NAME.fullmatch(name) or name.endswith((".", _SUFFIX)):
        raise InputError(
            f"{name!r} is not a name for a {what}." if name else f"The {what} needs a name to be kept under.",
            "Use letters, digits, - _ and ., beginning with a letter or a digit.",
        )
    target = workspace / f"{what}s" / name
    check_vacant(target)
    return target


def kept_models(workspace: Path) -> tuple[KeptModel, ...]:
    """The models that are kept in a workspace, by name; those that were never finished are not among them."""
    reports = sorted((workspace / "models").glob(f"*/{REPORT}"))
    return tuple(_told(report) for report in reports if not report.parent.name.endswith(_SUFFIX))


def kept_tokenizers(workspace: Path) -> tuple[Path, ...]:
    """The folders of the tokenizers that were trained into a workspace, by name."""
    files = sorted((workspace / "tokenizers").glob("*/tokenizer.json"))
    return tuple(file.parent for file in files if not file.parent.name.endswith(_SUFFIX))


def kept_adapters(workspace: Path) -> tuple[Path, ...]:
    """The folders of the adapters that were made of others in a workspace, the newest first."""
    files = sorted((workspace / "adapters").glob("*/adapter_config.json"), key=lambda file: -file.stat().st_mtime)
    return tuple(file.parent for file in files if not file.parent.name.endswith(_SUFFIX))


def _told(report: Path) -> KeptModel:
    said, folder = read_json(report), report.parent
    size = said.get("after", 0)
    return KeptModel(folder.name, folder, str(said.get("model", "")), str(said.get("precision", "")), int(size))


def keep(loaded: LoadedModel, source: Path, target: Path) -> Generator[Progress, None, Kept]:
    """Write a model that was loaded from `source` to the new folder `target`, read it back, and return the proof.

    The folder is there when all of it is on the disk and was compared with the memory, and not before: closing the
    generator leaves nothing. Raises InputError, Unsupported, DoesNotFit or Damaged.
    """
    started = time.monotonic()
    _check_keepable(loaded)
    check_vacant(target)
    _check_disk(target, loaded.resident.weights + SMALL_FILES)
    part = target.with_name(target.name + _SUFFIX)

    def work(say: Callable[[Progress], None], stop: Event) -> tuple[int, int]:
        part.mkdir(parents=True)
        _write(loaded, source, part, say, stop)
        tensors = _prove(loaded, part, say, stop)
        after = _weight_bytes(part)
        _report(loaded, part / REPORT, _weight_bytes(source), after)
        for file in part.iterdir():
            shutil.copymode(part / "config.json", file)  # safetensors lets nobody else read
            sync(file)
        sync(part)
        return tensors, after

    latest = Progress(Phase.SAVE)

    def tell(said: list[Progress]) -> list[Progress]:
        nonlocal latest
        latest = said[-1] if said else latest
        return [latest]

    try:
        with _explained(target):
            shutil.rmtree(part, ignore_errors=True)  # of one that was killed
            yield latest
            tensors, after = yield from heartbeat(work, tell, every=0.1)
            if target.is_dir():
                target.rmdir()  # it was empty, or this raises
            part.rename(target)
            sync(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Kept(target, _weight_bytes(source), after, time.monotonic() - started, tensors)


def _check_keepable(loaded: LoadedModel) -> None:
    if loaded.resident.plan.adapter:
        raise Unsupported(
            "There is an adapter on top of this model, and keeping would leave it out.",
            "Load the model without it. The adapter is a folder of its own already.",
        )
    if any(parameter.is_meta for parameter in loaded.model.parameters()):
        on_disk = any(module.device == "disk" for module in loaded.resident.modules)
        where = "lie on the disk" if on_disk else "are brought in for each use"
        raise Unsupported(
            f"Parts of this model {where}, and only one that is whole on its devices can be kept.",
            "Load it in a lower precision, or on a machine where it fits, and keep it then.",
        )
    quantizer: Any = getattr(loaded.model, "hf_quantizer", None)
    method = quantizer and quantizer.quantization_config.quant_method
    if method and getattr(method, "value", method) != "bitsandbytes":
        raise Unsupported(
            f"This checkpoint was quantized with {getattr(method, 'value', method)} already.",
            "It is as small on the disk as it gets: copy its folder.",
        )


def check_vacant(target: Path) -> None:
    """Raise InputError where something is in the way."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists already and is not empty.", "Choose another name, or remove it first.")


def _check_disk(target: Path, needed: int) -> None:
    disk = next(place for place in (target.absolute(), *target.absolute().parents) if place.exists())
    if (free := shutil.disk_usage(disk).free) < needed:
        raise DoesNotFit(
            f"The model takes {needed / 1e9:.2f} GB, and the disk with {disk} has {free / 1e9:.2f} GB free.",
            "Free some space, or choose a folder on a larger disk.",
        )


def _write(loaded: LoadedModel, source: Path, part: Path, say: Callable[[Progress], None], stop: Event) -> None:
    with _shards_counted(say, stop), _unchanged(loaded.model), _reversible(loaded.model):
        loaded.model.save_pretrained(part, max_shard_size=SHARD_BYTES)
    loaded.tokenizer.save_pretrained(part)
    # As it was, or not at all: transformers would write what it made of it.
    own = part / "generation_config.json"
    own.unlink(missing_ok=True)
    for file in {source / own.name, *(file for pattern in _LICENCES for file in source.glob(pattern))}:
        if file.is_file():
            shutil.copyfile(file, part / file.name)


@contextmanager
def _unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Put back what save_pretrained changes in the config of a model."""
    before = {name: getattr(model.config, name) for name in ("dtype", "architectures")}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)


@contextmanager
def _reversible(model: PreTrainedModel) -> Iterator[None]:
    """Leave out what transformers did to a checkpoint that was quantized before: it has no way back, and needs none."""
    before = getattr(model, "_weight_conversions", None)
    model._weight_conversions = None if before is None else [each for each in before if not _unpacks(each)]
    try:
        yield
    finally:
        model._weight_conversions = before


def _unpacks(conversion: Any) -> bool:
    return any(type(step).__name__.endswith("Deserialize") for step in getattr(conversion, "operations", ()))


class _GaveUp(Exception):
    """Raised inside the thread that writes, to end it."""


@contextmanager
def _shards_counted(say: Callable[[Progress], None], stop: Event) -> Iterator[None]:
    """Hear from transformers how many files it has written, and stop it between two of them."""
    from transformers.utils import logging

    def counted(_factory: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
        items = list(arguments[0] if arguments else options["iterable"])
        for done, item in enumerate(items):
            if stop.is_set():
                raise _GaveUp
            say(Progress(Phase.SAVE, done, len(items)))
            yield item

    before = logging.set_tqdm_hook(counted)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _prove(loaded: LoadedModel, folder: Path, say: Callable[[Progress], None], stop: Event) -> int:
    """Read the folder as everyone will and compare it with what is in memory; return how many tensors there are."""
    from safetensors import safe_open

    read_checkpoint(folder)
    expected = _in_memory(loaded.model)
    written: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118  # it is no dict
                if stop.is_set():
                    raise _GaveUp
                if name not in expected or not same_bits(shard.get_tensor(name), expected[name]):
                    raise _differs(name)
                written.add(name)
                say(Progress(Phase.CHECK, len(written), len(expected)))
    stored = {expected[name].data_ptr() for name in written}
    # A tied weight is written once, under one of its names.
    if missing := sorted(name for name in expected.keys() - written if expected[name].data_ptr() not in stored):
        raise _differs(missing[0])
    _prove_tokenizer(loaded, folder)
    return len(written)


def _in_memory(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every tensor of a model, under the name that files have it by."""
    from transformers.core_model_loading import revert_weight_conversion

    ignored = set(model._keys_to_ignore_on_save or ())
    held = {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}
    tied = {name: held.pop(name) for name in list(model.all_tied_weights_keys) if name in held}
    with _reversible(model):
        return {**tied, **revert_weight_conversion(model, held)}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same in type, shape and every bit, NaN too."""
    import torch

    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    flat = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return bool(torch.equal(*flat))


def _prove_tokenizer(loaded: LoadedModel, folder: Path) -> None:
    before, after = loaded.tokenizer, load_tokenizer(folder)
    if before.chat_template != after.chat_template:
        raise _differs("the chat template")
    ids = [encode(tokenizer, _SAMPLE, special_tokens=True) for tokenizer in (before, after)]
    if before.get_vocab() != after.get_vocab() or ids[0] != ids[1]:
        raise _differs("the tokenizer")


def _differs(what: str) -> Damaged:
    return Damaged(
        f"What was written does not read back as what is in memory: {what}.",
        "Nothing was kept. Check the disk, or choose a folder on another one, and try again.",
    )


def _weight_bytes(folder: Path) -> int:
    """Bytes of the weight files that loading a folder would read."""
    index = folder / "model.safetensors.index.json"
    if (single := folder / "model.safetensors").is_file():
        return single.stat().st_size
    if index.is_file():
        return sum((folder / name).stat().st_size for name in set(read_json(index)["weight_map"].values()))
    return sum(file.stat().st_size for file in folder.glob("*.gguf"))


def _report(loaded: LoadedModel, file: Path, before: int, after: int) -> None:
    """Say in the folder what it was made from. A path is nobody else's concern: its last part will do."""
    plan = loaded.resident.plan
    model = Path(plan.model.name).name if plan.model.where == "folder" else str(plan.model)
    said = {"model": model, "precision": str(plan.precision), "before": before, "after": after}
    file.write_text(json.dumps(said, indent=2), encoding="utf-8")


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn what a disk, or safetensors about a disk, complains of into our words."""
    try:
        yield
    except StudioError:
        raise
    except OSError as error:
        raise _unwritable(target, error.strerror or str(error)) from error
    except BaseException as error:
        # safetensors must not be imported for its class alone, before anything is written.
        if type(error).__name__ != "SafetensorError":
            raise
        raise _unwritable(target, str(error)) from error


def _unwritable(target: Path, why: str) -> InputError:
    return InputError(f"{target} cannot be written: {why}.", "Choose a folder that you may write to, with room for it.")
