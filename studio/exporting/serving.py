"""What a model writes, to the token, and programs that hold a deployment of it to that."""

from __future__ import annotations

import shlex
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import fields
from studio.errors import InputError
from studio.events import Finished, Progress
from studio.exporting.greedy import Answer, reply, scores
from studio.exporting.snippets import RUNTIMES, program
from studio.generation import GenerationSettings, generation_config
from studio.loading import LoadedModel, LoadPlan, load
from studio.models import ModelRef, Precision
from studio.tokenizer import Message, encode, render
from studio.tokenizer.conversation import as_variables

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {Precision.FP32: "float32", Precision.BF16: "bfloat16", Precision.FP16: "float16"}
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens")


@dataclass(frozen=True, slots=True)
class ServePlan:
    """A model folder, and what is to be said to it: a conversation, or a text to continue."""

    folder: Path
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    tokens: int = field(
        default=32, metadata={"help": "That the model writes at most; 32 tell models apart", "min": 1, "max": 512}
    )
    precision: Precision = field(
        default=Precision.FP32,
        metadata={
            "help": "What it is computed in, here and there: fp32 leaves the least room for chance",
            "choices": tuple(_DTYPES),
        },
    )
    served_as: str = ""
    """What the programs call the folder, where it has another name on the machine that serves; else its own."""
    gguf: str = "model.gguf"
    """The GGUF file that llama.cpp serves."""

    def __post_init__(self) -> None:
        fields.check(self)
        if bool(self.messages) == bool(self.prompt):
            raise InputError(
                "There is a conversation and a text to continue."
                if self.prompt
                else "There is nothing for the model to answer.",
                "Give it one of the two.",
            )


@dataclass(frozen=True, slots=True)
class Snippet:
    """A program to run where the model is served. It exits with 0 where all is the same, and else says what is not."""

    runtime: str
    """transformers, vllm or llama.cpp."""
    file: str
    """A name for it."""
    code: str
    """Python."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What a deployment of a model is to write, and how to prove that it does."""

    prompt: str
    """What the model reads: the conversation by its chat template, or the text."""
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """The greedy reply, the token that ends it included."""
    text: str
    """The same without special tokens."""
    ended: bool
    """Whether it ended by itself."""
    closest: float
    """How far the score of the chosen token was above the next one where it was closest. Programs round differently,
    by about 1e-5 in fp32 and 0.1 in bf16: a reply that is closer than that may part there and be no worse."""
    closest_at: int
    """The number of this token, from 1."""
    snippets: tuple[Snippet, ...]
    seconds: float


def parity(plan: ServePlan) -> Generator[Progress | Finished[Parity], None, None]:
    """Let the model of a folder write, always taking the likeliest token; last comes `Finished(Parity)`.

    Closing the generator stops it. Raises what loading and rendering raise.
    """
    started = time.monotonic()
    model = yield from load(LoadPlan(ModelRef("folder", str(plan.folder)), plan.precision), plan.folder)
    tokenizer = model.tokenizer
    prompt = render(tokenizer, plan.messages) if plan.messages else plan.prompt
    ids = encode(tokenizer, prompt, special_tokens=not plan.messages)
    if not ids:
        raise InputError("The prompt is empty once it is made into tokens.", "Write something else.")
    answer = yield from reply(model, ids, plan.tokens)
    closest, place = _closest(scores(model, [*ids, *answer.ids]), ids, answer)
    values = _values(plan, model, ids, answer)
    yield Finished(
        Parity(
            prompt=prompt,
            prompt_ids=tuple(ids),
            ids=answer.ids,
            text=answer.text,
            ended=answer.ids[-1] in values["END_IDS"],
            closest=closest,
            closest_at=place,
            snippets=tuple(_snippet(runtime, plan, values) for runtime in RUNTIMES),
            seconds=time.monotonic() - started,
        )
    )


def _closest(found: Tensor, ids: list[int], answer: Answer) -> tuple[float, int]:
    """The smallest lead that a written token has over the next best, and its number."""
    import torch

    rows = found[len(ids) - 1 : -1]
    chosen = rows.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
    others = rows.scatter(1, torch.tensor(answer.ids)[:, None], float("-inf")).max(1).values
    least, place = (chosen - others).min(0)
    return float(least), int(place) + 1


def _values(plan: ServePlan, model: LoadedModel, ids: list[int], answer: Answer) -> dict[str, Any]:
    """What the programs are given, by the names that they have for it."""
    config = generation_config(model.model, model.tokenizer, GenerationSettings(greedy=True), plan.tokens)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    own = {name: getattr(config, name) for name in _KEPT if getattr(config, name) is not None}
    return {
        "FOLDER": plan.served_as or str(plan.folder),
        **({"MESSAGES": as_variables(plan.messages)} if plan.messages else {"PROMPT": plan.prompt}),
        "PROMPT_IDS": ids,
        "TOKENS": plan.tokens,
        "END_IDS": [end for end in ends if end is not None],
        "EXPECTED_IDS": [*answer.ids],
        "EXPECTED_TEXT": answer.text,
        "GENERATION": {"do_sample": False, "max_new_tokens": plan.tokens, **own},
    }


def _snippet(runtime: str, plan: ServePlan, values: dict[str, Any]) -> Snippet:
    given = {name: value for name, value in values.items() if runtime == "transformers" or name != "GENERATION"}
    if runtime == "llama.cpp":
        del given["FOLDER"]
    code = program(runtime, given, chat=bool(plan.messages), dtype=_DTYPES[plan.precision], gguf=shlex.quote(plan.gguf))
    return Snippet(runtime, f"check_{runtime.replace('.', '_')}.py", code)
