"""The process that opens the pickles of one conversion: `python -m studio.conversion.unpickling`.

It reads one order as a line of JSON from stdin, reports with lines of JSON on stdout, and ends when stdin does. It
takes tensors only, writes them as safetensors, reads them back and compares every byte.
"""

from __future__ import annotations

import errno
import pickle
import pickletools
import re
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from studio.child import say, serve
from studio.conversion.writing import (
    DTYPES,
    Conversion,
    Output,
    check_index,
    dtype_of,
    name_files,
    size_of,
    write_all,
)
from studio.errors import Damaged, DoesNotFit, Unsupported

if TYPE_CHECKING:
    from torch import Tensor

_AGAIN = "Download it again; if it stays the same, choose another version of the model."
_ELSEWHERE = "Nothing of it was run. Choose a version of this model with *.safetensors, from somebody you trust."
# What torch and transformers raise for bytes that make no sense; UnicodeDecodeError and the like are ValueErrors.
_NONSENSE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)


def main() -> None:
    """Carry out the order on stdin."""
    serve(
        lambda order: rewrite(
            Path(order["folder"]), order["sources"], order["weight_map"], Path(order["part"]), order["stem"]
        )
    )


def rewrite(folder: Path, sources: list[str], weight_map: dict[str, str], part: Path, stem: str = "model") -> None:
    """Write the tensors of all pickles to `part`, one pickle in memory at a time, and prove each before the next."""
    output = Output(part, Conversion(sources=sources), stem)
    begun = 0
    for name in sources:
        source = folder / name
        size = source.stat().st_size
        tensors = _tensors(source, output.conversion)
        total = 2 * sum(size_of(tensor) for tensor in tensors.values()) or 1
        moved = 0

        def tell(count: int, *, begun: int = begun, size: int = size, total: int = total) -> None:
            nonlocal moved
            moved += count
            say({"done": begun + size * moved // total})

        if stem == "model":  # an adapter has no second names
            _drop_tied(folder, tensors, output.conversion)
        with _explained(source):
            write_all(source, tensors, output, tell)
        begun += size
        del tensors
    check_index(weight_map, {*output.where, *output.conversion.tied})
    name_files(output)


# Reading


def _tensors(source: Path, conversion: Conversion) -> dict[str, Tensor]:
    """The tensors of a pickle by name. Notes what is left out."""
    import torch

    content = _unpickle(source)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(inner := content.get(key), dict):
            _note_dropped(source, {name: value for name, value in content.items() if name != key}, conversion)
            content = inner
            break
    entries = content if isinstance(content, dict) else {}
    tensors = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise Unsupported(
            f"{source.name} holds no tensors by name, but {_kind(content)}.",
            "Choose the file with the weights, usually pytorch_model.bin.",
        )
    _note_dropped(source, {name: value for name, value in entries.items() if name not in tensors}, conversion)
    for name, tensor in tensors.items():
        _check_tensor(source, name, tensor)
    return tensors


def _unpickle(source: Path) -> Any:
    """What the pickle holds, where that is data alone."""
    import torch

    with _explained(source):
        zipped = _check_kind(source)
        try:
            return torch.load(source, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            names = re.findall(r"GLOBAL (\S+)", str(error)) or _foreign_imports(source, zipped)
            if names:
                raise Unsupported(f"{source.name} is not weights alone: it asks for {names[0]}.", _ELSEWHERE) from None
            words = str(error).split("WeightsUnpickler error:")[-1].split("Check the documentation")[0]
            raise Unsupported(
                f"{source.name} cannot be read as weights alone: {' '.join(words.split())[:200]}.", _ELSEWHERE
            ) from error


def _check_kind(source: Path) -> bool:
    """Whether it is a zip archive, as torch writes since 1.6. Raises where it is no pickle of torch at all."""
    with source.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"PK\3\4"):
        with zipfile.ZipFile(source) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
        if "constants.pkl" in names:
            raise Unsupported(f"{source.name} is a TorchScript program, which is code, not weights alone.", _ELSEWHERE)
        return True
    if start.startswith(b"version https://git-lfs"):
        raise Damaged(f"{source.name} is a Git LFS pointer, not the weights.", "Run `git lfs pull` in that folder.")
    if not start.startswith(b"\x80"):
        raise Damaged(f"{source.name} is no pickle: it begins with {start[:16]!r}.", _AGAIN)
    return False


def _foreign_imports(source: Path, zipped: bool) -> list[str]:
    """What a pickle would import that is not of torch, read off its instructions without following any of them.

    torch names it in its own error, except where the pickle is of a newer protocol than it reads. Raises ValueError
    where the file is no pickle.
    """
    if not zipped:
        with source.open("rb") as stream:
            # An old file is four pickles, the last with the weights, and the bytes behind them.
            return [name for _ in range(4) if stream.peek(1) for name in _imports(stream)]
    with zipfile.ZipFile(source) as archive:
        inner = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(inner) as content:
            return _imports(content)


def _imports(stream: IO[bytes]) -> list[str]:
    found: list[str] = []
    last: deque[str] = deque(maxlen=2)
    memo: dict[Any, Any] = {}
    top: Any = None
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            found.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            found.append(".".join(last))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = top
        elif opcode.name.endswith("PUT"):
            memo[argument] = top
        else:
            top = memo.get(argument) if opcode.name.endswith("GET") else argument
            last.extend([top] if isinstance(top, str) else [])
    return [name for name in found if not name.startswith(("torch.", "collections."))]


def _check_tensor(source: Path, name: Any, tensor: Tensor) -> None:
    import torch

    if not isinstance(name, str) or name == "__metadata__":
        raise Unsupported(f"{source.name} has a tensor under {name!r}, which is no name for a weight.", _AGAIN)
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or dtype_of(tensor) not in DTYPES:
        raise Unsupported(
            f"{name} in {source.name} is a {dtype_of(tensor)} tensor ({tensor.layout}, {tensor.device.type}),"
            " which safetensors cannot hold.",
            "Choose a version of the model in plain 32 or 16 bit.",
        )
    if size_of(tensor) > tensor.untyped_storage().nbytes():
        raise Damaged(f"{name} in {source.name} names more values than the file holds.", _AGAIN)


def _note_dropped(source: Path, entries: dict[Any, Any], conversion: Conversion) -> None:
    """Counters of steps and the like are nobody's loss; anything else is named."""
    conversion.dropped += [
        f"{source.name}: {name} ({_kind(value)})"
        for name, value in entries.items()
        if not isinstance(value, bool | int | float)
    ]


def _drop_tied(folder: Path, tensors: dict[str, Tensor], conversion: Conversion) -> None:
    """Leave out second names of the same values where the model makes them of the first by itself.

    Other names of the same values are written again, as safetensors has no two names for one tensor.
    """
    same: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        same.setdefault(place if tensor.numel() else name, []).append(name)
    groups = [names for names in same.values() if len(names) > 1]
    for name, first in (_tied_names(folder) if groups else {}).items():
        if any(name in names and first in names for names in groups):
            del tensors[name]
            conversion.tied.append(name)


def _tied_names(folder: Path) -> dict[str, str]:
    """Which weight the model takes from which other one; empty where transformers does not know the model."""
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model_class = getattr(transformers, config.architectures[0])
        with torch.device("meta"):
            return dict(model_class(config).all_tied_weights_keys)
    except (*_NONSENSE, ImportError, OSError):
        return {}
    except BaseException as error:
        # The class belongs to huggingface_hub, which only studio/hub may import.
        if "StrictDataclassError" not in [base.__name__ for base in type(error).__mro__]:
            raise
        return {}


def _kind(value: Any) -> str:
    return type(value).__name__


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    """What may go wrong with the bytes of a pickle, in our words."""
    try:
        yield
    except MemoryError as error:
        raise DoesNotFit(f"{source.name} does not fit into the free memory.", "Close other programs.") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DoesNotFit("The disk is full.", "Free some space, or choose a folder on a larger disk.") from error
        raise Damaged(f"{source.name} cannot be converted: {error.strerror or error}.", _AGAIN) from error
    except (*_NONSENSE, zipfile.BadZipFile) as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise Damaged(f"{source.name} is damaged: {words}.", _AGAIN) from error


if __name__ == "__main__":
    main()
