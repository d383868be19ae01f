"""What optimizers hold: computed, and held by the real ones after a real step."""

from __future__ import annotations

import gc

import pytest
import torch
from memory_shapes import TINY, real_model

from studio.memory import Question, read_facts
from studio.memory.optimizers import Trained, gradient_bytes, pageable_bytes, state_bytes, step_bytes
from studio.memory.standing import stand


def real_optimizer(name, parameters):
    import bitsandbytes as bnb
    from transformers import Adafactor

    match name:
        case "adamw":
            return torch.optim.AdamW(parameters)
        case "adamw 8-bit":
            return bnb.optim.AdamW8bit(parameters)
        case "paged adamw":
            return bnb.optim.AdamW32bit(parameters)  # paged ones need CUDA; the bytes are the same
        case "adafactor":
            return Adafactor(parameters, scale_parameter=False, relative_step=False, lr=1e-3)
    return torch.optim.SGD(parameters, lr=1e-3)


def states(optimizer):
    """Bytes of all tensors that it remembers; the tables of 8-bit numbers, which are shared, left out."""
    found = {}
    for state in optimizer.state.values():
        for key, value in state.items():
            if torch.is_tensor(value) and key not in ("qmap1", "qmap2"):
                found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    return sum(found.values())


def stepped(name, model):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = real_optimizer(name, parameters)
    ids = torch.randint(0, 500, (2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = sum(parameter.grad.untyped_storage().nbytes() for parameter in parameters)
    optimizer.step()
    return gradients, states(optimizer)


OPTIMIZERS = ["adamw", "adamw 8-bit", "paged adamw", "adafactor", "sgd"]
LARGER = dict(TINY["qwen2"], hidden_size=160, intermediate_size=352)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_of_full_training_are_those_of_the_real_optimizer(name, precision):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    gradients, held = stepped(name, real_model(LARGER, dtype=dtype))
    trained = stand(read_facts(LARGER), Question(method="full", precision=precision, optimizer=name)).trained
    # Without the Trainer nothing asks for 32-bit states of embeddings.
    plain = [Trained(tensor.shape, tensor.count, tensor.itemsize) for tensor in trained]
    assert gradient_bytes(plain) == gradients
    assert state_bytes(name, plain) == pytest.approx(held, rel=0.005 if name == "adafactor" else 0)
    gc.collect()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("rank", "targets"), [(16, "all-linear"), (32, "q_proj, v_proj")])
def test_states_of_an_adapter_are_those_of_the_real_optimizer(name, rank, targets):
    import peft

    modules = targets if targets == "all-linear" else targets.split(", ")
    config = peft.LoraConfig(r=rank, target_modules=modules, task_type="CAUSAL_LM")
    gradients, held = stepped(name, peft.get_peft_model(real_model(LARGER, dtype=torch.bfloat16), config))
    standing = stand(read_facts(LARGER), Question(rank=rank, targets=targets, optimizer=name))
    assert standing.gradients == gradients
    assert standing.optimizer == pytest.approx(held, rel=0.02 if name == "adafactor" else 0)


def test_small_tensors_keep_32_bit_states():
    assert state_bytes("adamw 8-bit", [Trained((4095,), 1, 4)]) == 8 * 4095
    assert state_bytes("adamw 8-bit", [Trained((4096,), 1, 4)]) == 2 * 4096 + 2 * 4 * 16
    assert state_bytes("adamw 8-bit", [Trained((64, 64), 3, 4, embeds=True)]) == 3 * 8 * 4096


def test_the_trainer_asks_for_32_bit_states_of_embeddings():
    import inspect

    from transformers import Trainer

    assert 'register_module_override(module, "weight", {"optim_bits": 32})' in inspect.getsource(
        Trainer.create_optimizer
    )
    standing = stand(read_facts(LARGER), Question(method="full", optimizer="adamw 8-bit"))
    assert [tensor.shape for tensor in standing.trained if tensor.embeds] == [(512, 160)]
    assert "embedding-32-bit" in [note.id for note in standing.notes]


def test_paged_states_can_spill_where_they_are_large():
    tensors = [Trained((400, 400), 2, 4), Trained((10, 10), 5, 4)]
    assert pageable_bytes("paged adamw", tensors) == 2 * 8 * 160_000
    assert pageable_bytes("adamw", tensors) == 0


def test_only_the_foreach_step_needs_a_copy():
    tensors = [Trained((400, 400), 2, 2)]
    assert step_bytes("adamw", tensors, foreach=True) == gradient_bytes(tensors)
    assert step_bytes("adamw", tensors, foreach=False) == step_bytes("sgd", tensors, foreach=True) == 0
