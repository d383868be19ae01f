"""Which files of a repository or folder belong together: the configs and splits of a dataset, before any is downloaded.

The datasets library decides, by its own rules for names and by what the README says. It is shown a folder of empty
files that are called like the real ones, and of the README only which files make which split.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from studio import hub
from studio.errors import InputError, NotFound, Unsupported
from studio.models import DatasetRef
from studio.settings import ASSETS

_FRONT = re.compile(r"^\s*---\s*\n(.*?)\n---\s*(?:\n|$)", re.DOTALL)
_KEPT = ("config_name", "data_files", "data_dir", "default")
_READABLE = ("json", "csv", "parquet", "text")
_FRONT_CHARS = 2_000_000
CHECKS = "checks"
"""`checks.json` and the folder `checks` of a dataset say how what is learnt from it is measured, and hold no rows."""


@dataclass(frozen=True, slots=True)
class Split:
    """Files that are read as one dataset: what they take, and how many rows they have where the README says so."""

    name: str
    files: tuple[str, ...]
    bytes: int
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What there is to choose from: the configs, and the splits of one of them."""

    configs: tuple[str, ...]
    config: str
    splits: tuple[Split, ...]

    def split(self, name: str | None = None) -> Split:
        """The split of a name; without one `train`, or the only one. Raises InputError where there is none of it."""
        names = [split.name for split in self.splits]
        wanted = name or ("train" if "train" in names else names[0] if len(names) == 1 else None)
        for split in self.splits:
            if split.name == wanted:
                return split
        raise InputError(
            f"There is no split {name!r}." if name else "There are several splits and none is chosen.",
            f"Choose one of {', '.join(names)}.",
        )


def place_of(ref: DatasetRef) -> Path:
    """The file or folder of a dataset that is not on the Hub. Raises NotFound where there is none."""
    if ref.where == "bundled":
        return ASSETS / "datasets" / ref.name
    place = Path(ref.name)
    if not place.exists():
        raise NotFound(f"There is no file or folder {place}.", "Check the spelling.")
    return place


def layout(place: Path | hub.Seen[DatasetRef], config: str | None = None) -> Layout:
    """The configs of a folder, or of what `hub.peek` saw, and the splits of one; without a name of the default.

    Downloads nothing, and takes a second for hundreds of files. Raises InputError where there is no such config, and
    Unsupported where the files do not make a dataset that the studio can read.
    """
    if isinstance(place, Path):
        if place.is_file():
            only = Split("train", (place.name,), place.stat().st_size)
            return _checked(Layout(("default",), "default", (only,)), config)
        sizes = {
            file.relative_to(place).as_posix(): file.stat().st_size
            for file in sorted(place.rglob("*"))
            if file.is_file()
        }
        readme, name = place / "README.md", place.name
        return _resolve(sizes, readme.read_bytes() if readme.is_file() else b"", config, name)
    sizes = {file.path: file.size for file in place.files}
    return _resolve(sizes, dict(place.contents).get("README.md", b""), config, place.ref.name)


