"""Finding a model on the Hub: the search, why the studio cannot use what it lists, and the card of one model."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import parse_qs, quote, unquote, urlsplit

from studio import fields
from studio.errors import AccessDenied, Damaged, HubError, InputError, NotFound, Offline
from studio.hub.client import CALL_SECONDS, Token, ask, authorization, endpoint, explained, reach
from studio.hub.repos import license_of
from studio.hub.translation import OFFLINE_HINT
from studio.models import ModelRef

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

Task = Literal["text-generation", "any"]
Sort = Literal["downloads", "likes", "lastModified", "trendingScore"]
Gated = Literal["any", "open only"]

_MOST_PAGES = 3
_SHOWN = [
    *("downloads", "likes", "lastModified", "private", "gated"),
    *("pipeline_tag", "library_name", "tags", "safetensors"),
]
_ADDRESS = re.compile(
    r"(?:https?://|(?=(?:www\.)?(?:huggingface\.co|hf\.co)/))(?:www\.)?(?P<host>[^/?#]+)/?(?P<path>[^?#]*)", re.I
)
_VIEWS = {"tree", "blob", "resolve", "raw", "commit", "commits"}
_OTHER_PAGES = {
    *("models", "datasets", "spaces", "docs", "papers", "collections", "blog", "tasks", "posts", "learn"),
    *("settings", "organizations", "pricing", "join", "login"),
}
# Not for transformers, although the Hub gives some of these models its tag as well.
_FOREIGN = {"diffusers", "sentence-transformers", "mlx", "timm", "ctranslate2", "exllamav2", "exllamav3", "setfit"}
# Their checkpoints are those of transformers, or the formats say more than the library.
_KIN = {"", "transformers", "vllm", "sglang", "unsloth", "mistral-common", "gguf", "llama.cpp", "peft"}
_FORMATS = {
    "gguf": "GGUF",
    "pytorch": "pickle files",
    "onnx": "ONNX",
    "tf": "TensorFlow",
    "jax": "JAX",
    "openvino": "OpenVINO",
    "coreml": "Core ML",
    "tflite": "TFLite",
}
_QUANTIZED = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "mxfp4": "MXFP4",
    "bitsandbytes": "bitsandbytes",
    "hqq": "HQQ",
    "compressed-tensors": "compressed-tensors",
    "aqlm": "AQLM",
    "torchao": "torchao",
    "quanto": "quanto",
}
_CARD_BYTES = 1_000_000  # the results of benchmarks in front of the text alone can take several hundred kB
_TEXT_CHARS = 100_000
_METADATA_CHARS = 50_000
_RESULTS = re.compile(r"^model-index:.*?(?=^[^\s#-]|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to look for on the Hub. An empty text lists whatever comes first by `sort`."""

    text: str = field(default="", metadata={"help": "Part of a name, or owner/name, or the address of its page"})
    task: Task = field(default="text-generation", metadata={"help": "What it is made for", "choices": get_args(Task)})
    sort: Sort = field(default="downloads", metadata={"help": "What comes first", "choices": get_args(Sort)})
    license: str | None = field(default=None, metadata={"help": "As the Hub writes it, for example apache-2.0"})
    gated: Gated = field(
        default="any", metadata={"help": "Whether to list models whose terms come first", "choices": get_args(Gated)}
    )
    max_parameters: int | None = field(
        default=None, metadata={"help": "No model with more weights than this", "min": 1, "max": 10**15}
    )
    usable_only: bool = field(default=False, metadata={"help": "Leave out what the studio cannot use"})
    limit: int = field(default=20, metadata={"help": "How many to list", "min": 1, "max": 100})

    def __post_init__(self) -> None:
        fields.check(self)
        if not isinstance(self.text, str) or len(self.text) > 300 or not self.text.isprintable():
            raise InputError("That is not a text to search for.", "Write part of a name, on one line.")
        if self.license is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,60}", str(self.license)):
            raise InputError(f"{self.license!r} is not a licence.", "Write it as the Hub does, for example apache-2.0.")
        _named(self.text)


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model as a search lists it. What the Hub does not say is None."""

    repo: str
    downloads: int
    likes: int
    updated: datetime | None
    private: bool
    gated: bool
    task: str | None
    library: str | None
    license: str | None
    parameters: int | None
    why_not: str | None = None
    """Why the studio cannot use it, as far as the search shows."""
    remark: str | None = None
    """What to know before it is used."""
    revision: str = "main"

    @property
    def ref(self) -> ModelRef:
        """Its name, as the other calls take it."""
        return ModelRef("hub", self.repo, self.revision)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the authors of a model say about it: the text, and what stands in front of it for machines."""

    text: str = ""
    license: str | None = None
    languages: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    cut: bool = False
    """Whether the text goes on."""


