"""The loss is the one of the model itself: in pieces, over several batches, packed and padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import training_steps as steps
from pico import load_pico
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from studio.training import Stepped, loss, readying
from studio.training.batches import Collator
from studio.training.loss import plain_head, summed

SMALL = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
PLAIN = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 8},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "phi": {},
    "gpt_neox": {},
    "olmo2": {},
}
OWN_LOSS = {
    "gemma2": {"head_dim": 8},
    "cohere": {},
    "granite": {"logits_scaling": 8.0},
}


def model_of(kind: str, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 261}}.get(kind, SMALL)
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**small, **options})).train()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return steps.examples(tmp_path_factory.mktemp("rows"), [9, 14, 30, 6, 22, 40, 11, 17]).open()


def batch_of(rows: Any, *sequences: tuple[int, ...], mask: bool = False, packs: bool = False) -> dict[str, Any]:
    batch = Collator(rows, pad=0, mask=mask, packs=packs)(list(sequences))
    del batch["tokens"]
    return batch


def gradients(model: Any, total: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    total.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def far(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """How far two sets of gradients are apart, relative to their size."""
    apart = sum(float((a - b).double().norm() ** 2) for a, b in zip(one, other, strict=True))
    return (apart / sum(float(b.double().norm() ** 2) for b in other)) ** 0.5


def with_adapter(model: Any) -> Any:
    """A model with an adapter that changes something."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return get_peft_model(
            model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        )


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("adapted", [True, False])
def test_the_loss_in_pieces_and_its_gradients_are_those_of_the_model(monkeypatch, rows, kind, adapted):
    monkeypatch.setattr(loss, "PIECE", 261 * 7)  # seven tokens a piece
    model = model_of(kind, **PLAIN[kind])
    model = with_adapter(model) if adapted else model
    head = plain_head(model)
    assert head is not None
    batch = batch_of(rows, (0,), (1,), (2,), mask=True)
    ours, own = summed(model, head, batch), summed(model, None, batch)
    assert ours.item() == pytest.approx(own.item(), rel=1e-6)
    assert far(gradients(model, ours), gradients(model, own)) < 1e-5


@pytest.mark.parametrize("kind", OWN_LOSS)
def test_a_model_that_changes_its_logits_computes_its_loss_itself(kind):
    assert plain_head(model_of(kind, **OWN_LOSS[kind])) is None


def test_a_loss_that_is_not_that_of_the_head_alone_is_noticed():
    model = model_of("llama")
    scores = model.lm_head.forward
    model.lm_head.forward = lambda hidden: scores(hidden)  # the same
    assert plain_head(model) is not None
    inner = model.forward

    def more(*arguments: Any, **options: Any) -> Any:
        output = inner(*arguments, **options)
        output.loss = output.loss * 1.01
        return output

    model.forward = more
    assert plain_head(model) is None


def test_a_batch_without_trained_tokens_has_a_sum_of_nothing_and_gradients_of_nothing(rows):
    model = with_adapter(model_of("llama"))
    batch = batch_of(rows, (0,), (3,))
    batch["labels"].fill_(-100)
    for head in (plain_head(model), None):
        total = summed(model, head, batch)
        assert total.item() == 0
        assert all(not gradient.any() for gradient in gradients(model, total))


@pytest.mark.parametrize("kind", [*PLAIN, *OWN_LOSS, "opt", "bloom", "falcon"])
def test_padding_on_the_right_needs_no_mask_in_a_causal_model(rows, kind):
    options = {**PLAIN, **OWN_LOSS}.get(kind, {})
    if kind in ("opt", "bloom", "falcon"):
        options = {"opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "bloom": {"n_head": 4}}.get(kind, {})
    model = model_of(kind, **options).eval()
    assert readying.padding_is_harmless(model)
    together = summed(model, None, batch_of(rows, (0,), (2,))).item()
    assert together == pytest.approx(sum(summed(model, None, batch_of(rows, (r,))).item() for r in (0, 2)), rel=1e-5)


def test_a_model_that_looks_ahead_gets_a_mask():
    model = model_of("llama")
    inner = model.forward

    def looks_ahead(*, input_ids: torch.Tensor, **options: Any) -> Any:
        output = inner(input_ids=input_ids, **options)
        output.logits = output.logits + output.logits.mean(dim=1, keepdim=True)
        return output

    model.forward = looks_ahead
    assert not readying.padding_is_harmless(model)


@pytest.mark.parametrize(("kind", "apart"), [("llama", True), ("qwen3", True), ("gpt2", True), ("opt", False)])
def test_packed_rows_give_the_loss_of_single_ones_or_are_not_packed(rows, kind, apart):
    options = PLAIN.get(kind, {"ffn_dim": 64, "word_embed_proj_dim": 32})
    model = model_of(kind, **options).eval()
    assert readying.packs_apart(model).apart is apart
    packed = summed(model, None, batch_of(rows, (0, 2), (1, 3), packs=True)).item()
    alone = sum(summed(model, None, batch_of(rows, (row,))).item() for row in range(4))
    assert (packed == pytest.approx(alone, rel=1e-5)) is apart


def losses_and_norms(pico: Path, data: Any, folder: Path, **settings: Any) -> list[tuple[float, float]]:
    events = list(steps.train(pico, data, steps.run_of(pico, most_steps=1, **settings), folder))
    return [(event.loss, event.gradient) for event in steps.of_kind(events, Stepped)]


def test_batches_that_are_added_up_are_one_large_batch_however_uneven(pico, tmp_path):
    data = steps.prepared(steps.examples(tmp_path, [9, 60, 12, 33, 58, 20, 7, 41], prompt=5))
    large = losses_and_norms(pico, data, tmp_path / "1", batch_tokens=100_000)
    small = losses_and_norms(pico, data, tmp_path / "8", batch_tokens=1, accumulation=8)
    packed = losses_and_norms(pico, data, tmp_path / "p", batch_tokens=64, accumulation=99, packing=True)
    for other in (small, packed):
        assert other[0] == pytest.approx(large[0], rel=1e-6, abs=0)


def test_the_mean_is_over_the_trained_tokens_of_the_step(pico, tmp_path):
    data = steps.prepared(steps.examples(tmp_path, [9, 60, 12], prompt=5))
    told = losses_and_norms(pico, data, tmp_path / "run", batch_tokens=64, accumulation=3)
    model = load_pico(pico).model
    batches = [batch_of(data.learn.open(), (row,)) for row in range(3)]
    total = sum(summed(model, None, batch).item() for batch in batches)
    assert told[0][0] == pytest.approx(total / (4 + 55 + 7), rel=1e-6)
