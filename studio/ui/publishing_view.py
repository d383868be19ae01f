"""Who publishes what, and what became of it, as HTML with every foreign text escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

from studio import advice
from studio.errors import StudioError
from studio.events import Phase, Progress, Retrying
from studio.hub import Account, Uploaded
from studio.jobs.publishing import Offer
from studio.runs import State, Told
from studio.ui import sheet, wording
from studio.uploads import Upload

_STATES = {
    State.NEW: "not begun",
    State.QUEUED: "at work",
    State.PREPARING: "at work",
    State.RUNNING: "at work",
    State.STOPPING: "stopping",
    State.STOPPED: "stopped",
    State.FINISHED: "on the Hub",
    State.FAILED: "failed",
    State.DIED: "broke off",
}
_KINDS = {
    "write": "Its token may read and write",
    "read": "Its token may read alone",
    "fine-grained": "Its token may write to what was chosen for it",
    "sign-in": "Signed in for this page, to repositories that it makes",
}


def nothing() -> str:
    """What to do where there is nothing to publish."""
    head = sheet.headline(
        "Nothing has been made yet",
        "Fine-tune, merge, keep a quantized model or train a tokenizer: what comes of it is listed here. A folder works"
        " too.",
        good=True,
    )
    return f'<div class="sheet">{head}</div>'


def visitors() -> str:
    """The same where visitors share the machine."""
    head = sheet.headline(
        "Nothing of yours is here",
        "Visitors make nothing that lasts on this machine. Duplicate the Space, or run the studio on your own.",
        good=True,
    )
    return f'<div class="sheet">{head}</div>'


def who(account: Account | None, how: str) -> str:
    """Who is signed in, and what that allows; where nobody is, `how` to."""
    if account is None:
        return f'<div class="sheet">{sheet.headline("Nobody is signed in", how, good=False)}</div>'
    may = f"{_KINDS[account.kind]}: {', '.join(account.writable)}." if account.writable else f"{_KINDS[account.kind]}."
    head = sheet.headline(f"Signed in as {account.name}", may, good=bool(account.writable))
    return f'<div class="sheet">{head}</div>'


def offered(found: Offer) -> str:
    """What would be sent, file by file, and what stays here."""
    files = found.contents.files
    total = sum(file.size for file in files)
    head = sheet.headline(
        f"{found.thing.kind.capitalize()}, {wording.size(total)} in {len(files) + 1} files",
        f"Under {found.licence}. Looked through for secrets, pickles and broken weights: none found.",
        good=True,
    )
    rows = [("README.md", "the card"), *((file.path, wording.size(file.size)) for file in files)]
    tables = sheet.folded("The files", sheet.table(("File", "Size"), rows))
    if found.contents.left_out:
        tables += sheet.folded("What stays here", sheet.table(("File", "Why"), found.contents.left_out))
    cautions = "".join(wording.caution(words) for words in found.cautions)
    rules = "".join(map(sheet.advice, advice.on_publishing(found.thing, found.contents)))
    return f'<div class="sheet">{head}{cautions}{tables}{rules}</div>'


def about_cards() -> str:
    """How a card is written."""
    return "".join(map(sheet.advice, advice.on_card()))


def card_state(faults: tuple[str, ...]) -> str:
    """Whether the Hub takes a card."""
    if not faults:
        return wording.done("The Hub takes this card.")
    return wording.problem(StudioError(faults[0], "Change the card, or draw it anew."))


# An upload


def going_on(upload: Upload, told: Sequence[Told]) -> str:
    """Where an upload is; once it is finished, what is on the Hub."""
    if upload.uploaded:
        return _finished(upload.uploaded)
    standing = upload.standing
    title = f"{upload.order.repo}: {_STATES[standing.state]}"
    if standing.state.is_alive:
        head = sheet.headline(title, "It goes on when this page is closed.", good=True)
        return f'<div class="sheet">{head}{_doing(told)}</div>'
    if standing.message:
        return f'<div class="sheet">{wording.problem(StudioError(standing.message, standing.hint))}</div>'
    words = "Nothing is half there. What has arrived is not sent a second time."
    return f'<div class="sheet">{sheet.headline(title, words, good=standing.state is not State.DIED)}</div>'


def _doing(told: Sequence[Told]) -> str:
    last = told[-1] if told else None
    if last and isinstance(last.event, Retrying):
        return wording.note(f"{last.event.why} Trying again in {last.event.seconds:.0f} s…", bar=None)
    if last and isinstance(last.event, Progress):
        began = next((each.at for each in told if _is_of(each, last.event.phase)), last.at)
        return wording.progress(last.event, seconds=last.at - began)
    return wording.note("Looking the folder over…", bar=None)


def _is_of(told: Told, phase: Phase) -> bool:
    return isinstance(told.event, Progress) and told.event.phase is phase


def _finished(done: Uploaded) -> str:
    seen = "Only you see it" if done.private else "Everybody sees it"
    what = "A pull request is open" if done.pull_request else "It is on the Hub"
    head = sheet.headline(
        f"{what}: {done.repo}", f"{seen}. Every file was read back and is what is here, by size and hash.", good=True
    )
    numbers = [
        (f"{done.files}", "files"),
        (wording.size(done.bytes), "in all"),
        (wording.duration(done.seconds), "with reading back"),
        (done.commit[:7], "the commit"),
    ]
    address = html.escape(done.url, quote=True)
    link = f'<p class="place"><a href="{address}" target="_blank" rel="noopener">{address}</a></p>'
    return f'<div class="sheet" data-state="finished">{head}{wording.facts(numbers)}{link}</div>'


def listed(uploads: Sequence[Upload]) -> str:
    """What a person has published from here."""
    rows = [
        (
            each.order.repo,
            _STATES[each.standing.state],
            each.order.folder.name if each.order.folder.name != "adapter" else "an adapter",
            wording.size(each.uploaded.bytes) if each.uploaded else "",
            each.made.replace("T", " ").partition("+")[0],
        )
        for each in uploads
    ]
    if not rows:
        return ""
    return f'<div class="sheet">{sheet.table(("Repository", "State", "What", "Size", "Begun, UTC"), rows)}</div>'
