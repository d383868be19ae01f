"""The command that merges an adapter into its base, and proves it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.cli import lines
from studio.cli.training import FAILED, OK, STOPPED, at_signals
from studio.errors import InputError
from studio.events import Finished, Progress, Waiting

if TYPE_CHECKING:
    from studio.hub import Token
    from studio.merges import MergeOrder
    from studio.merging.outcome import Outcome
    from studio.runs import RunEvent

_OF_ORDER = ("output", "prompt")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that are not fields of a MergeOrder."""
    parser.set_defaults(run=_merge)
    parser.add_argument(
        "target", metavar="model", help="the base: a Hub id with an optional @revision, a folder, starter"
    )
    parser.add_argument("adapter", nargs="?", help="a run by its id, a folder that begins with ./ or /, or a Hub id")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the merged model goes, a new folder")
    parser.add_argument(
        "--prompt", action="append", default=[], help="what both are asked in the proof beside the usual; repeatable"
    )
    parser.add_argument(
        "--precision",
        choices=["nf4", "fp4", "int8"],
        help="how the base was quantized while the adapter learnt, for a merge that is not onto the original",
    )
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # the lock, from the process that starts it


def _merge(arguments: argparse.Namespace) -> int:
    from studio import hub, merges
    from studio.merges.starting import begin
    from studio.merges.working import carry_out

    if arguments.worker is not None:
        folder, lock = Path(arguments.target), arguments.worker
        token: Token = json.loads(sys.stdin.readline())["token"]
    else:
        token = hub.machine_token()
        folder = _folder(arguments)
        lock = begin(folder)
        print(f"merge {folder}", file=sys.stderr)
    show = _show_json if arguments.json else _show_text
    with _gently(folder), closing(carry_out(folder, lock, token=token)) as events:
        last = show(events)
    if not isinstance(last, Finished):
        print(f"stopped, and nothing is left; again with: python -m studio merge {folder}", file=sys.stderr)
        return STOPPED
    if not arguments.json:
        for line in _verdict(last.result, merges.at(folder).order):
            print(lines.safe(line), file=sys.stderr)
        print(last.result.folder)
    return FAILED if last.result.passed is False else OK


def _folder(arguments: argparse.Namespace) -> Path:
    """The folder of the merge that is meant, made where it is a new one."""
    from studio import merges
    from studio.merges import order

    target = Path(arguments.target).expanduser()
    if (target / order.FILE).is_file():
        if arguments.adapter or any(getattr(arguments, name) for name in _OF_ORDER):
            raise InputError(f"{target} is a merge that says already what it is to do.", "Name its folder alone.")
        return target.resolve()
    if not arguments.adapter or not arguments.output:
        missing = "--output" if arguments.adapter else "an adapter"
        raise InputError(f"{missing} is missing.", "Write: python -m studio merge MODEL ADAPTER --output FOLDER.")
    return merges.of(merges.create(_described(arguments))).folder


def _described(arguments: argparse.Namespace) -> MergeOrder:
    from studio.merges import MergeOrder
    from studio.merges.adapters import named
    from studio.models import ModelRef, Precision

    adapter, run = named(arguments.adapter)
    return MergeOrder(
        base=ModelRef.parse(arguments.target),
        adapter=adapter,
        output=arguments.output.expanduser().absolute(),
        dtype=arguments.dtype,
        shard_size=arguments.shard_size,
        onto=arguments.onto,
        precision=Precision(arguments.precision) if arguments.precision else None,
        prove=arguments.prove,
        prompts=tuple(arguments.prompt),
        run=run,
    )


@contextmanager
def _gently(folder: Path) -> Iterator[None]:
    """A signal to end lets what was written be cleared away first."""
    from studio.runs.state import wish
    from studio.training import Stop

    def ask() -> None:
        wish(folder, Stop.NOW)
        print("stopping", file=sys.stderr)

    with at_signals(ask):
        yield


def _show_text(events: Iterator[RunEvent]) -> Any:
    """Each event in words on stderr; returns the last one."""
    said, event = "", None
    for event in events:
        if isinstance(event, Progress | Waiting) and (words := _in_words(event)) != said:
            print(said := words, file=sys.stderr, flush=True)
    return event


def _in_words(event: Progress | Waiting) -> str:
    if isinstance(event, Waiting):
        return f"waiting for {event.busy_with}; {event.ahead} before this one"
    return f"{event.phase} {100 * event.done // event.total} %" if event.total else str(event.phase)


def _show_json(events: Iterator[RunEvent]) -> Any:
    """One event a line on stdout; returns the last one."""
    from studio.runs.journal import as_fields

    event = None
    for event in events:
        print(json.dumps(as_fields(event), ensure_ascii=False), flush=True)
    return event


def _verdict(found: Outcome, order: MergeOrder) -> Iterator[str]:
    """What came of it, and every check that was made."""
    from studio.merging import read_proof

    yield (
        f"{found.tensors:,} tensors, {found.changed:,} of them changed, {lines.size(found.bytes)} in {order.dtype},"
        f" {found.way} in {found.seconds:.1f} s"
    )
    if found.passed is None:
        yield f"not proven: {found.covered or 'no proof was asked for'}"
        return
    proof = read_proof(found.folder)
    rows = [[check.name, check.state, check.words] for check in proof.checks] if proof else []
    yield from lines.table("Checks", rows)
    yield f"proven. {found.covered}" if found.passed else f"NOT PROVEN: {', '.join(found.failed) or found.covered}"


def fields_of_order() -> list[dataclasses.Field[Any]]:
    """The fields of an order that are options by themselves."""
    from studio.merges import MergeOrder

    return [field for field in dataclasses.fields(MergeOrder) if field.metadata]