def search(query: SearchQuery, *, token: Token) -> list[ModelSummary]:
    """Models that fit the query, those that cannot be used with the reason.

    A model that the text names as owner/name or by its address comes first, whatever else the query says.
    """
    ref = _named(query.text)
    exact = _exact(ref, token=token) if ref else None
    found = {exact.repo: exact} if exact else {}
    text = ref.name if ref else query.text.strip()
    pages = _pages(_params(query, text), token=token, what=f"the search for {text!r}" if text else "the list of models")
    while len(found) < query.limit and (page := next(pages, None)) is not None:
        for row in page:
            if _fits(row, query) and len(found) < query.limit:
                found.setdefault(row.repo, row)
    return list(found.values())


def card(ref: ModelRef, *, token: Token) -> ModelCard:
    """The card of a model on the Hub or in a folder; an empty one where there is none."""
    return read_card(Path(ref.name)) if ref.where == "folder" else _card(_fetch(ref, token=token))


def read_card(folder: Path) -> ModelCard:
    """The card of a model in a folder; an empty one where there is none."""
    file = folder / "README.md"
    try:
        if not file.is_file():
            return ModelCard()
        with file.open("rb") as opened:
            return _card(opened.read(_CARD_BYTES))
    except OSError as error:
        raise Damaged(f"{file} cannot be read: {error.strerror or error}.", "Check who may read it.") from error


def _named(text: str) -> ModelRef | None:
    """The one model that a text names, or None for one that is only to be searched for."""
    text = text.strip()
    if address := _ADDRESS.match(text):
        return _on_page(text, address["host"].lower(), [unquote(part) for part in address["path"].split("/") if part])
    try:
        ref = ModelRef.parse(text)
    except InputError:
        return None
    if ref.where == "folder":
        raise InputError(f"{text} is a folder, and the Hub is not asked about those.", "Open it as a local folder.")
    return ref if "/" in ref.name else None


def _on_page(text: str, host: str, path: list[str]) -> ModelRef:
    """The model that a page of the Hub is about."""
    known = {"huggingface.co", "hf.co", urlsplit(endpoint()).netloc.lower()}
    if host not in known or not path or path[0] in _OTHER_PAGES:
        raise InputError(f"{text} is not the page of a model on the Hub.", "Copy the address of a model's page.")
    parts = 1 if len(path) == 1 or path[1] in _VIEWS else 2
    view = path[parts:]
    revision = view[1] if len(view) > 1 and view[0] in _VIEWS else "main"
    # Not ModelRef.parse of the address: there, whatever follows tree/ is the revision, folders too.
    return ModelRef.parse(f"{'/'.join(path[:parts])}@{revision}")


def _exact(ref: ModelRef, *, token: Token) -> ModelSummary | None:
    """The row of one model, if whoever holds the token may see it."""
    path = f"models/{quote(ref.name)}/revision/{quote(ref.revision, safe='')}"
    try:
        said = ask(path, token=token, what=str(ref), params={"expand": _SHOWN})
    except (NotFound, AccessDenied):
        return None
    with explained(str(ref)):
        (row,) = _rows([said.json()], what=str(ref), revision=ref.revision)
    return row


def _params(query: SearchQuery, text: str) -> dict[str, Any]:
    """The query in the Hub's words, as far as it has words for it."""
    tags = [f"license:{query.license.lower()}"] if query.license else []
    params = {
        "search": text,
        "filter": [*tags, "safetensors"] if query.usable_only else tags,
        "pipeline_tag": "" if query.task == "any" else query.task,
        "gated": "false" if query.gated == "open only" else "",
        "num_parameters": f"max:{query.max_parameters}" if query.max_parameters else "",
    }
    return {name: value for name, value in params.items() if value} | {
        "sort": query.sort,
        "limit": query.limit,
        "expand": _SHOWN,
    }


def _pages(params: dict[str, Any], *, token: Token, what: str) -> Iterator[list[ModelSummary]]:
    """What the Hub lists, page by page, but no more than a few."""
    for _ in range(_MOST_PAGES):
        response = ask("models", token=token, what=what, params=params)
        with explained(what):
            rows = _rows(response.json(), what=what)
        yield rows
        following = response.links.get("next", {}).get("url")
        if not following:
            return
        # Only its query is followed: the token goes to the Hub that was asked, wherever the link leads.
        params = parse_qs(urlsplit(following).query)


