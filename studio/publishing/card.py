"""The card of what is published: drawn from its record alone, so that no figure in it is anybody's guess."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from studio.hub import CardResult, compose_card
from studio.publishing.licences import UNKNOWN
from studio.publishing.picture import CURVE
from studio.publishing.record import Figure, Record
from studio.publishing.thing import Kind

_ABOUT = {
    Kind.ADAPTER: "A LoRA adapter for {base}: small files that change how it answers, without its weights.",
    Kind.MERGED: "{base} with an adapter merged into its weights: one model that needs nothing beside it.",
    Kind.QUANTIZED: "{base}, quantized: the same model in smaller numbers.",
    Kind.MODEL: "A model that was fine-tuned from {base}, every weight of it.",
    Kind.TOKENIZER: "A tokenizer, without a model.",
    Kind.RUN: "The record of a fine-tuning run on {base}: its settings, and everything that it said.",
}
_SHARES = ("exact_match", "accuracy")


def draw(kind: Kind, record: Record, *, licence: str, repo: str) -> str:
    """The card, as the text of README.md. `repo` is where it will be, `licence` what it is published under."""
    parts = [
        f"# {_plain(record.name)}",
        _about(kind, record),
        _section("Use", _use(kind, record, repo)),
        _section("How it was made", _made(record)),
        _section("What was measured", _measured(record)),
        _section("Before and after", _samples(record)),
        _section("Proof of the merge", _proof(record)),
        _section("Limits", "\n".join(f"- {line}" for line in _limits(kind, record, licence))),
    ]
    body = "\n\n".join(part for part in parts if part)
    results = tuple(_result(figure, record) for figure in record.figures) if record.measured else ()
    return compose_card(_metadata(kind, record, licence), results, record.name, body)


def _metadata(kind: Kind, record: Record, licence: str) -> dict[str, object]:
    base = record.base.repo
    of_a_model = kind not in (Kind.TOKENIZER, Kind.RUN)
    library = "peft" if kind is Kind.ADAPTER else "transformers"
    tags = ["transformers-studio"]
    tags += ["lora"] if kind is Kind.ADAPTER else []
    return {
        "license": licence,
        "base_model": base,
        "base_model_relation": kind.relation if base else "",
        "datasets": [each.name for each in record.datasets if each.on_hub],
        "language": list(record.base.languages),
        "library_name": library if kind is not Kind.RUN else "",
        "pipeline_tag": "text-generation" if of_a_model else "",
        "tags": tags,
    }


def _result(figure: Figure, record: Record) -> CardResult:
    source = next((each for each in record.datasets if each.name == figure.on), None)
    revision = source.revision if source and source.on_hub else ""
    return CardResult(figure.on, figure.metric, figure.name, round(figure.after, 6), revision=revision)


def _about(kind: Kind, record: Record) -> str:
    base = record.base
    named = f"[{base.repo}](https://huggingface.co/{base.repo})" if base.repo else _plain(base.called or "its base")
    return _ABOUT[kind].format(base=named)


# Use


def _use(kind: Kind, record: Record, repo: str) -> str:
    if kind is Kind.RUN:
        return (
            "`run.yaml` does the run again: `python -m studio train run.yaml`. `train.py` does it without the studio."
        )
    return f"```python\n{snippet(kind, record, repo)}\n```"


def snippet(kind: Kind, record: Record, repo: str) -> str:
    """Python that loads it from the Hub and has it answer."""
    base = record.base
    if kind is Kind.TOKENIZER:
        return (
            "from transformers import AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\nprint(tokenizer.tokenize("Hello there"))'
        )
    model, tokenizer = "AutoModelForCausalLM", repo
    lines = [f"from transformers import {model}, AutoTokenizer", ""]
    loaded = f'model = {model}.from_pretrained("{repo}")'
    if kind is Kind.ADAPTER:
        here = base.repo or f"./{base.called}"  # a copy of it, where it is not on the Hub
        tokenizer = repo if record.has_tokenizer else here
        lines = ["from peft import PeftModel", *lines]
        revision = f', revision="{base.revision}"' if base.repo and base.revision not in ("", "main") else ""
        loaded = (
            f'base = {model}.from_pretrained("{here}"{revision})\nmodel = PeftModel.from_pretrained(base, "{repo}")'
        )
    lines += [loaded, f'tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")']
    if record.has_template:
        lines += [
            'chat = [{"role": "user", "content": "What can you do?"}]',
            "prompt = tokenizer.apply_chat_template(",
            '    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
    else:
        lines += ['prompt = tokenizer("Hello", return_tensors="pt")']
    lines += ["reply = model.generate(**prompt, max_new_tokens=64)[0]"]
    return "\n".join([*lines, "print(tokenizer.decode(reply, skip_special_tokens=True))"])


# What is told of it


def _made(record: Record) -> str:
    rows = [(f"`{name}`", value) for name, value in record.settings]
    parts = []
    if record.datasets:
        names = (f"{_plain(each.name)}{f' at `{each.revision}`' if each.revision else ''}" for each in record.datasets)
        parts.append(f"It learnt from {', '.join(names)}.")
    if record.took:
        parts.append(_table(("What it took", ""), record.took))
    if rows:
        parts.append(_table(("Setting", "Value"), rows))
    if record.versions:
        parts.append("Made with " + ", ".join(f"{name} {version}" for name, version in record.versions) + ".")
    return "\n\n".join(parts)


def _measured(record: Record) -> str:
    parts = []
    if record.figures and not record.measured:
        parts.append("Measured with the adapter on its base, before the two were merged.")
    if record.figures:
        rows = [
            (
                figure.name,
                _plain(figure.on),
                _number(figure, figure.before),
                _number(figure, figure.after),
                f"{figure.of:,}" if figure.of else "",
            )
            for figure in record.figures
        ]
        parts.append(_table(("Figure", "On", "Before", "After", "Replies"), rows))
    if record.curve or record.held_out:
        parts.append(f"![Loss by step, learnt and held out]({CURVE})")
    return "\n\n".join(parts)


def _number(figure: Figure, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}".replace("%", " %") if figure.metric in _SHARES else f"{value:.4g}"


def _samples(record: Record) -> str:
    parts = []
    for each in record.samples:
        parts.append(f"**{_plain(each.prompt)}**")
        parts += [f"{label}:\n\n{_fenced(text)}" for label, text in (("Before", each.before), ("After", each.after))]
    return "\n\n".join(parts)


def _proof(record: Record) -> str:
    proof = record.proof
    if proof is None:
        return ""
    rows = [(check.name, check.state, check.words) for check in proof.checks]
    versions = ", ".join(f"{name} {version}" for name, version in proof.versions)
    told = f"The merged model was held against its base with the adapter, in {proof.precision}. {proof.covered}"
    table = _table(("Check", "Came out", "What was found"), rows)
    return f"{told}\n\n{table}\n\nRun with {versions}. All of it is in `proof.json`."


def _limits(kind: Kind, record: Record, licence: str) -> Iterator[str]:
    base = record.base
    if base.called and not base.repo:
        yield f"The base, {_plain(base.called)}, has no name on the Hub that is known here: a copy of it is needed."
    if licence == UNKNOWN:
        yield "Its base says no licence, so nobody but its authors can allow what is done with this."
    if record.sign:
        yield record.sign
    if kind is Kind.QUANTIZED:
        yield "Rounding to fewer bits costs quality; how much was not measured here."
    elif not record.figures and kind not in (Kind.TOKENIZER, Kind.RUN):
        yield "Nothing was measured beyond what is said above: how well it answers is not known."
    else:
        yield "The figures are of the rows and checks named here, on one seed, and say nothing of other uses."
    if kind not in (Kind.TOKENIZER, Kind.RUN):
        yield "It can be wrong, and it has what its base and its data have of prejudice."


# Markdown


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _plain(text: str) -> str:
    """A text in a line that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", re.sub(r"\s+", " ", text).strip())


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip()}\n{fence}"
