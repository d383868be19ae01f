"""The commands that fine-tune and that tell of runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.cli import lines
from studio.errors import InputError
from studio.events import Finished, Progress, Waiting

if TYPE_CHECKING:
    from studio.hub import Token
    from studio.runs import RunEvent
    from studio.training import Together, TrainingRun

OK, FAILED, STOPPED = 0, 1, 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_train(parser: argparse.ArgumentParser) -> None:
    """`train`: a new run, or one that goes on."""
    from studio.models import Precision

    parser.set_defaults(run=_train)
    parser.add_argument("target", help="the file of a new run, the folder of one to go on with, or a model")
    parser.add_argument("--data", action="append", default=[], help="rows to learn from, a name or a path; repeatable")
    parser.add_argument("--held-out", help="rows to measure with; else some of the others are held out")
    parser.add_argument("--precision", choices=["auto", *Precision], default="auto", help="how to hold the weights")
    parser.add_argument("--prompt", action="append", default=[], help="what the model is asked meanwhile; repeatable")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting; repeatable")
    parser.add_argument("--name", default="", help="what to call the run")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # the lock, from the process that starts it


def add_runs(parser: argparse.ArgumentParser) -> None:
    """`runs`: all of them, or one."""
    parser.set_defaults(run=_runs)
    parser.add_argument("id", nargs="?", help="one run; without it all are listed")
    parser.add_argument("--code", action="store_true", help="print the run as a script that does it without the studio")


def _train(arguments: argparse.Namespace) -> int:
    from studio import hub, runs
    from studio.runs.starting import begin
    from studio.runs.working import carry_out
    from studio.training import together

    others = together()
    if arguments.worker is not None:
        folder, lock = Path(arguments.target), arguments.worker
        token: hub.Token = json.loads(sys.stdin.readline())["token"]
    else:
        token = hub.machine_token()
        if not others.is_first:
            return _help(others, token)
        folder = _folder(arguments)
        lock = begin(folder)
        print(f"run {folder}", file=sys.stderr)
        others.share(folder)
    show = _show_json if arguments.json else _show_text
    with _gently(folder), closing(carry_out(folder, lock, token=token)) as events:
        last = show(events)
    if isinstance(last, Finished):
        if not arguments.json:
            print(last.result.folder)
        return OK
    total = runs.summary(runs.at(folder)).total
    print(f"stopped at step {last.step} of {total}; go on with: python -m studio train {folder}", file=sys.stderr)
    # torchrun takes every other code for a crash, which it reports at length.
    return STOPPED if others.size == 1 else OK


def _help(others: Together, token: Token) -> int:
    """Be one of several processes of a run, other than the first."""
    from studio.runs.working import help_out

    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the first one hears it, and says how it ends
    try:
        help_out(others.share(), token=token)
    except RuntimeError as error:  # most likely the first one is gone, and has said why
        print(f"process {others.rank} ended: {error}", file=sys.stderr)
        return FAILED
    return OK


def _folder(arguments: argparse.Namespace) -> Path:
    """The folder of the run that is meant, made where it is a new one."""
    from studio import runs
    from studio.runs import document

    target = Path(arguments.target).expanduser()
    asked = [name for name in ("data", "held_out", "prompt", "set") if getattr(arguments, name)]
    if (target / document.FILE).is_file():
        if asked:
            option = asked[0].replace("_", "-")
            raise InputError(
                f"--{option} changes a run that has begun.", f"Change {document.FILE} in its folder, or make a new run."
            )
        return target.resolve()
    if target.suffix in (".yaml", ".yml"):
        told = document.read(target)
        run, name = told.run, told.name
    else:
        run, name = _described(arguments), ""
    run = document.with_fields(run, map(_assignment, arguments.set))
    return runs.of(runs.create(run, name=arguments.name or name)).folder


def _assignment(text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text!r} sets nothing.", "Write FIELD=VALUE, rank=8 for example.")
    return field, value


def _described(arguments: argparse.Namespace) -> TrainingRun:
    from studio.loading import LoadPlan
    from studio.models import ModelRef, Precision
    from studio.training import DataSource, TrainingRun

    held = arguments.precision
    return TrainingRun(
        LoadPlan(ModelRef.parse(arguments.target), None if held == "auto" else Precision(held)),
        tuple(DataSource(name) for name in arguments.data),
        DataSource(arguments.held_out) if arguments.held_out else None,
        prompts=tuple(arguments.prompt),
    )


@contextmanager
def _gently(folder: Path) -> Iterator[None]:
    """A signal to end asks for a checkpoint first, a second one for the end at once."""
    from studio.runs.state import wish, wished
    from studio.training import Stop

    def ask() -> None:
        again = wished(folder) is not None
        wish(folder, Stop.NOW if again else Stop.CHECKPOINT)
        print("stopping at once" if again else "stopping after this step; again to stop at once", file=sys.stderr)

    with at_signals(ask):
        yield


@contextmanager
def at_signals(ask: Callable[[], None]) -> Iterator[None]:
    """Within it, a signal to end calls `ask` and ends nothing by itself."""
    before = [signal.signal(number, lambda *_: ask()) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _show_text(events: Iterator[RunEvent]) -> Any:
    """Each event in words on stderr; returns the last one."""
    from studio.training import Stopped

    said, event = "", None
    for event in events:
        if not isinstance(event, Stopped) and (words := in_words(event)) != said:
            print(said := words, file=sys.stderr, flush=True)
    return event


def _show_json(events: Iterator[RunEvent]) -> Any:
    """One event a line on stdout; returns the last one."""
    from studio.runs.journal import as_fields

    event = None
    for event in events:
        print(json.dumps(as_fields(event), ensure_ascii=False), flush=True)
    return event


def in_words(event: RunEvent) -> str:
    """An event as a line for a terminal."""
    from studio import runs, training

    match event:
        case Progress(phase, done, total):
            return f"{phase} {100 * done // total} %" if total else str(phase)
        case Waiting(ahead, who):
            return f"waiting for {who}; {ahead} before this one"
        case training.Warned(_, severity, message, hint):
            return f"{severity}: {message} {hint}"
        case runs.Failed(_, message, hint):
            return f"failed: {message} {hint}"
        case Finished(training.Learnt() as learnt):
            return f"finished: loss {learnt.loss:.4f} after {learnt.steps} steps"
    return _learning_in_words(event)


def _learning_in_words(event: RunEvent) -> str:
    from studio import training

    match event:
        case training.Began(step, total, rows, held_out, trainable, compute, device, processes):
            of = f"{rows:,} rows, {held_out:,} held out, {trainable:,} weights trained in {compute} on {device}"
            return f"step {step} of {total}: {of}{f' by {processes} processes' if processes > 1 else ''}"
        case training.Stepped():
            pace = f"{event.seconds:.2f} s, {event.tokens / max(event.seconds, 1e-9):,.0f} tokens/s"
            return f"step {event.step}/{event.total}  loss {event.loss:.4f}  {pace}  {lines.size(event.memory)}"
        case training.Evaluated(step, loss, best):
            return f"held out at {step}: loss {loss:.4f}{', the best so far' if best else ''}"
        case training.Sampled(_, prompt, reply):
            return lines.safe(f"{prompt!r}: {reply!r}")
        case training.Saved(_, folder, size):
            return f"saved {folder}, {lines.size(size)}"
    return type(event).__name__.lower()


def _runs(arguments: argparse.Namespace) -> int:
    from studio import runs

    if arguments.code:
        if not arguments.id:
            raise InputError("--code is of one run.", "Name it by its id, which runs alone lists.")
        print(runs.code(arguments.id), end="")
        return OK
    if arguments.id:
        run = runs.of(arguments.id)
        found: list[Any] = [runs.summary(run)]
    else:
        found = [runs.summary(each) if isinstance(each, runs.Run) else each for each in runs.listing()]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=2, default=str))
        return OK
    for each in found:
        print(lines.safe(_in_a_line(each)))
        if each.message:
            print(lines.safe(f"  {each.message} {each.hint}"))
    return OK


def _in_a_line(found: Any) -> str:
    from studio import runs

    if isinstance(found, runs.Broken):
        return f"{found.id}  damaged"
    steps = f"{found.step}/{found.total}" if found.total else ""
    loss = "" if found.loss is None else f"loss {found.loss:.4f}"
    left = "" if found.seconds_left is None else f"{found.seconds_left:,.0f} s left"
    words = (found.id, str(found.state), steps, loss, left, lines.size(found.bytes), found.name)
    return "  ".join(filter(None, words))
