"""The same studio without a browser: `python -m studio generate`, `python -m studio doctor`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import InputError, StudioError
from studio.events import Finished, Progress, TextDelta, Waiting

if TYPE_CHECKING:
    from studio.inspection import Inspection
    from studio.loading import Resident

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
    _add_inspect(commands.add_parser("inspect", help="say what a checkpoint holds, without loading it"))
    _add_load(commands.add_parser("load", help="load a model, measure what it takes, and let go of it again"))
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


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_inspect)
    parser.add_argument("model", help="a Hub id with an optional @revision, a folder, or starter")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument(
        "--against-architecture",
        action="store_true",
        help="compare the tensors with those that transformers would build, which takes some seconds",
    )


def _add_load(parser: argparse.ArgumentParser) -> None:
    from studio.models import Precision

    parser.set_defaults(run=_load)
    parser.add_argument("model", help="a Hub id with an optional @revision, a folder, or starter")
    parser.add_argument("--precision", choices=["auto", *Precision], default="auto", help="how to hold the weights")
    parser.add_argument("--report", action="store_true", help="tell of dtypes, devices and modules too")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="write the model as it is in memory to a new folder"
    )


def _add_setting(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    """One option from one field of a settings class."""
    name, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
    if isinstance(field.default, bool):
        parser.add_argument(name, action="store_true", default=field.default, help=text)
    else:
        kind: Callable[[str], Any] = float if isinstance(field.default, float) else int
        parser.add_argument(name, type=kind, default=field.default, help=f"{text} (default: {field.default})")


def _generate(arguments: argparse.Namespace) -> int:
    from studio import hub, jobs
    from studio.generation import GenerationSettings, Prompt
    from studio.loading import LoadPlan
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
    plan = LoadPlan(ref, None if held == "auto" else Precision(held), arguments.adapter)
    show = _show_json if arguments.json else _show_text
    with closing(jobs.generate(jobs.GenerationRequest(plan, prompt, settings), token=hub.machine_token())) as events:
        show(events)
    return OK


def _inspect(arguments: argparse.Namespace) -> int:
    """Ends with 1 where something would keep the model from loading, as the doctor does where something is wrong."""
    from studio import hub, jobs
    from studio.models import ModelRef

    ref, compared = ModelRef.parse(arguments.model), arguments.against_architecture
    with closing(jobs.inspect(ref, token=hub.machine_token(), against_architecture=compared)) as events:
        found = _result(events)
    if arguments.json:
        # In ASCII: the name of a tensor may hold what no terminal can encode.
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        print("\n".join(map(_safe, _inspected(found, tensors=arguments.tensors))))
    return FAILED if any(finding.severity == "error" for finding in found.findings) else OK


def _load(arguments: argparse.Namespace) -> int:
    from studio import hub, jobs, keeping
    from studio.loading import LoadPlan
    from studio.models import ModelRef, Precision

    if arguments.keep:
        keeping.check_vacant(arguments.keep)  # here too: loading first would be time lost
    token, held, kept = hub.machine_token(), arguments.precision, None
    plan = LoadPlan(ModelRef.parse(arguments.model), None if held == "auto" else Precision(held))
    try:
        with closing(jobs.load(plan, token=token)) as events:
            resident = _result(events)
        if arguments.keep:
            with closing(jobs.keep(plan, arguments.keep, token=token)) as events:
                kept = _result(events)
    finally:
        list(jobs.unload())
    if arguments.json:
        said = {"resident": dataclasses.asdict(resident), "kept": dataclasses.asdict(kept) if kept else None}
        print(json.dumps(said, indent=2, default=str))
        return OK
    print("\n".join(_loaded(resident, report=arguments.report)))
    if kept:
        print(f"kept in {kept.folder}: {_size(kept.after)}, before {_size(kept.before)};", end=" ")
        print(f"{kept.tensors} tensors read back, the same bit for bit")
    return OK


def _loaded(resident: Resident, *, report: bool) -> Iterator[str]:
    """A model that was in memory, line by line."""
    from studio import memory

    yield f"{resident.plan.model} in {resident.plan.precision}"
    yield f"{resident.parameters:,} weights, loaded in {resident.seconds:.1f} s"
    off = 100 * (resident.weights - resident.estimated) / max(1, resident.estimated)
    yield f"measured {_size(resident.weights)}, estimated {_size(resident.estimated)}, {off:+.2f} %"
    if not report:
        return
    for title, sizes in (("Dtypes", memory.by_dtype), ("Devices", memory.by_device)):
        yield from _table(title, ([name, _size(bytes_)] for name, bytes_ in sizes(resident.modules).items()))
    kinds: dict[tuple[str, str, str], list[int]] = {}
    for module in resident.modules:
        kinds.setdefault((module.kind, module.dtype, module.note), []).append(module.bytes)
    rows = ([of[0], _size(sum(sizes)), f"{len(sizes)}x", *of[1:]] for of, sizes in kinds.items())
    yield from _table("Modules", rows)


def _result(events: Iterator[Any]) -> Any:
    """What a job ends with; what it does meanwhile is said on stderr."""
    said = ""
    for event in events:
        if isinstance(event, Finished):
            return event.result
        if (words := _in_words(event)) != said:
            print(said := words, file=sys.stderr)
    raise AssertionError("a job ends with Finished or raises")


def _inspected(found: Inspection, *, tensors: bool) -> Iterator[str]:
    """An inspection line by line."""
    facts, how, text = found.architecture, found.quantization, found.tokenizer
    yield found.model + (f" at {found.commit}" if found.commit else "")
    told = [facts.class_name or facts.model_type or "no architecture is named"]
    numbers = {"layers": facts.layers, "hidden": facts.hidden, "heads": facts.heads, "kv heads": facts.kv_heads}
    numbers |= {"tokens": facts.vocabulary, "context": facts.context}
    yield ", ".join([*told, *(f"{value:,} {name}" for name, value in numbers.items() if value)])
    yield f"{found.parameters:,} weights, {_size(found.bytes)}" + (f", quantized with {how.method}" if how else "")
    yield f"tokenizer: {('fast' if text.fast else 'slow') if text.present else 'none'}, chat template: " + (
        text.chat_template or "none"
    )
    yield from _table("Files", ([file.name, _size(file.bytes), file.kind] for file in found.files))
    yield from _table("Dtypes", ([of.dtype, _size(of.bytes), f"{of.weights:,} weights"] for of in found.dtypes))
    groups = (
        [
            group.name,
            _size(group.bytes) + (" each" if len(group.layers) > 1 else ""),
            f"{group.parameters:,} weights",
            " ".join(group.dtypes),
        ]
        for group in found.groups
    )
    yield from _table("Groups", groups)
    listed = ([of.name, _size(of.bytes), of.dtype, str(list(of.shape)), of.file] for of in found.tensors)
    yield from _table("Tensors", listed if tensors else ())
    if found.findings:
        yield from ("", "Findings")
    for finding in found.findings:
        yield f"  {finding.severity:<8} {finding.message}"
        yield f"  {'':<8} {finding.hint}"


def _table(title: str, rows: Iterable[list[str]]) -> Iterator[str]:
    """Aligned columns under a title; nothing where there are no rows."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if rows:
        yield from ("", title)
    for name, size, *rest in rows:
        cells = [cell.ljust(width) for cell, width in zip(rest, widths[2:], strict=True)]
        yield "  ".join(["", name.ljust(widths[0]), size.rjust(widths[1]), *cells]).rstrip()


def _size(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:,.2f} {unit}"
    return f"{size} bytes"


def _safe(line: str) -> str:
    """The line without what could steer a terminal: names and dtypes are whatever the files say."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


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
