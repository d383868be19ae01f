"""The same training step twice, on fake tensors and on real ones of the CPU, under the same tracker.

Run as a process of its own, `python tests/rehearsal_pairs.py`, because it changes PyTorch for all of a process: cases
as lines of JSON on stdin, what was in memory as lines of JSON on stdout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from studio.memory import cuda_like, fake_model, fake_step, rehearsing
from studio.memory.step import Step
from studio.memory.tracker import Tracker, watching
from studio.models import Precision


def tracker_of(step: Step) -> Tracker:
    layers = fake_model.config_of(step.config).get_text_config().num_hidden_layers
    return Tracker(layers, layers, layers)


def on_fake(step: Step) -> Tracker:
    """The step as a dry run carries it out, with all layers."""
    tracker = tracker_of(step)
    rehearsing.rehearse(fake_model.prepared(step)[0], tracker, step, lambda _: None)
    return tracker


def real_model(step: Step) -> Any:
    """A model with weights, built, adapted and prepared by the libraries alone."""
    from peft import get_peft_config, get_peft_model
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if step.precision is Precision.FP32 else torch.bfloat16
    model = AutoModelForCausalLM.from_config(fake_model.config_of(step.config), dtype=dtype).train()
    if step.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": step.reentrant})
    if step.adapter:
        if step.checkpointing:
            model.enable_input_require_grads()
        model = get_peft_model(model, get_peft_config(dict(step.adapter)))
    return model


def on_real(step: Step) -> Tracker:
    """The step with numbers in all tensors."""
    tracker, model = tracker_of(step), real_model(step)
    with watching(tracker, cuda_like.internals):
        fake_step.train(model, tracker, step, lambda _: None)
    return tracker


def profiled(step: Step) -> int:
    """The peak that PyTorch's own profiler sees beyond what is there before, in a plain loop of two steps."""
    model = real_model(step)
    ids = torch.zeros(step.batch, step.tokens, dtype=torch.long)
    before = sum(p.untyped_storage().nbytes() for p in model.parameters())
    with torch.profiler.profile(profile_memory=True) as profile:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
        for _ in range(2):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    now = most = 0
    for event in sorted(_memory_events(profile), key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return before + most


def _memory_events(profile: Any) -> Iterator[Any]:
    return (event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


def main() -> None:
    """Carry out the cases on stdin."""
    rehearsing.prepare_process()
    for line in sys.stdin:
        case = json.loads(line)
        step = Step(**case["step"] | {"precision": Precision(case["step"]["precision"])})
        found: dict[str, Any] = {"name": case["name"]}
        torch.manual_seed(0)
        if case["deep"]:
            found["few"] = rehearsing.carry_out(step, lambda *_: None)
            found["all"] = rehearsing.carry_out(replace(step, depth="full"), lambda *_: None)
            print(json.dumps(found), flush=True)
            continue
        for way, run in (("fake", on_fake), ("real", on_real)):
            tracker = run(step)
            found[way] = {"peak": tracker.allocator.peak, "moments": moments(tracker)}
        if case["profiled"]:
            found["profiled"] = profiled(step)
        print(json.dumps(found), flush=True)


def moments(tracker: Tracker) -> dict[str, int]:
    """The fullest of each phase."""
    most: dict[str, int] = {}
    for key, (count, _) in tracker.fullest.items():
        if key.phase != "start":
            most[key.phase] = max(most.get(key.phase, 0), count)
    return most


if __name__ == "__main__":
    main()
