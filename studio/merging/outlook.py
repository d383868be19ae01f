"""What a merge will meet, looked at before it is begun: headers and small files, and the model without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from studio import adapters
from studio.adapters import Adapter, Layout, Updates
from studio.errors import InputError, Unsupported
from studio.merging.companions import companions
from studio.merging.composing import compose
from studio.merging.in_memory import dtype_for
from studio.merging.plan import MergePlan
from studio.merging.refusing import check_adapter, check_fit, reason_for_memory
from studio.models import Precision
from studio.tokenizer import Form, Message, encode, load_tokenizer, render

_ASKED = (Message("user", "Hello! What is 12 + 30?"), Message("assistant", "42."), Message("user", "Thanks,  Ann\n"))


@dataclass(frozen=True, slots=True)
class MergeOutlook:
    """A merge as it is about to be begun."""

    plan: MergePlan
    adapter: Adapter
    stored_as: str
    """`bitsandbytes` where the folder of the base holds it quantized, else empty."""
    learnt_on: Precision | None
    """How the base was quantized while the adapter learnt; None where it was not, or where nobody knows."""
    tied: tuple[str, ...]
    """Embedding and head, where they are one weight in the base; else nothing."""
    changed: tuple[str, ...]
    """Those of these two that the adapter changes."""
    why: str
    """Why it has to go by way of the memory; empty where it is streamed past it."""
    untied: bool
    """Whether embedding and head will be two weights in the merged model."""
    table_bytes: int
    """What a second one of them takes in the merged model."""
    ways: tuple[Form, ...]
    """One conversation as the base reads it and as the merged model will; nothing where one has no template."""


def outlook(plan: MergePlan, learnt_on: Precision | None = None) -> MergeOutlook:
    """Look at a merge; takes seconds. Raises what the merge itself would before it writes, but for numbers alone."""
    adapter = adapters.read(plan.adapter)
    check_adapter(adapter)
    weights = adapters.open_base(plan.base)
    layout = adapters.lay_out(plan.base, weights, dtype_for(plan, weights))
    fit = adapters.fit_to(adapter, weights, layout)
    check_fit(fit)
    tied = _tied(layout)
    changed = tuple(name for name in tied if name in _touched(adapter))
    why = reason_for_memory(adapter, fit, layout)
    untied = bool(changed) if why else compose(adapter, fit, layout, weights, Updates(adapter), plan.dtype).untied
    table = layout.parameters[layout.embedding]
    return MergeOutlook(
        plan=plan,
        adapter=adapter,
        stored_as=weights.method,
        learnt_on=learnt_on or plan.precision,
        tied=tied,
        changed=changed,
        why=why,
        untied=untied,
        table_bytes=prod(table.shape) * table.dtype.itemsize,
        ways=_ways(plan.base, plan.adapter),
    )


def _tied(layout: Layout) -> tuple[str, ...]:
    pairs = {*layout.tied.items()}
    one = (layout.head, layout.embedding) in pairs or (layout.embedding, layout.head) in pairs
    return (layout.embedding, layout.head) if one else ()


def _touched(adapter: Adapter) -> set[str]:
    """The weights that an adapter changes, as the model calls them."""
    paths = [f"{module.path}.weight" for module in adapter.modules] + [f"{some.path}.weight" for some in adapter.tokens]
    return {*paths, *(whole.name for whole in adapter.whole)}


def _ways(base: Path, adapter: Path) -> tuple[Form, ...]:
    """The conversation by the files of the base, and by those that the merged model will have."""
    files = companions(base, adapter)
    if not any(adapter in file.parents for file in files.values()):
        return ()
    own = load_tokenizer(base)
    beside = [name for name, file in files.items() if adapter in file.parents and "chat_template" not in name]
    taught = load_tokenizer(adapter) if beside else own
    template = _template(files) or taught.chat_template
    forms = []
    try:
        for way, tokenizer, source in (("the base", own, own.chat_template), ("the merged model", taught, template)):
            text = render(tokenizer, _ASKED, template=source)
            ids = encode(tokenizer, text, special_tokens=False)
            forms.append(Form(way, str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)), tuple(ids)))
    except (InputError, Unsupported):
        return ()  # a model that holds no conversation, or not this one, reads none in two ways
    return tuple(forms)


def _template(files: dict[str, Path]) -> str:
    file = files.get("chat_template.jinja")
    return file.read_text(encoding="utf-8") if file else ""
