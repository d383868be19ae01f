"""Model cards: written by the Hub's own classes, and held to the Hub's rules without asking it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

RELATIONS = ("adapter", "finetune", "merge", "quantized")
_LICENCE = re.compile(
    r"""apache-2\.0 | mit | (?:bigscience-|creativeml-)?openrail(?:-m|\+\+)? | bigscience-bloom-rail-1\.0
    | bigcode-openrail-m | afl-3\.0 | artistic-2\.0 | bsl-1\.0 | bsd(?:-2-clause|-3-clause(?:-clear)?)? | c-uda | cc
    | cc0-1\.0 | cc-by-(?:2\.0|2\.5|3\.0|4\.0) | cc-by-sa-[34]\.0 | cc-by-nc-[234]\.0 | cc-by-nd-4\.0
    | cc-by-nc-nd-[34]\.0 | cc-by-nc-sa-[234]\.0 | cdla-sharing-1\.0 | cdla-permissive-[12]\.0 | wtfpl | ecl-2\.0
    | epl-[12]\.0 | etalab-2\.0 | eupl-1\.[12] | agpl-3\.0 | gfdl | gpl(?:-[23]\.0)? | lgpl(?:-2\.1|-3\.0|-lr)? | isc
    | h-research | intel-research | lppl-1\.3c | ms-pl | apple-ascl | apple-amlr | mpl-2\.0 | odc-by | odbl
    | openmdw-1\.0 | osl-3\.0 | postgresql | ofl-1\.1 | ncsa | unlicense | zlib | pddl | deepfloyd-if-license
    | fair-noncommercial-research-license | llama2 | llama3(?:\.[123])? | llama4 | grok2-community | gemma | unknown
    | other""",
    re.VERBOSE,
)
"""Those that the Hub knows."""
_ID = re.compile(r"(?:[\w][\w.-]{0,95}/)?[\w][\w.-]{0,95}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*|code|multilingual")
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Result:
    """One figure of the model index."""

    dataset: str
    """By its name on the Hub where it has one, or what else it is called."""
    metric: str
    """As the Hub knows it: exact_match, perplexity, loss."""
    name: str
    value: float
    split: str = ""
    revision: str = ""


def compose(metadata: Mapping[str, Any], results: tuple[Result, ...], name: str, body: str) -> str:
    """The text of a card. `metadata` are fields of the Hub, `results` its figures, `name` that of the model in them."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    figures = [
        EvalResult(
            task_type="text-generation",
            task_name="Text Generation",
            dataset_type=each.dataset,
            dataset_name=each.dataset,
            dataset_split=each.split or None,
            dataset_revision=each.revision or None,
            metric_type=each.metric,
            metric_value=each.value,
            metric_name=each.name,
        )
        for each in results
    ]
    given = {key: value for key, value in metadata.items() if value}
    data = ModelCardData(**given, **({"eval_results": figures, "model_name": name} if figures else {}))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"))


def licence_of(text: str) -> str:
    """The licence that a sound card names; empty where it names none."""
    from huggingface_hub import ModelCard

    return str(ModelCard(text).data.license or "")


def faults(text: str) -> tuple[str, ...]:
    """What the Hub would not take of a card, or not understand; nothing where it is sound."""
    if len(text.encode()) > _MOST_BYTES:
        return (f"The card has more than {_MOST_BYTES:,} bytes.",)
    front = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", text, re.DOTALL)
    if front is None:
        return ("The card does not begin with metadata between two lines of ---.",)
    import yaml  # type: ignore[import-untyped]

    try:
        said = yaml.safe_load(front[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        return (f"The metadata is no YAML{f', in line {where.line + 2}' if where else ''}.",)
    if not isinstance(said, dict):
        return ("The metadata holds no fields.",)
    body = text[front.end() :].strip()
    return (*_of_metadata(said), *_of_index(text), *(() if body else ("There is nothing below the metadata.",)))


def _of_metadata(said: dict[str, Any]) -> Iterator[str]:
    yield from _of_licence(said)
    yield from _of_base(said)
    for language in _listed(said.get("language")):
        if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
            yield f"language is {language!r}, which is no code such as en."
    for field in ("library_name", "pipeline_tag"):
        if field in said and not (isinstance(said[field], str) and re.fullmatch(r"[\w.-]+", said[field])):
            yield f"{field} is {said[field]!r}, which is no word."
    if any(not isinstance(tag, str) or not tag.strip() for tag in _listed(said.get("tags"))):
        yield "One of the tags is no text."


def _of_licence(said: dict[str, Any]) -> Iterator[str]:
    licence = said.get("license")
    if licence is not None and not knows_licence(str(licence)):
        yield f"license is {licence!r}, which the Hub does not know: write other, with license_name and license_link."
    if licence == "other" and not said.get("license_name"):
        yield "license is other, and license_name does not say which."


def _of_base(said: dict[str, Any]) -> Iterator[str]:
    for field in ("base_model", "datasets"):
        for name in _listed(said.get(field)):
            if not isinstance(name, str) or not _ID.fullmatch(name) or "--" in name or ".." in name:
                yield f"{field} names {name!r}, which is no name on the Hub."
    relation = said.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        yield f"base_model_relation is {relation!r}: there are {', '.join(RELATIONS)}."
    if relation is not None and not said.get("base_model"):
        yield "There is a base_model_relation and no base_model."


def knows_licence(name: str) -> bool:
    """Whether the Hub knows a licence by this name."""
    return _LICENCE.fullmatch(name) is not None


def _of_index(text: str) -> Iterator[str]:
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(text).data
    except (ValueError, KeyError, TypeError) as error:
        yield f"The model-index is not as the Hub reads it: {str(error).splitlines()[0]}"
        return
    for result in data.eval_results or ():
        if isinstance(result.metric_value, bool) or not isinstance(result.metric_value, int | float | str):
            yield f"{result.metric_name} has a value that is no number: {result.metric_value!r}."


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
