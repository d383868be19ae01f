"""A merge held against what it was made from: its files tensor by tensor, and what it says against base and adapter."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from studio import compute
from studio.checkpoint import read_json
from studio.errors import DoesNotFit, InputError, StudioError
from studio.events import Finished, Phase, Progress
from studio.heartbeat import heartbeat
from studio.loading import LoadPlan, Placement, load, outlook
from studio.loading.reading import with_adapter
from studio.loading.skeleton import weights_dtype
from studio.merging import proving_judgement
from studio.merging.proof import PROMPTS, Check, Differing, Proof, ProofQuestion, fingerprint
from studio.merging.proving_folder import check_config, check_files, check_texts
from studio.merging.proving_judgement import judge
from studio.merging.proving_replies import Expectation, Heard, expect, hear_merged, hear_reference
from studio.merging.proving_stored import plain_model
from studio.merging.proving_tensors import Tensors, check_tensors
from studio.models import ModelRef, Precision
from studio.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Say = Callable[[Progress], None]
Result = TypeVar("Result")
_LIBRARIES = ("torch", "transformers", "peft", "safetensors")
_TENSORS = ("adapter", "names and shapes", "tying", "dtype", "size on disk", "numbers", "adapted weights", "changed")
_AROUND = ("config", "tokenizer", "chat template")
_RUNNING = ("reload", *proving_judgement.NAMES)


def prove(question: ProofQuestion) -> Generator[Progress | Finished[Proof], None, None]:
    """Hold a merge against its base and its adapter. Ends with `Finished(Proof)`, passed or not; closing ends it.

    Both models are run in fp32, one after the other, if one of them fits: 4 bytes a weight. The files are compared
    tensor by tensor always. Raises InputError, Unsupported or Damaged where there is nothing to hold it against: the
    base or the adapter cannot be read, or they do not belong together.
    """
    started = time.monotonic()
    for folder in (question.base, question.adapter, question.merged):
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", "Check the path.")
    yield from compute.imports()
    print_of = fingerprint(question.merged)
    checks = [check_files(question.merged)]
    tensors, why = None, "Its files are not whole."
    differing: tuple[Differing, ...] = ()
    if checks[0].state == "passed":
        tensors = yield from _work(partial(check_tensors, question), Phase.CHECK)
        around = yield from _work(partial(_around, question, tensors.vocabulary), Phase.CHECK)
        checks += [*tensors.checks, *around]
        why = "" if tensors.numbers else "There are weights that are not numbers."
        why = why or _too_large(question, tensors.weights)
    else:
        checks += [Check(name, "not done", why) for name in (*_TENSORS, "other weights", *_AROUND)]
    if why:
        checks += [Check(name, "not done", why) for name in _RUNNING]
    else:
        heard, differing = yield from _run(question)
        checks += heard
    if fingerprint(question.merged) != print_of:
        raise InputError(f"{question.merged.name} changed while it was proven.", "Prove it once nobody writes there.")
    yield Finished(
        Proof(
            passed=all(check.state != "failed" for check in checks),
            covered=_covered(question, tensors, why),
            whole=not why,
            precision=question.precision,
            checks=tuple(checks),
            fingerprint=print_of,
            versions=tuple((name, version(name)) for name in _LIBRARIES),
            seconds=time.monotonic() - started,
            differing=differing,
        )
    )


def _work(work: Callable[[Say, Event], Result], phase: Phase) -> Generator[Progress, None, Result]:
    """Do it on a thread, and tell how far it is ten times a second."""
    latest = Progress(phase)

    def tell(said: list[Progress]) -> list[Progress]:
        nonlocal latest
        latest = said[-1] if said else latest
        return [latest]

    yield latest
    return (yield from heartbeat(work, tell, every=0.1))


def _around(question: ProofQuestion, vocabulary: int, _say: Say, _stop: Event) -> list[Check]:
    return [check_config(question), *check_texts(question, vocabulary)]


def _too_large(question: ProofQuestion, weights: int) -> str:
    """Why the models cannot be run here; empty where they can. Each takes 4 bytes a weight."""
    wanted, free = 4 * weights, question.free_bytes
    if free is not None and wanted > free:
        return f"In fp32 the model takes {wanted / 1e9:.2f} GB, and there are {free / 1e9:.2f} GB for it."
    try:
        _plan(question.merged)
    except DoesNotFit as error:
        return error.message
    except StudioError:
        return ""  # loading says why, and that is a check
    return ""


def _plan(folder: Path, adapter: Path | None = None) -> LoadPlan:
    """How one of the two is held: in fp32 on one device. Raises DoesNotFit."""
    plan = LoadPlan(ModelRef("folder", str(folder)), Precision.FP32, adapter, placement=Placement("one device"))
    if outlook(plan, folder).misfit:
        plan = replace(plan, placement=Placement("cpu"))
        if misfit := outlook(plan, folder).misfit:
            raise misfit
    return plan


def _run(question: ProofQuestion) -> Generator[Progress, None, tuple[list[Check], tuple[Differing, ...]]]:
    """Read the same tokens with the base and its adapter and then with the merge; never both in memory."""
    reference, expected = yield from _reference(question)
    compute.release()
    try:
        loaded = yield from load(_plan(question.merged), question.merged)
        hear = hear_merged(loaded.model, loaded.tokenizer, reference, question.rows, question.reply_tokens)
        merged = yield from _work(hear, Phase.MEASURE)
    except StudioError as error:
        why = "The merge does not load, or gives no scores."
        others = [Check(name, "not done", why) for name in proving_judgement.NAMES]
        return [Check("reload", "failed", error.message), *others], ()
    del loaded, hear
    compute.release()
    reloaded = Check("reload", "passed", "It loads from the disk, with no weight missing and none made up.")
    checks = [reloaded, *judge(reference, merged, expected, len(question.rows))]
    return checks, _differing((*PROMPTS, *question.prompts), reference, merged)


def _differing(prompts: tuple[str, ...], reference: Heard, merged: Heard) -> tuple[Differing, ...]:
    texts = zip(prompts, reference.texts, merged.texts, strict=True)
    same = (one == other for one, other in zip(reference.replies, merged.replies, strict=True))
    return tuple(Differing(*each) for each, is_same in zip(texts, same, strict=True) if not is_same)


def _reference(question: ProofQuestion) -> Generator[Progress, None, tuple[Heard, Expectation]]:
    """What the base says with its adapter, and how far from it a sound merge may be."""
    model, tokenizer = yield from _adapted(question)
    prompts, length = (*PROMPTS, *question.prompts), question.reply_tokens
    hear = hear_reference(model, tokenizer, prompts, question.rows, length)
    reference = yield from _work(hear, Phase.MEASURE)
    measure = expect(model, reference, weights_dtype(question.precision), length)
    return reference, (yield from _work(measure, Phase.MEASURE))


def _adapted(question: ProofQuestion) -> Generator[Progress, None, tuple[PreTrainedModel, PreTrainedTokenizerBase]]:
    """The base with its adapter, in fp32. Of a quantized base these are the weights that it stands for."""
    if not read_json(question.base / "config.json").get("quantization_config"):
        loaded = yield from load(_plan(question.base, question.adapter), question.base)
        return loaded.model, loaded.tokenizer
    own = (question.adapter / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(question.adapter if own else question.base)
    model = yield from _work(partial(plain_model, question.base), Phase.READ)
    return with_adapter(model, question.adapter), tokenizer


def _covered(question: ProofQuestion, tensors: Tensors | None, why: str) -> str:
    """What was looked at, in words."""
    if tensors is None:
        return f"The files alone. {why}"
    files = f"all {tensors.total} tensors, of which the adapter reaches {tensors.adapted}"
    if why:
        return f"Tensor by tensor: {files}. The models were not run. {why}"
    prompts = len(PROMPTS) + len(question.prompts)
    rows = f" and {len(question.rows)} held-out rows" if question.rows else ""
    return f"{files.capitalize()}; {prompts} prompts with up to {question.reply_tokens} tokens of reply each{rows}."
