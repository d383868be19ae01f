"""Rules on putting something on the Hub."""

from __future__ import annotations

from collections.abc import Iterator

from studio.advice.rule import Advice
from studio.publishing import Contents, Kind, Thing


def on_publishing(thing: Thing, contents: Contents) -> list[Advice]:
    """What to know about what is published, beside what is refused."""
    return list(_template_missing(thing, contents))


def on_card() -> list[Advice]:
    """What to know about how a card is written."""
    return [
        Advice(
            "model-card-api",
            "note",
            "It is written with huggingface_hub.ModelCard and held to the Hub's rules. create_model_card of the Trainer"
            " of transformers is the old way: it knows of no relation to a base and checks nothing.",
            "huggingface_hub 2.4, transformers 5.23",
        )
    ]


def _template_missing(thing: Thing, contents: Contents) -> Iterator[Advice]:
    whole = thing.kind in (Kind.MERGED, Kind.MODEL, Kind.QUANTIZED)
    paths = {file.path for file in contents.files}
    if whole and "tokenizer.json" in paths and "chat_template.jinja" not in paths:
        yield Advice(
            "template-mismatch",
            "warning",
            "There is no chat template beside the tokenizer: whoever chats with it writes the turns in another way than"
            " it was taught.",
            "looked for in the folder: chat_template.jinja",
        )
