"""The page's public API: the words and fields of the command line, over HTTP."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr

from studio import hub, jobs, keeping, merges, merging, runs, uploads
from studio.dataset import Preparation, mapping_of
from studio.errors import InputError
from studio.events import Finished, TextDelta
from studio.fields import from_query
from studio.generation import GenerationSettings, Prompt
from studio.jobs import GenerationRequest
from studio.jobs.publishing import check_card, offer
from studio.loading import AUTO, LoadPlan
from studio.memory import Question
from studio.merges import MergeOrder
from studio.merges.adapters import named
from studio.merges.order import with_fields
from studio.models import DatasetRef, ModelRef
from studio.runs.plain import as_plain
from studio.settings import Settings
from studio.tokenizer import Message
from studio.training import DataSource, TrainingRun
from studio.ui.handlers import MODEL_QUEUE, errors_as_dialogs, hub_token
from studio.ui.model_strip import plan_for
from studio.uploads.order import with_fields as upload_fields

LONGEST_TEXT = 100_000
"""Characters in one call: each may be a token with a dozen facts."""


def public_api() -> None:
    """Declare the endpoints; call it inside the page."""
    gr.api(generate, api_name="generate", **MODEL_QUEUE)
    gr.api(inspect, api_name="inspect")
    gr.api(estimate, api_name="estimate", concurrency_id="estimate", concurrency_limit=2)
    gr.api(train, api_name="train", concurrency_id="runs", concurrency_limit=4)
    gr.api(list_runs, api_name="runs", concurrency_id="runs", concurrency_limit=4)
    gr.api(merge, api_name="merge", concurrency_id="runs", concurrency_limit=4)
    gr.api(list_merges, api_name="merges", concurrency_id="runs", concurrency_limit=4)
    gr.api(push, api_name="push", concurrency_id="runs", concurrency_limit=4)
    gr.api(list_uploads, api_name="uploads", concurrency_id="runs", concurrency_limit=4)
    gr.api(preview, api_name="preview", concurrency_id="preview", concurrency_limit=2)
    gr.api(tokenize, api_name="tokenize", concurrency_id="text", concurrency_limit=8)


def generate(
    model: str,
    prompt: str,
    system: str = "",
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    seed: int | None = None,
) -> Iterator[str]:
    """Stream a model's reply to a prompt; every update is all of the reply so far.

    Args:
        model: starter, or a Hub id with an optional @revision
        prompt: what the person says
        system: the system prompt; empty leaves it out
        max_new_tokens: longest reply, in tokens
        temperature: lower is more certain; 0 always takes the likeliest token
        seed: the same seed gives the same reply
    """
    text = ""
    with errors_as_dialogs():
        sampling = {"greedy": True} if temperature == 0 else {"temperature": temperature}
        settings = GenerationSettings(max_new_tokens=max_new_tokens, seed=seed, **sampling)
        messages = (*([Message("system", system)] if system.strip() else []), Message("user", prompt))
        request = GenerationRequest(plan_for(model, AUTO), Prompt(messages), settings)
        with closing(jobs.generate(request, token=hub_token())) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    text += event.text
                    yield text
                elif isinstance(event, Finished):
                    yield event.result.text


def inspect(model: str) -> dict[str, Any]:
    """Say what a checkpoint holds without loading or downloading it: files, tensors, dtypes, and what is wrong with it.

    Args:
        model: starter, or a Hub id with an optional @revision
    """
    with errors_as_dialogs(), closing(jobs.inspect(ModelRef.parse(model), token=hub_token())) as events:
        found = [event.result for event in events if isinstance(event, Finished)]
    return dataclasses.asdict(found[0])


def estimate(model: str, task: str = "train", device: str = "", more: str = "", dry: bool = False) -> dict[str, Any]:
    """Say what a model would take in memory to generate or to be trained: the peak by part, which devices it fits, the
    largest context and batch, and the smallest changes that make it fit. Downloads no weights.

    `more` may have precision, double_quant, context, batch, reply, cache_dtype, cache, offload, method, rank, targets,
    dropout, adapter_dtype, kbit_preparation, optimizer, checkpointing, attention, loss, packing, accumulation,
    autocast, devices, strategy and profile.

    Args:
        model: starter, a Hub id with an optional @revision, or sizes such as 8B, 32 layers
        task: train or generate
        device: which device "make it fit" is for, t4 or a100-80 for example, or this; empty for none
        more: the rest of the question as the query of a link: precision=nf4&context=4096&batch=2
        dry: carry out the real step on tensors without content too, which takes seconds and is more exact
    """
    with errors_as_dialogs():
        said = urlencode({"model": model, "task": task, "device": device})
        question = Question.from_query(f"{said}&{more.removeprefix('?')}")
        with closing(jobs.estimate(question, token=hub_token(), dry=dry)) as events:
            found = [event.result for event in events if isinstance(event, Finished)]
    answer = found[0]
    return {"peak": answer.estimate.peak, "query": question.query, **dataclasses.asdict(answer)}


def train(model: str, data: str, more: str = "", held_out: str = "", name: str = "") -> str:
    """Begin a fine-tuning run in a process of its own and return its id; `/runs` tells how it stands.

    `more` may have every field of the settings and of the preparation of a run, and precision.

    Args:
        model: starter, or a Hub id with an optional @revision
        data: persona, orders, or a Hub id of a dataset
        more: what is not as usual, as the query of a link: rank=8&epochs=1&limit=512&precision=nf4
        held_out: a dataset to measure with; empty holds some rows of the other out
        name: what to call the run
    """
    with errors_as_dialogs():
        measure = DataSource(held_out) if held_out.strip() else None
        run = TrainingRun(LoadPlan(ModelRef.parse(model)), (DataSource(data),), measure)
        run = runs.with_fields(run, parse_qsl(more.removeprefix("?"), keep_blank_values=True))
        id_ = runs.create(run, name=name)
        runs.start(id_, token=hub_token())
    return id_


def list_runs(id: str = "") -> list[dict[str, Any]]:  # the word of the API
    """Say how the fine-tuning runs stand: state, step, losses, the time that is left. The newest comes first.

    Args:
        id: that of one run; empty for all
    """
    with errors_as_dialogs():
        found = [runs.of(id)] if id else [run for run in runs.listing() if isinstance(run, runs.Run)]
        return [dataclasses.asdict(runs.summary(run)) for run in found]


def merge(model: str, adapter: str, name: str, more: str = "") -> str:
    """Begin to merge an adapter into its base, and to prove it, in a process of its own; `/merges` tells how it stands.

    The merged model is kept under its name in the workspace. Returns the id of the merge. `more` may have dtype,
    shard_size, prove, and, for an adapter that learnt on a quantized base, onto and precision.

    Args:
        model: the base: starter, or a Hub id with an optional @revision
        adapter: the id of a run, or a Hub id with an optional @revision
        name: what to call the merged model
        more: what is not as usual, as the query of a link: dtype=fp32&onto=dequantized&precision=nf4
    """
    with errors_as_dialogs():
        ref, run = named(adapter)
        place = keeping.place(Settings.from_env().workspace, name)
        order = MergeOrder(ModelRef.parse(model), ref, place, run=run)
        order = with_fields(order, parse_qsl(more.removeprefix("?"), keep_blank_values=True))
        id_ = merges.create(order)
        merges.start(id_, token=hub_token())
    return id_


def list_merges(id: str = "") -> list[dict[str, Any]]:  # the word of the API
    """Say how the merges stand: state, what came of each, and every check of its proof. The newest comes first.

    Args:
        id: that of one merge; empty for all
    """
    with errors_as_dialogs():
        return [_told(each) for each in ([merges.of(id)] if id else merges.listing())]


def push(folder: str, repo: str, private: bool = True, more: str = "") -> str:
    """Begin to publish what a run, a merge or a kept model has made, with a card that is drawn from its record, in a
    process of its own; `/uploads` tells how it stands. It is signed by the login of the machine. Returns its id.

    `more` may have licence, base, branch and pull_request.

    Args:
        folder: where it is on the machine
        repo: owner/name, or a name of the signed-in person's own; it is made if it is not there
        private: whether nobody else sees it, of a repository that is made
        more: what is not as usual, as the query of a link: licence=mit&base=owner/name&pull_request=true
    """
    with errors_as_dialogs():
        token = hub_token()
        who = hub.account(token)
        owner = hub.namespace_of(repo, who)
        who.check_may_write(owner)
        place = Path(folder).expanduser().absolute()
        order = uploads.UploadOrder(place, f"{owner}/{repo.rpartition('/')[2]}", who.name, private)
        order = upload_fields(order, parse_qsl(more.removeprefix("?"), keep_blank_values=True))
        found = offer(order.folder, order.repo, licence=order.licence, base=order.base, token=token)
        check_card(found.card, found, token=token)
        id_ = uploads.create(order, found.card)
        uploads.start(id_, token=token)
    return id_


def list_uploads(id: str = "") -> list[dict[str, Any]]:  # the word of the API
    """Say how the uploads of the signed-in person stand, and what is on the Hub. The newest comes first.

    Args:
        id: that of one upload; empty for all
    """
    with errors_as_dialogs():
        theirs = uploads.listing(hub.account(hub_token()).name)
        return [
            {
                "id": each.id,
                "made": each.made,
                "order": as_plain(each.order),
                **as_plain(each.standing),
                "uploaded": as_plain(each.uploaded) if each.uploaded else None,
            }
            for each in theirs
            if id in ("", each.id)
        ]


def _told(found: merges.Merge) -> dict[str, Any]:
    outcome = found.outcome
    proof = merging.read_proof(outcome.folder) if outcome else None
    return {
        "id": found.id,
        "made": found.made,
        "order": as_plain(found.order),
        **as_plain(found.standing),
        "outcome": as_plain(outcome) if outcome else None,
        "proof": as_plain(proof) if proof else None,
    }


def preview(
    data: str, model: str, row: int = 1, format: str = "", columns: str = "", settings: str = ""
) -> dict[str, Any]:
    """Show a row of a dataset as a model would learn it: the text, its tokens, which of them are trained on, where the
    limit cuts, and why it would be left out. Downloads the dataset and the tokenizer, never the weights.

    `settings` may have trained, limit, too_long, held_out, most_rows and seed.

    Args:
        data: persona, orders, or a Hub id with an optional @revision and :split
        model: starter, or a Hub id with an optional @revision
        row: which row, from 1
        format: messages, sharegpt, alpaca, prompt-completion or text; empty to recognise the columns
        columns: which column is what in that format: prompt=question, completion=answer
        settings: how rows are made into examples, as the query of a link: limit=512&trained=last
    """
    with errors_as_dialogs():
        work = jobs.preview(
            DatasetRef.parse(data),
            ModelRef.parse(model),
            from_query(Preparation, settings),
            row=row,
            mapping=mapping_of(format, columns),
            token=hub_token(),
        )
        with closing(work) as events:
            found = [event.result for event in events if isinstance(event, Finished)]
    return dataclasses.asdict(found[0])


def tokenize(model: str, text: str, special_tokens: bool = True) -> dict[str, Any]:
    """Say what a model reads in a text: its tokens with ids, bytes and positions, every stage of the tokenizer, and the
    text as the first message of a chat. Downloads the tokenizer alone, never the weights.

    Args:
        model: starter, or a Hub id with an optional @revision
        text: what is read, at most 100,000 characters
        special_tokens: whether the tokens that the tokenizer puts around a text are among them
    """
    with errors_as_dialogs():
        if len(text) > LONGEST_TEXT:
            raise InputError(
                f"The text has {len(text):,} characters.", f"Send at most {LONGEST_TEXT:,}, or use the command line."
            )
        work = jobs.tokenize_text(ModelRef.parse(model), text, special_tokens=special_tokens, token=hub_token())
        with closing(work) as events:
            found = [event.result for event in events if isinstance(event, Finished)]
    return dataclasses.asdict(found[0])