def _rows(said: Any, *, what: str, revision: str = "main") -> list[ModelSummary]:
    from huggingface_hub import ModelInfo

    try:
        return [_summary(ModelInfo(**item), revision) for item in _listed(said)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError(
            f"What answered for {what} is not the Hub, or speaks another language than it.",
            "A proxy or a mirror may be in the way: check HF_ENDPOINT.",
        ) from error


def _listed(said: Any) -> list[Any]:
    if not isinstance(said, list):
        raise TypeError("not a list of models")
    return said


def _fits(row: ModelSummary, query: SearchQuery) -> bool:
    """Whether a row is what was asked for, also where the Hub did not filter."""
    most = query.max_parameters
    return all(
        (
            query.task in ("any", row.task),
            query.license is None or query.license.lower() == (row.license or "").lower(),
            query.gated == "any" or not row.gated,
            most is None or (row.parameters is not None and row.parameters <= most),
            not query.usable_only or row.why_not is None,
        )
    )


def _summary(info: ModelInfo, revision: str) -> ModelSummary:
    tags = list(info.tags or ())
    return ModelSummary(
        repo=info.id,
        downloads=info.downloads or 0,
        likes=info.likes or 0,
        updated=info.last_modified,
        private=bool(info.private),
        gated=bool(info.gated),
        task=info.pipeline_tag,
        library=info.library_name,
        license=license_of(info),
        parameters=info.safetensors.total if info.safetensors else None,
        why_not=_why_not((info.library_name or "").lower(), info.pipeline_tag, tags),
        remark="; ".join(_remarks(bool(info.gated), tags)) or None,
        revision=revision,
    )


def _why_not(library: str, task: str | None, tags: list[str]) -> str | None:
    """The first reason against a model. Formats are tags too, which the Hub sets by the files."""
    base = next((tag.removeprefix("base_model:adapter:") for tag in tags if tag.startswith("base_model:adapter:")), "")
    if base or library == "peft":
        return f"an adapter, not a whole model: it goes on top of {base or 'the model that it was made for'}"
    if library in _FOREIGN or (library not in _KIN and "transformers" not in tags):
        return f"made for {library}, not for transformers"
    if "safetensors" not in tags:
        others = [name for tag, name in _FORMATS.items() if tag in tags]
        return f"{' and '.join(others)} only" if others else "no safetensors weights"
    if task not in (None, "text-generation"):
        return f"made for {task}, not for text generation"
    return None


def _remarks(gated: bool, tags: list[str]) -> Iterator[str]:
    if gated:
        yield "gated: accept its terms on the Hub first"
    methods = [name for tag, name in _QUANTIZED.items() if tag in tags]
    if methods or any(tag in ("4-bit", "8-bit") or tag.startswith("base_model:quantized:") for tag in tags):
        yield f"already quantized{': ' if methods else ''}{', '.join(methods)}"
    if "custom_code" in tags:
        # No reason against it: models that transformers has learned since, such as Phi-3, keep this tag.
        yield "brings its own code, which the studio does not run: works only if transformers knows its architecture"


def _fetch(ref: ModelRef, *, token: Token) -> bytes:
    """The beginning of README.md on the Hub; nothing where there is none."""
    known = reach()
    if not known.reachable:
        raise Offline(f"The Hub at {known.endpoint} cannot be reached: {known.why}.", OFFLINE_HINT)
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import get_session, hf_raise_for_status

    url = f"{endpoint()}/{quote(ref.name)}/resolve/{quote(ref.revision, safe='')}/README.md"
    headers = {"user-agent": "transformers-studio", **authorization(token)}
    until = time.monotonic() + CALL_SECONDS
    content = bytearray()
    with (
        explained(str(ref)),
        get_session().stream("GET", url, headers=headers, timeout=CALL_SECONDS, follow_redirects=True) as response,
    ):
        try:
            hf_raise_for_status(response)
        except EntryNotFoundError:
            return b""
        for piece in response.iter_bytes():
            content += piece
            if len(content) >= _CARD_BYTES:
                break
            if time.monotonic() > until:
                raise TimeoutError("its card takes too long")
    return bytes(content[:_CARD_BYTES])


def _card(content: bytes) -> ModelCard:
    """A card out of the beginning of a README."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = content.decode("utf-8-sig", errors="replace")
    block = REGEX_YAML_BLOCK.search(text)
    said = _metadata(block[2]) if block else {}
    text = text[block.end() :] if block else text
    licenses = _words(said.get("license"))
    if licenses == ("other",):
        licenses = _words(said.get("license_name")) or licenses
    return ModelCard(
        text=text[:_TEXT_CHARS],
        license=", ".join(licenses) or None,
        # YAML takes the code of Norwegian for a "no".
        languages=_words("no" if said.get("language") is False else said.get("language"), instead="no"),
        base_models=_words(said.get("base_model")),
        datasets=_words(said.get("datasets")),
        tags=_words(said.get("tags")),
        cut=len(text) > _TEXT_CHARS or len(content) >= _CARD_BYTES,
    )


def _metadata(block: str) -> dict[str, Any]:
    """What stands in front of a card; nothing where it is broken."""
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import RepoCard

    # The client's parser reads some 150 kB a second, and nobody looks at the results of benchmarks here.
    block = _RESULTS.sub("", block)
    if len(block) > _METADATA_CHARS:
        return {}
    try:
        said: dict[str, Any] = vars(RepoCard(f"---\n{block}\n---\n").data)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return said


def _words(value: Any, *, instead: str | None = None) -> tuple[str, ...]:
    """One word or a list of them, whatever else an author has put there; `instead` stands for a False in a list."""
    values = value if isinstance(value, list) else [value]
    said = [instead if one is False else one for one in values]
    return tuple(str(one) for one in said if isinstance(one, str | int | float) and not isinstance(one, bool) and one)
