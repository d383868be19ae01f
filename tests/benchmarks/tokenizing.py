"""How much faster a tokenizer in Rust is than the same one in Python, and how long it takes to train one of each kind.

    python tests/benchmarks/tokenizing.py [MEGABYTES [FILE...]]

The two take turns on the same texts, and medians are compared. The training reads the files, or what is in `assets/`,
again and again until it has so many megabytes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import running

from studio.events import Finished
from studio.tokenizer import Kind, Recipe, learn, read_texts, rust_against_python


def main(megabytes: float, files: list[Path]) -> None:
    for pace in rust_against_python(repeats=11):
        print(
            f"{pace.texts:>4} texts, {pace.tokens:,} tokens: {pace.rust_tokens_per_second:,.0f} tokens/s in Rust,"
            f" {pace.python_tokens_per_second:,.0f} in Python, {pace.ratio:.1f}"
        )
    for kind in Kind:
        with tempfile.TemporaryDirectory() as folder:
            for event in learn(text(megabytes, files), Recipe(kind=kind), Path(folder) / "tokenizer"):
                if isinstance(event, Finished):
                    done = event.result
                    print(f"{kind:<24} {done.bytes / 1e6:.1f} MB, {done.vocabulary} tokens: {done.seconds:.1f} s")


def text(megabytes: float, files: list[Path]) -> Iterator[str]:
    """Text up to a size, from the files in turn."""
    room = megabytes * 1e6
    for file in cycle(files):
        for part in read_texts([file]):
            yield part
            room -= len(part)
        if room <= 0:
            return


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[2:]]
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10, given or sorted((running.ROOT / "assets").rglob("*.txt")))
