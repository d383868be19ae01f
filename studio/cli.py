"""The same studio without a browser: `python -m studio generate`, `python -m studio doctor`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from studio.errors import InputError, StudioError
from studio.events import Finished, Progress, TextDelta, Waiting

OK, FAILED = 0, 1  # argparse exits with 2 for wrong usage


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 for a StudioError, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except StudioError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output, `head` say, has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studio", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="stream a reply of a model"))
    doctor = commands.add_parser("doctor", help="say what this machine can do and what is wrong with it")
    doctor.set_defaults(run=_doctor)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="machine-readable: JSON on stdout, messages on stderr")
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    from studio.generation import GenerationSettings
    from studio.models import Precision

    parser.set_defaults(run=_generate)
    parser.add_argument("model", help="a Hub id with an optional @revision, a folder, or starter")
    parser.add_argument("--prompt", required=True, help="what the person says; - reads it from stdin")
    parser.add_argument("--system", default="", help="the system prompt")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as a text, without the chat template")
    parser.add_argument("--precision", choices=["auto", *Precision], default="auto", help="how to hold the weights")
    parser.add_argument("--adapter", type=Path, help="folder of a LoRA adapter to put on top")
    for field in dataclasses.fields(GenerationSettings):
        _add_setting(parser, field)


def _add_setting(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    """One option from one field of a settings class."""
    name, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
    if isinstance(field.default, bool):
        parser.add_argument(name, action="store_true", default=field.default, help=text)
    else:
        kind: Callable[[str], Any] = float if isinstance(field.default, float) else int
        parser.add_argument(name, type=kind, default=field.default, help=f"{text} (default: {field.default})")


def _generate(arguments: argparse.Namespace) -> int:
    from studio import compute, hub, jobs
    from studio.generation import GenerationSettings, Prompt
    from studio.loading import LoadPlan, best_precision
    from studio.models import ModelRef, Precision
    from studio.tokenizer import Message

    ref = ModelRef.parse(arguments.model)
    settings = GenerationSettings(
        **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(GenerationSettings)}
    )
    text = _read_stdin() if arguments.prompt == "-" else arguments.prompt
    system = (Message("system", arguments.system),) if arguments.system else ()
    prompt = Prompt(text=text) if arguments.raw else Prompt((*system, Message("user", text)))
    held = arguments.precision
    precision = best_precision(compute.machine())[0] if held == "auto" else Precision(held)
    plan = LoadPlan(ref, precision, arguments.adapter)
    show = _show_json if arguments.json else _show_text
    with closing(jobs.generate(jobs.GenerationRequest(plan, prompt, settings), token=hub.machine_token())) as events:
        show(events)
    return OK


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError("What came from stdin is not text.", "Save it as UTF-8.") from error


def _show_text(events: Iterator[Any]) -> None:
    """The reply on stdout as it comes, what happens meanwhile on stderr."""
    said = ""
    for event in events:
        if isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
        elif isinstance(event, Progress | Waiting) and (words := _in_words(event)) != said:
            print(said := words, file=sys.stderr)
        elif isinstance(event, Finished):
            print()
            reply = event.result
            numbers = f"{reply.tokens} tokens, {reply.tokens_per_second:.0f} tokens/s, seed {reply.seed}, {reply.stop}"
            print(numbers, file=sys.stderr)


def _in_words(event: Progress | Waiting) -> str:
    if isinstance(event, Waiting):
        return f"waiting for the model: {event.busy_with}"
    share = f" {100 * event.done // event.total} %" if event.total and event.phase == "download" else ""
    return f"{event.phase}{share}"


_NAMES = {Progress: "progress", Waiting: "waiting", TextDelta: "text", Finished: "finished"}


def _show_json(events: Iterator[Any]) -> None:
    """One event a line. A heartbeat that says nothing new is left out."""
    before = ""
    for event in events:
        line = json.dumps({"event": _NAMES[type(event)], **_plain(event)}, ensure_ascii=False)
        if line != before:
            print(before := line, flush=True)


def _plain(event: Any) -> dict[str, Any]:
    plain = dataclasses.asdict(event)
    if isinstance(event, Finished) and hasattr(event.result, "tokens_per_second"):
        plain["result"]["tokens_per_second"] = event.result.tokens_per_second
    return plain


def _doctor(arguments: argparse.Namespace) -> int:
    from studio.doctor import Verdict, examine

    checks = []
    for check in examine():
        checks.append(check)
        if not arguments.json:
            print(f"{_SIGNS[check.verdict]} {check.name:<16} {check.found}", flush=True)
            if check.fix:
                print(f"{'':<6} {'':<16} {check.fix}")
    if arguments.json:
        print(json.dumps({"checks": [dataclasses.asdict(check) for check in checks]}, ensure_ascii=False, indent=2))
    return FAILED if any(check.verdict is Verdict.WRONG for check in checks) else OK


_SIGNS = {"fine": "fine  ", "note": "note  ", "wrong": "WRONG "}
