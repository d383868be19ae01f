"""Events, numbers and errors in the words of the page. All of it is HTML with every foreign text escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from studio.errors import StudioError
from studio.events import Phase, Progress, Waiting
from studio.generation import Reply, StopReason
from studio.loading import Resident
from studio.models import ModelRef

_PHASES = {
    Phase.RESOLVE: "Asking the Hub which files there are",
    Phase.DOWNLOAD: "Downloading",
    Phase.OPEN: "Opening the tokenizer",
    Phase.CONVERT: "Converting the weights to safetensors",
    Phase.WARM_UP: "Starting PyTorch and Transformers",
    Phase.MAKE_ROOM: "Letting go of the model before",
    Phase.READ: "Reading the weights into memory",
    Phase.QUANTIZE: "Reading and quantizing the weights",
    Phase.CHECK: "Looking for damaged weights",
    Phase.RENDER: "Rendering the conversation",
    Phase.SEARCH: "Going through the vocabulary",
    Phase.READ_ROWS: "Reading the rows",
    Phase.COUNT: "Counting the tokens of each row",
    Phase.PREPARE: "Making examples of the rows",
    Phase.EXPORT: "Writing the GGUF file",
    Phase.FACTOR: "Taking the updates apart",
    Phase.MERGE: "Merging the adapter into its base",
    Phase.SAVE: "Writing the weights",
    Phase.MEASURE: "Measuring how well the model reads",
    Phase.ASK: "Asking the model",
    Phase.GATHER: "Collecting the texts",
    Phase.COUNT_WORDS: "Counting the words of the texts",
    Phase.LEARN: "Computing the vocabulary",
    Phase.TRAIN: "Training the model",
    Phase.REHEARSE: "Carrying out the step on tensors without content",
    Phase.COMPARE: "Comparing the tokenizers",
    Phase.ATTACH: "Putting the adapter on the model",
    Phase.HASH: "Reading the files",
    Phase.UPLOAD: "Uploading",
    Phase.COMPARE_FILES: "Comparing what the Hub has with what is here",
    Phase.PREFILL: "The model reads the prompt",
    Phase.DECODE: "The model writes",
}
_STOPS = {
    StopReason.END: "ended by itself",
    StopReason.LENGTH: "stopped at the longest reply you allow: press Continue for more",
    StopReason.CONTEXT: "the context is full: start a new chat, or remove turns",
}


def phase(which: Phase) -> str:
    """What is being done in a phase."""
    return _PHASES[which]


def model(ref: ModelRef) -> str:
    """A model by name; a commit by its first seven digits, as git does."""
    is_commit = len(ref.revision) == 40 and not ref.revision.strip("0123456789abcdef")
    return f"{ref.name}@{ref.revision[:7]}" if is_commit else str(ref)


def place(path: Path) -> str:
    """Where something is on the disk, as HTML: from the folder that the studio was started in, where it is in there."""
    here = Path.cwd()
    return html.escape(str(path.relative_to(here) if path.is_relative_to(here) else path))


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a digit in front: 7.9 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def count(number: float) -> str:
    """How many, in the unit that people say it in: 26.9 K, 3.9 M, 7.6 B."""
    for unit in ("", " K", " M"):
        if number < 999.5:
            return f"{number:.0f}" if not unit else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.2f} B"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3 min 20 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def progress(event: Progress | Waiting, *, seconds: float = 0.0) -> str:
    """One line with a bar. `seconds` is how long this phase has run, for the rate and the time that remains."""
    if isinstance(event, Waiting):
        others = f" and {event.ahead - 1} more in line" if event.ahead > 1 else ""
        return note(f"Waiting: somebody else is {event.busy_with} for {duration(event.seconds)}{others}.", bar=None)
    words = _PHASES[event.phase]
    if event.phase in (Phase.DOWNLOAD, Phase.UPLOAD) and event.total:
        words += f" {size(event.done)} of {size(event.total)}{_rate(event, seconds)}"
    elif event.phase is Phase.DECODE and event.done:
        words += f" · {event.done:,} tokens so far"
    bar = event.done / event.total if event.total else None
    return note(f"{words}…", bar=bar)


def _rate(event: Progress, seconds: float) -> str:
    if seconds < 1 or not event.done or event.total is None:
        return ""
    rate = event.done / seconds
    return f" · {size(rate)}/s · {duration((event.total - event.done) / rate)} left"


def note(words: str, *, bar: float | None = None) -> str:
    """A quiet line about what is going on; `bar` from 0 to 1, None where the end is not known."""
    value = "" if bar is None else f' value="{bar:.3f}"'
    return (
        f'<div class="note" role="status"><progress{value} aria-label="Progress"></progress>{html.escape(words)}</div>'
    )


def done(words: str) -> str:
    """A quiet line about what has happened."""
    return f'<div class="note" role="status">{html.escape(words)}</div>'


def caution(words: str) -> str:
    """A line about something that works and is worth knowing."""
    return f'<div class="caution" role="status">{html.escape(words)}</div>'


def facts(told: Sequence[tuple[str, str]]) -> str:
    """Numbers in a row, each with a word on what it is."""
    cells = "".join(f"<span><b>{html.escape(value)}</b> {html.escape(label)}</span>" for value, label in told)
    return f'<div class="facts" role="status">{cells}</div>'


def problem(error: StudioError) -> str:
    """What happened and what to do next; it stays until the next action."""
    return (
        f'<div class="problem" role="alert"><strong>{html.escape(error.message)}</strong>'
        f"<span>{html.escape(error.hint)}</span></div>"
    )


def reply_facts(reply: Reply) -> str:
    """The numbers of one reply, each with a word on what it is."""
    used = reply.prompt_tokens + reply.tokens
    facts = [
        (f"{reply.tokens:,}", "tokens"),
        (f"{reply.tokens_per_second:.0f}", "tokens/s") if reply.tokens_per_second else ("–", "tokens/s"),
        (
            duration(reply.first_token_seconds)
            if reply.first_token_seconds >= 1
            else f"{reply.first_token_seconds * 1000:.0f} ms",
            "to the first token",
        ),
        (f"{reply.prompt_tokens:,}", "prompt tokens"),
        (f"{used:,}" + (f" of {reply.context:,}" if reply.context else ""), "context used"),
        (str(reply.seed), "seed"),
    ]
    cells = "".join(f"<span><b>{html.escape(value)}</b> {label}</span>" for value, label in facts)
    return f'<div class="facts" role="status">{cells}<span class="stop">{_STOPS[reply.stop]}</span></div>'


def resident_facts(resident: Resident) -> str:
    """A model in memory, in one line."""
    return (
        f"{model(resident.plan.model)} is ready: {count(resident.parameters)} parameters in {resident.plan.precision}, "
        f"{size(resident.weights)}, loaded in {duration(resident.seconds)}."
    )
