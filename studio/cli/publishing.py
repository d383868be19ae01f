"""The command that publishes a folder on the Hub."""

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
from studio.cli.following import in_words
from studio.cli.training import OK, STOPPED, at_signals
from studio.errors import InputError
from studio.events import Finished, Progress, Retrying

if TYPE_CHECKING:
    from studio.hub import Token
    from studio.jobs.publishing import Offer
    from studio.runs import RunEvent


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that are not fields of an UploadOrder."""
    parser.set_defaults(run=_push)
    parser.add_argument("target", metavar="dir", help="the folder of an adapter, a model, a tokenizer or a run")
    parser.add_argument("repo", nargs="?", help="where it goes: owner/name, or a name of your own")
    parser.add_argument("--card", type=Path, metavar="FILE", help="a card of your own in place of the drawn one")
    parser.add_argument("--dry", action="store_true", help="say what would be published, and send nothing")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # the lock, from the process that starts it


def _push(arguments: argparse.Namespace) -> int:
    from studio import hub
    from studio.uploads.starting import begin
    from studio.uploads.working import carry_out

    hub.keep_tokens_out()
    if arguments.worker is not None:
        folder, lock = Path(arguments.target), arguments.worker
        token: Token = json.loads(sys.stdin.readline())["token"]
    else:
        token = hub.machine_token()
        made = _folder(arguments, token)
        if made is None:
            return OK
        folder = made
        lock = begin(folder, token=token)
    show = _show_json if arguments.json else _show_text
    with _gently(folder), closing(carry_out(folder, lock, token=token)) as events:
        last = show(events)
    if not isinstance(last, Finished):
        print("stopped; what has arrived is not sent again the next time", file=sys.stderr)
        return STOPPED
    if not arguments.json:
        print(last.result.url)
    return OK


def _folder(arguments: argparse.Namespace, token: Token) -> Path | None:
    """The folder of the upload that is meant, made where it is a new one; None where nothing is to be sent."""
    from studio import hub, uploads
    from studio.jobs.publishing import check_card, offer
    from studio.uploads import UploadOrder, order

    target = Path(arguments.target).expanduser()
    if (target / order.FILE).is_file():
        return target.resolve()
    if not arguments.repo:
        raise InputError("The repository is missing.", "Write: python -m studio push DIR OWNER/NAME.")
    who = hub.account(token)
    owner = hub.namespace_of(arguments.repo, who)
    who.check_may_write(owner)
    repo = f"{owner}/{arguments.repo.rpartition('/')[2]}"
    wishes = {field.name: getattr(arguments, field.name) for field in fields_of_order()}
    wanted = UploadOrder(target.absolute(), repo, who.name, **wishes)
    found = offer(wanted.folder, repo, licence=wanted.licence, base=wanted.base, token=token)
    card = arguments.card.read_text(encoding="utf-8") if arguments.card else found.card
    check_card(card, found, token=token)
    if arguments.dry:
        _show_offer(found, card, who.name, as_json=arguments.json)
        return None
    for caution in found.cautions:
        print(lines.safe(caution), file=sys.stderr)
    return uploads.of(uploads.create(wanted, card)).folder


def _show_offer(found: Offer, card: str, owner: str, *, as_json: bool) -> None:
    if as_json:
        said = {
            "kind": found.thing.kind,
            "as": owner,
            "licence": found.licence,
            "files": [{"path": file.path, "size": file.size} for file in found.contents.files],
            "left_out": dict(found.contents.left_out),
            "cautions": found.cautions,
            "card": card,
        }
        print(json.dumps(said, indent=2))
        return
    rows = [[file.path, lines.size(file.size)] for file in found.contents.files]
    for line in lines.table(f"{found.thing.kind.capitalize()}, as {owner}, under {found.licence}", rows):
        print(lines.safe(line))
    for path, why in found.contents.left_out:
        print(lines.safe(f"not {path}: {why}"))
    for caution in found.cautions:
        print(lines.safe(caution))
    print(f"\n{lines.safe(card)}")


@contextmanager
def _gently(folder: Path) -> Iterator[None]:
    """A signal to end lets nothing half be left."""
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
        words = ""
        if isinstance(event, Progress):
            words = in_words(event)
        elif isinstance(event, Retrying):
            words = f"{event.why} Again in {event.seconds:.0f} s"
        if words not in ("", said):
            print(said := words, file=sys.stderr, flush=True)
    return event


def _show_json(events: Iterator[RunEvent]) -> Any:
    """One event a line on stdout; returns the last one."""
    from studio.runs.journal import as_fields

    event = None
    for event in events:
        print(json.dumps(as_fields(event), ensure_ascii=False), flush=True)
    return event


def fields_of_order() -> list[dataclasses.Field[Any]]:
    """The fields of an order that are options by themselves."""
    from studio.uploads import UploadOrder

    return [field for field in dataclasses.fields(UploadOrder) if field.metadata]
