"""Turn a folder whose weights are pickles into one with safetensors, so that it can be stopped at any moment.

The pickles are opened by a child process, `python -m studio.conversion.unpickling`: its orders go over stdin, its
progress comes back as lines of JSON. It ends when it is killed, or when this process does.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Generator, Iterator
from fnmatch import fnmatch
from pathlib import Path
from queue import Empty
from typing import Any

from studio import child, errors
from studio.checkpoint import read_json
from studio.conversion.writing import REPORT, Conversion, check_disk
from studio.disk import explained, sync
from studio.errors import Damaged, DoesNotFit, InputError, StudioError, Unsupported
from studio.events import Finished, Phase, Progress

_BEAT_SECONDS = 0.2
_WHOLE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_ADAPTER, _ADAPTER_CONFIG = "adapter_model", "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NOT_WEIGHTS = ("training_args*", "optimizer*", "scheduler*", "scaler*", "rng_state*")
_COPIED = (
    *("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "spiece.model", "sentencepiece*.model", "tekken.json", "*.tiktoken", "chat_template*"),
    *("additional_chat_templates/*.jinja", "README.md", "LICENSE*"),
)
_COPIED_TOO = {_ADAPTER: (_ADAPTER_CONFIG, "base.json")}
"""Of an adapter. Beside a whole model, transformers would put an adapter on top unasked."""
_NEVER_COPIED = (*_PICKLES, "*.py", "*.pkl", "*.pickle")
_AGAIN = "Download the file again; if it stays the same, choose another version of the model."
_LOG = logging.getLogger(__name__)


def convert(folder: Path, target: Path) -> Generator[Progress | Finished[Path], None, None]:
    """Write the model of `folder`, whose weights are pickles, to the new folder `target` as safetensors.

    Ends with the folder, which holds the tensors byte for byte, read back and compared, and says in conversion.json
    what was left out. Closing the generator stops it, and what was written so far is deleted. Raises InputError,
    Unsupported, Damaged or DoesNotFit.
    """
    sources = pickled_weights(folder)
    whole = sources[0].name == _WHOLE or not (folder / _INDEX).is_file()
    yield from _converted(folder, target, sources, {} if whole else _weight_map(folder), "model")


def convert_adapter(folder: Path, target: Path) -> Generator[Progress | Finished[Path], None, None]:
    """The same for an adapter whose weights are in adapter_model.bin. Its config comes along as it is."""
    if not (folder / _ADAPTER_CONFIG).is_file():
        raise InputError(f"There is no {_ADAPTER_CONFIG} in {folder.name}.", "Choose the folder of an adapter.")
    read_json(folder / _ADAPTER_CONFIG)
    if any(folder.glob("*.safetensors")):
        raise InputError("This adapter has its weights as safetensors already.", "Use it as it is.")
    if not (folder / f"{_ADAPTER}.bin").is_file():
        raise InputError(f"There is no {_ADAPTER}.bin in {folder.name}.", "Choose the folder that training wrote.")
    yield from _converted(folder, target, [folder / f"{_ADAPTER}.bin"], {}, _ADAPTER)


def _converted(
    folder: Path, target: Path, sources: list[Path], weight_map: dict[str, str], stem: str
) -> Generator[Progress | Finished[Path], None, None]:
    if target.exists() or not target.name:
        raise InputError(f"{target} exists already.", "Choose a folder that is not there yet.")
    copies = _copies(folder, (*_COPIED, *_COPIED_TOO.get(stem, ())))
    total = sum(file.stat().st_size for file in sources)
    check_disk(target, total + sum(file.stat().st_size for file in copies))
    part = target.with_name(target.name + ".part")
    with explained(target):
        shutil.rmtree(part, ignore_errors=True)  # of a conversion that was killed
        part.mkdir(parents=True)
    order = {
        "folder": str(folder),
        "part": str(part),
        "sources": [file.name for file in sources],
        "weight_map": weight_map,
        "stem": stem,
    }
    try:
        yield from _follow(order, total)
        with explained(target):
            for file in copies:
                _copy(file, part / file.relative_to(folder))
            sync(part)
            part.rename(target)
            sync(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    yield Finished(target)


def read_conversion(folder: Path) -> Conversion:
    """What the conversion that made `folder` did."""
    return Conversion(**read_json(folder / REPORT))


def pickled_weights(folder: Path) -> list[Path]:
    """The pickle files that hold the weights of a folder, in the order of transformers.

    Raises InputError where there is nothing to convert, Unsupported or Damaged where it is not clear or not all there.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Check the path.")
    read_json(folder / "config.json")
    if any(folder.glob("*.safetensors")):
        raise InputError("This folder has safetensors files already.", "Load it as it is.")
    if (whole := folder / _WHOLE).is_file():
        return [whole]
    if (folder / _INDEX).is_file():
        return [folder / name for name in sorted(set(_weight_map(folder).values()))]
    found = sorted(file for file in folder.iterdir() if _matches(file.name, _PICKLES) and file.is_file())
    found = [file for file in found if not _matches(file.name, _NOT_WEIGHTS)]
    if not found:
        raise InputError("There are no pickled weights in this folder.", "Choose a folder with pytorch_model.bin.")
    if len(found) > 1:
        raise Unsupported(
            f"There are {len(found)} pickle files and no {_INDEX}: {', '.join(file.name for file in found[:3])}.",
            "Keep the one with the weights in a folder with config.json and the tokenizer, and convert that.",
        )
    return found


def _weight_map(folder: Path) -> dict[str, str]:
    """Which shard has which tensor, checked: the shards are files of the folder and are there."""
    names = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise Damaged(f"{_INDEX} is damaged: it names no weights.", _AGAIN)
    if not all(isinstance(name, str) and Path(name).name == name for name in names.values()):
        raise Damaged(f"{_INDEX} is damaged: it names something other than files of its own folder.", _AGAIN)
    shards = set(names.values())
    if missing := sorted(name for name in shards if not (folder / name).is_file()):
        raise Damaged(
            f"{len(missing)} of {len(shards)} weight files are missing, the first is {missing[0]}.",
            "Download the model again; what is there already is kept.",
        )
    return names


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _copies(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files that come along: never code, never pickles."""
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not _matches(file.name, _NEVER_COPIED))


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, to)
    sync(to)
    sync(to.parent)


def _follow(order: dict[str, Any], total: int) -> Iterator[Progress]:
    """Run the child to its end. Raises what it reports."""
    done = 0
    with child.working(
        "studio.conversion.unpickling", order, env=child.offline_env(), complained=_complained
    ) as messages:
        while True:
            yield Progress(Phase.CONVERT, done, total)
            try:
                message = messages.get(timeout=_BEAT_SECONDS)
            except Empty:
                continue
            match message:
                case {"done": int(done)}:
                    pass
                case {"finished": True}:
                    yield Progress(Phase.CONVERT, total, total)
                    return
                case {"error": kind, "message": str(said), "hint": str(hint)}:
                    raise getattr(errors, kind)(said, hint)
                case {"exit": code}:
                    raise _broke_off(order["folder"], code)


def _broke_off(folder: str, code: int) -> StudioError:
    name = Path(folder).name
    if code == -9:
        return DoesNotFit(
            f"The conversion of {name} was killed, most likely because the memory ran out.",
            "Close other programs: a shard must fit into the free memory.",
        )
    return Damaged(f"The conversion of {name} broke off: its process ended with {code}.", _AGAIN)


def _complained(words: str) -> None:
    _LOG.debug("The conversion said: %s", words)
