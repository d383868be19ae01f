"""A run as a whole: what it says, what it learns, what it leaves, and when it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import training_steps as steps
from pico import load_pico, save_pico
from safetensors.torch import load_file

from studio import training
from studio.errors import Damaged, InputError, StudioError
from studio.events import Phase, Progress
from studio.loading import LoadPlan
from studio.models import STARTER, ModelRef, Precision
from studio.training import Evaluated, Sampled, Stepped

QUICK = {"batch_tokens": 96, "rank": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("rows")
    return steps.prepared(steps.examples(folder, [24] * 24), steps.examples(folder, [24] * 4, seed=9))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return steps.lesson(tmp_path_factory.mktemp("lesson"))


def test_a_run_tells_of_all_that_happens_in_its_order(pico, data, tmp_path):
    run = steps.run_of(pico, prompts=("Hello",), evaluate_every=4, save_every=3, **QUICK)
    events = list(steps.train(pico, data, run, tmp_path))
    told = [(type(event).__name__, event.step) for event in events[:-1]]
    looks = [("Evaluated", 0), ("Sampled", 0)]
    assert told == [
        ("Began", 0),
        *looks,
        *[("Stepped", 1), ("Stepped", 2), ("Stepped", 3), ("Saved", 3), ("Stepped", 4)],
        *[("Evaluated", 4), ("Sampled", 4), ("Stepped", 5), ("Stepped", 6), ("Evaluated", 6), ("Sampled", 6)],
    ]
    began = events[0]
    assert (began.total, began.rows, began.held_out, began.compute, began.device) == (6, 24, 4, "fp32", "cpu")
    assert steps.result(events).trainable == began.trainable
    assert all(event.memory > 10_000_000 and event.seconds > 0 for event in steps.of_kind(events, Stepped))


def test_a_model_learns_what_the_rows_teach_and_its_adapter_loads_again(pico, lesson, tmp_path):
    run = steps.run_of(pico, epochs=16.0, batch_tokens=480, learning_rate=3e-2, rank=8)
    events = list(steps.train(pico, lesson, run, tmp_path))
    looks = steps.of_kind(events, Evaluated)
    learnt = steps.result(events)
    assert looks[-1].loss < looks[0].loss - 0.3
    assert learnt.folder == tmp_path / "adapter"
    again = load_pico(pico, adapter=learnt.folder)
    assert steps.loss_of(again.model, lesson.held_out) == pytest.approx(learnt.held_out_loss, rel=1e-5)


def test_the_adapter_that_did_best_is_the_one_that_is_kept(pico, data, tmp_path):
    # Random rows: what is learnt of them by heart makes the others worse.
    for keep in (True, False):
        folder = tmp_path / str(keep)
        run = steps.run_of(pico, epochs=3.0, evaluate_every=2, keep_best=keep, **QUICK)
        events = list(steps.train(pico, data, run, folder))
        looks = [look for look in steps.of_kind(events, Evaluated) if look.step]
        best = min(looks, key=lambda look: look.loss)
        assert best.step < looks[-1].step  # or this would show nothing
        assert [look.step for look in looks if look.best][-1] == best.step
        assert steps.result(events).held_out_loss == (best.loss if keep else looks[-1].loss)
        again = load_pico(pico, adapter=folder / "adapter")
        assert steps.loss_of(again.model, data.held_out) == pytest.approx(steps.result(events).held_out_loss, rel=1e-6)
        assert sorted(each.name for each in folder.iterdir()) == ["adapter"]


def test_patience_ends_a_run_that_gets_no_better(pico, data, tmp_path):
    run = steps.run_of(pico, epochs=30.0, evaluate_every=2, patience=2, **QUICK)
    events = list(steps.train(pico, data, run, tmp_path))
    looks = [look for look in steps.of_kind(events, Evaluated) if look.step]
    assert [look.best for look in looks[-2:]] == [False, False]
    assert steps.result(events).steps == looks[-1].step < events[0].total


def test_looking_and_asking_change_nothing_of_what_is_learnt(pico, data, tmp_path):
    told = []
    for number, options in enumerate(({"evaluate_every": 3}, {"evaluate_every": 1000})):
        run = steps.run_of(pico, dropout=0.2, neftune=5.0, **options, **QUICK)
        run = replace(run, prompts=("One",)) if number == 0 else run
        events = list(steps.train(pico, data, run, tmp_path / str(number)))
        told.append([(each.loss, each.gradient) for each in steps.of_kind(events, Stepped)])
    assert told[0] == told[1]


def test_the_model_is_asked_by_its_template_and_answers_in_at_most_64_tokens(pico, data, tmp_path):
    run = steps.run_of(pico, prompts=("Hello",), most_steps=1, **QUICK)
    said = steps.of_kind(list(steps.train(pico, data, run, tmp_path)), Sampled)
    loaded = load_pico(pico)
    ids = loaded.tokenizer("<|user|>\nHello<|end|>\n<|assistant|>\n").input_ids
    output = loaded.model.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)[0, len(ids) :]
    assert said[0].reply == loaded.tokenizer.decode(output, skip_special_tokens=True)
    assert [each.prompt for each in said] == ["Hello", "Hello"]


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_learnt(pico, data, tmp_path):
    run = steps.run_of(pico, prompts=("x" * 500,), **QUICK)
    with pytest.raises(InputError, match="A prompt to try the model with has 5"):
        list(steps.train(pico, data, run, tmp_path))


def test_nothing_to_learn_is_refused(pico, data, tmp_path):
    empty = replace(data, learn=replace(data.learn, trained=0))
    with pytest.raises(InputError, match="No token of these 24 rows"):
        list(steps.train(pico, empty, steps.run_of(pico, **QUICK), tmp_path))


def test_tokens_that_the_model_does_not_know_are_refused(pico, tmp_path):
    rows = [{"input_ids": [5, 6, 900], "trained": [True] * 3, "length": 3, "row": 0}]
    with pytest.raises(Damaged, match="a token with the number 900 in the rows, and the model knows 261"):
        list(steps.train(pico, steps.prepared(steps.written(tmp_path, rows)), steps.run_of(pico), tmp_path / "run"))


def test_a_training_that_comes_apart_ends_at_once_and_keeps_its_last_checkpoint(pico, data, tmp_path):
    run = steps.run_of(
        pico, learning_rate=1e8, clip=0.0, warmup=0.5, epochs=5.0, save_every=1, schedule="constant", **QUICK
    )
    with pytest.raises(StudioError, match="came apart") as raised:
        list(steps.train(pico, data, run, tmp_path))
    assert "smaller learning rate" in raised.value.hint
    newest = training.newest_checkpoint(tmp_path)
    assert newest is not None
    weights = load_file(newest / "weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not (tmp_path / "adapter").exists()


def test_a_gradient_that_is_no_number_never_gets_into_the_weights(pico, data, tmp_path):
    loaded = load_pico(pico)

    def spoil(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * torch.nan)

    loaded.model.model.layers[0].mlp.down_proj.register_forward_hook(spoil)
    work = training.train(
        loaded.model, loaded.tokenizer, data, steps.run_of(pico, **QUICK), tmp_path, wish=lambda: None
    )
    with pytest.raises(StudioError, match="The gradient is infinite or not a number at step 1"):
        list(work)
    assert all(parameter.isfinite().all() for parameter in loaded.model.parameters())


def test_a_loss_of_exactly_nothing_is_refused_in_the_first_step(pico, tmp_path):
    rows = [{"input_ids": [5, 6, 7], "trained": [True, False, False], "length": 3, "row": 0}]
    data = steps.prepared(steps.written(tmp_path, rows))
    with pytest.raises(StudioError, match="exactly zero"):
        list(steps.train(pico, data, steps.run_of(pico), tmp_path / "run"))


@pytest.mark.parametrize(
    ("model", "named", "revision"),
    [
        (ModelRef("hub", "owner/name", "main"), "owner/name", None),
        (ModelRef("hub", "owner/name", "v2"), "owner/name", "v2"),
        (STARTER, "starter", None),
    ],
)
def test_an_adapter_names_its_base_and_no_path_of_this_machine(pico, data, tmp_path, model, named, revision):
    run = replace(steps.run_of(pico, most_steps=2, **QUICK), plan=LoadPlan(model))
    list(steps.train(pico, data, run, tmp_path))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (named, revision)
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
    ]
    assert str(pico) not in (tmp_path / "adapter" / "adapter_config.json").read_text()


def test_a_rehearsal_tells_what_a_run_takes_and_leaves_no_trace(pico, tmp_path):
    data = steps.prepared(steps.examples(tmp_path, [20, 30, 95, 25]), steps.examples(tmp_path, [20] * 3))
    loaded = load_pico(pico)
    model = loaded.model
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    before = (model.config.to_dict(), [p.requires_grad for p in model.parameters()], model.training)
    drawn = torch.random.get_rng_state()
    files = sorted(tmp_path.rglob("*"))
    for options in ({"neftune": 5.0, "checkpointing": "on", "dropout": 0.1}, {"method": "full"}):
        run = steps.run_of(pico, epochs=3.0, accumulation=2, batch_tokens=100, **options)
        events = list(training.rehearse(model, loaded.tokenizer, data, run, tmp_path / "run"))
        assert all(isinstance(event, Progress) and event.phase is Phase.REHEARSE for event in events[:-1])
        found = events[-1].result
        assert (found.tokens, found.steps) == (95, 3)
        assert found.loss == pytest.approx(5.57, abs=0.1)
        assert found.gradient > 0
        assert 0 < found.seconds < found.expected
        assert found.peak >= found.before > 0
        assert found.checkpoint > 12 * found.trainable  # the weights and the two states of AdamW
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert all(tensor.equal(kept[name]) for name, tensor in model.state_dict().items())
    assert (model.config.to_dict(), [p.requires_grad for p in model.parameters()], model.training) == before
    assert torch.random.get_rng_state().equal(drawn)
    assert sorted(tmp_path.rglob("*")) == files
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def four_bit_layers(model: Any) -> list[Any]:
    from bitsandbytes.nn import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def test_looking_and_asking_leave_four_bit_weights_exact(tmp_path):
    folder = save_pico(tmp_path / "model", hidden_size=64, intermediate_size=128)
    data = steps.prepared(steps.examples(tmp_path, [24] * 12), steps.examples(tmp_path, [24] * 4, seed=9))
    told = []
    for every in (2, 1000):
        loaded = load_pico(folder, precision=Precision.NF4)
        run = steps.run_of(folder, evaluate_every=every, compute="bf16", **QUICK)
        run = replace(run, prompts=("One",) if every == 2 else ())
        held = [layer.weight.detach().clone() for layer in four_bit_layers(loaded.model)]
        work = training.train(loaded.model, loaded.tokenizer, data, run, tmp_path / str(every), wish=lambda: None)
        events = list(work)
        told.append([(each.loss, each.gradient) for each in steps.of_kind(events, Stepped)])
        after = [layer.weight for layer in four_bit_layers(loaded.model)]
        assert held
        assert all(one.equal(other) for one, other in zip(held, after, strict=True))
    assert told[0] == told[1]