def _resolve(sizes: Mapping[str, int], readme: bytes, config: str | None, name: str) -> Layout:
    files = [path for path in sizes if hub.holds_rows(path) and not _aside(PurePosixPath(path))]
    if not files:
        raise Unsupported(
            f"{name} has no files with rows.", "Choose a folder with JSON Lines, JSON, CSV, Parquet, text."
        )
    front = _front(readme, name)
    with tempfile.TemporaryDirectory(prefix="studio-splits-") as spare:
        folder = Path(spare, "dataset")
        for path in files:
            file = folder.joinpath(*PurePosixPath(path).parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        _write_front(folder, front)
        with _explained(name):
            configs, chosen, found = _asked(folder, Path(spare, "cache"), config)
    counts = _counts(front, chosen)
    splits = [
        Split(split, paths, sum(sizes[path] for path in paths), counts.get(split)) for split, paths in found.items()
    ]
    return _checked(Layout(tuple(configs), chosen, tuple(splits)), config)


def _aside(path: PurePosixPath) -> bool:
    """Whether a file is none of the dataset's rows: outside of it, or part of its checks."""
    return ".." in path.parts or path.parts[0] in (CHECKS, f"{CHECKS}.json")


def _checked(found: Layout, config: str | None) -> Layout:
    if config not in (None, found.config):
        raise InputError(f"There is no config {config!r}.", f"Choose one of {', '.join(found.configs)}.")
    return found


def _asked(folder: Path, cache: Path, config: str | None) -> tuple[list[str], str, dict[str, tuple[str, ...]]]:
    """What the datasets library makes of a folder: all configs, one of them, and the files of its splits."""
    from datasets import get_dataset_config_names, get_dataset_default_config_name, load_dataset_builder

    configs = get_dataset_config_names(str(folder))
    default = get_dataset_default_config_name(str(folder)) or configs[0]
    chosen = config if config in configs else default
    builder = load_dataset_builder(str(folder), chosen, cache_dir=str(cache))
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in _READABLE:
        raise Unsupported(f"Its rows are of the kind {kind}, not text.", "Choose a dataset of text.")
    root = folder.resolve()
    found = {
        str(split): tuple(Path(file).resolve().relative_to(root).as_posix() for file in files)
        for split, files in builder.config.data_files.items()
    }
    return configs, str(chosen), found


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """The errors of the datasets library in our words."""
    from datasets.exceptions import DatasetsError

    log = logging.getLogger("datasets")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns of a README that is missing
    try:
        yield
    except (DatasetsError, ValueError, OSError, LookupError, TypeError, AttributeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        said = re.sub(r"\S*studio-splits-\w+/dataset/?", "", said)
        raise Unsupported(
            f"Which files of {name} make a split cannot be told: {said}",
            "Choose one of its files by its path, or another dataset.",
        ) from error
    finally:
        log.setLevel(before)


# The README


def _front(readme: bytes, name: str) -> dict[str, Any]:
    """The metadata in front of a README; empty where there is none."""
    import yaml  # type: ignore[import-untyped]

    found = _FRONT.search(readme.decode("utf-8-sig", errors="replace")[:_FRONT_CHARS])
    if not found:
        return {}
    try:
        said = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unsupported(
            f"The README of {name} has metadata that cannot be read: {str(error).splitlines()[0]}",
            "Correct what stands between its first two lines of ---.",
        ) from error
    return said if isinstance(said, dict) else {}


def _write_front(folder: Path, front: dict[str, Any]) -> None:
    """A README that says which files make which split, and nothing else that its author wrote."""
    import yaml

    configs = front.get("configs")
    if not isinstance(configs, list):
        return
    kept = [
        {key: config[key] for key in _KEPT if key in config}
        for config in configs
        if isinstance(config, dict) and "config_name" in config
    ]
    for text in _texts([[config.get("data_files"), config.get("data_dir")] for config in kept]):
        # The library would follow an address and read from anywhere on the disk.
        if "://" in text or "::" in text or text.startswith(("/", "~")) or ".." in re.split(r"[/\\]", text):
            raise Unsupported(
                f"The README names rows that are not in the dataset itself: {text!r}.",
                "Download them yourself and give the file.",
            )
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': kept})}---\n", encoding="utf-8")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _counts(front: dict[str, Any], config: str) -> dict[str, int]:
    """How many rows the README says that the splits of a config have."""
    said = front.get("dataset_info")
    for info in said if isinstance(said, list) else [said]:
        if isinstance(info, dict) and info.get("config_name", "default") == config:
            splits = info.get("splits")
            return {
                str(split["name"]): split["num_examples"]
                for split in (splits if isinstance(splits, list) else [])
                if isinstance(split, dict) and "name" in split and isinstance(split.get("num_examples"), int)
            }
    return {}
