"""The commands: their options, and what each does."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.cli import following, lines, merging, previewing, publishing, training
from studio.errors import InputError, StudioError
from studio.events import Finished, Progress, TextDelta, Waiting

if TYPE_CHECKING:
    from studio.jobs import Answer, Tokenization

_ABOUT = "Transformers Studio on the command line: the same jobs, words and fields as on the page."
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
    parser = argparse.ArgumentParser(prog="python -m studio", description=_ABOUT)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="stream a reply of a model"))
    _add_tokenize(commands.add_parser("tokenize", help="say what a model reads in a text"))
    _add_inspect(commands.add_parser("inspect", help="say what a checkpoint holds, without loading it"))
    _add_load(commands.add_parser("load", help="load a model, measure what it takes, and let go of it again"))
    _add_estimate(commands.add_parser("estimate", help="say what a model takes in memory, without loading it"))
    training.add_train(commands.add_parser("train", help="fine-tune a model, or go on with a run"))
    training.add_runs(commands.add_parser("runs", help="list the runs, or tell of one"))
    _add_merge(commands.add_parser("merge", help="merge an adapter into its base, and prove it"))
    _add_push(commands.add_parser("push", help="publish a folder on the Hub, with a card"))
    _add_preview(commands.add_parser("preview", help="show a row of a dataset as a model would learn it"))
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


def _add_tokenize(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_tokenize)
    parser.add_argument("model", help="a Hub id with an optional @revision, a folder, or starter")
    parser.add_argument("--text", required=True, help="what is read; - reads it from stdin")
    parser.add_argument("--bare", action="store_true", help="without the special tokens around a text")
    parser.add_argument("--stages", action="store_true", help="show the stages of the tokenizer too")


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


def _add_estimate(parser: argparse.ArgumentParser) -> None:
    from studio.memory import Question

    parser.set_defaults(run=_estimate)
    parser.add_argument("model", help="a Hub id with an optional @revision, a folder, starter, or 8B, 32 layers")
    parser.add_argument("--dry", action="store_true", help="carry out the real step on tensors without content too")
    parser.add_argument("--link", action="store_true", help="print the question as the query of a link, and no answer")
    for field in dataclasses.fields(Question):
        if field.name != "model":
            _add_setting(parser, field)


def _add_preview(parser: argparse.ArgumentParser) -> None:
    from studio.dataset import Preparation

    previewing.add_options(parser)
    for field in dataclasses.fields(Preparation):
        _add_setting(parser, field)


def _add_push(parser: argparse.ArgumentParser) -> None:
    publishing.add_options(parser)
    for field in publishing.fields_of_order():
        _add_setting(parser, field)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    merging.add_options(parser)
    for field in merging.fields_of_order():
        _add_setting(parser, field)


def _add_setting(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    """One option from one field of a settings class."""
    name, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
    if isinstance(field.default, bool):
        action = argparse.BooleanOptionalAction if field.default else "store_true"
        parser.add_argument(name, action=action, default=field.default, help=text)
    elif isinstance(field.default, str):
        # As plain words: in a message of argparse a member of an enumeration looks like code.
        words = [str(word) for word in field.metadata.get("choices", ())] or None
        default = str(field.default)
        parser.add_argument(name, choices=words, default=default, help=f"{text} (default: {default or 'none'})")
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


def _tokenize(arguments: argparse.Namespace) -> int:
    from studio import hub, jobs
    from studio.models import ModelRef

    text = _read_stdin() if arguments.text == "-" else arguments.text
    work = jobs.tokenize_text(
        ModelRef.parse(arguments.model), text, special_tokens=not arguments.bare, token=hub.machine_token()
    )
    with closing(work) as events:
        found: Tokenization = following.result(events)
    if arguments.json:
        # In ASCII: a token may hold what no terminal can encode.
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return OK
    for line in lines.tokenized(found, stages=arguments.stages):
        print(lines.safe(line))
    return OK


def _inspect(arguments: argparse.Namespace) -> int:
    """Ends with 1 where something would keep the model from loading, as the doctor does where something is wrong."""
    from studio import hub, jobs
    from studio.models import ModelRef

    ref, compared = ModelRef.parse(arguments.model), arguments.against_architecture
    with closing(jobs.inspect(ref, token=hub.machine_token(), against_architecture=compared)) as events:
        found = following.result(events)
    if arguments.json:
        # In ASCII: the name of a tensor may hold what no terminal can encode.
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        print("\n".join(map(lines.safe, lines.inspected(found, tensors=arguments.tensors))))
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
            resident = following.result(events)
        if arguments.keep:
            with closing(jobs.keep(plan, arguments.keep, token=token)) as events:
                kept = following.result(events)
    finally:
        list(jobs.unload())
    if arguments.json:
        said = {"resident": dataclasses.asdict(resident), "kept": dataclasses.asdict(kept) if kept else None}
        print(json.dumps(said, indent=2, default=str))
        return OK
    print("\n".join(lines.loaded(resident, report=arguments.report)))
    if kept:
        print(f"kept in {kept.folder}: {lines.size(kept.after)}, before {lines.size(kept.before)};", end=" ")
        print(f"{kept.tensors} tensors read back, the same bit for bit")
    return OK


def _estimate(arguments: argparse.Namespace) -> int:
    from studio import hub, jobs, memory

    fields = dataclasses.fields(memory.Question)
    question = memory.Question(**{field.name: getattr(arguments, field.name) for field in fields})
    if arguments.link:
        print(json.dumps({"query": question.query}) if arguments.json else question.query)
        return OK
    with closing(jobs.estimate(question, token=hub.machine_token(), dry=arguments.dry)) as events:
        found: Answer = following.result(events)
    if arguments.json:
        # What is derived and not declared goes in by hand.
        said = {"peak": found.estimate.peak, "query": question.query, **dataclasses.asdict(found)}
        print(json.dumps(said, indent=2))
        return OK
    for line in (*lines.estimated(found), *lines.remembered(jobs.record().accuracies)):
        print(lines.safe(line))
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
        elif isinstance(event, Progress | Waiting) and (words := following.in_words(event)) != said:
            print(said := words, file=sys.stderr)
        elif isinstance(event, Finished):
            print()
            reply = event.result
            numbers = f"{reply.tokens} tokens, {reply.tokens_per_second:.0f} tokens/s, seed {reply.seed}, {reply.stop}"
            print(numbers, file=sys.stderr)


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
