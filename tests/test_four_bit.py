"""Four-bit weights stay exact in whatever order a model generates, trains, merges and is saved."""

from __future__ import annotations

import copy
import io
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes import functional
from pico import save_pico

from studio import four_bit
from studio.errors import Damaged

FORMATS = {
    "nf4": {"bnb_4bit_quant_type": "nf4"},
    "nf4, double": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"bnb_4bit_quant_type": "fp4"},
    "nf4, double, in bf16": {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": torch.bfloat16,
    },
}
IDS = 10 + torch.arange(24).reshape(2, 12)
ROUNDED = 0.03
"""How far a pass in bf16 may be from one in fp32; with weights in the wrong order it is off by 1."""

needs_kernel = pytest.mark.skipif(
    not getattr(functional, "has_avx512bf16", bool)(), reason="the fast kernel needs a CPU with AVX512-BF16"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose seven linear layers all fit the fast kernel, with biases that bf16 cannot hold."""
    from transformers import AutoModelForCausalLM

    folder = save_pico(
        tmp_path_factory.mktemp("four_bit"),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        attention_bias=True,
        mlp_bias=True,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif "proj" in name:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    return folder


def load(folder: Path, *, guarded: bool = True, **options: Any) -> Any:
    """A model of the folder in four bits; one that was saved in four bits stays as it was saved."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True, **{"bnb_4bit_compute_dtype": torch.bfloat16, "bnb_4bit_quant_type": "nf4", **options}
    )
    saved = '"quantization_config"' in (folder / "config.json").read_text(encoding="utf-8")
    asked = {} if saved else {"quantization_config": how}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **asked).eval()
    if guarded:
        four_bit.guard(model)
    return model


@pytest.fixture(scope="module", params=FORMATS, ids=str)
def fresh(request: pytest.FixtureRequest, folder: Path) -> Any:
    """A guarded model that never runs: every test makes a copy."""
    return load(folder, **FORMATS[request.param])


def packed(model: Any) -> int:
    """How many weights are in the order of the fast kernel, without asking for any."""
    states = [getattr(parameter, "quant_state", None) for parameter in model.parameters()]
    return sum(bool(getattr(state, "packing_format_for_cpu", False)) for state in states)


def differences(one: Any, other: Any) -> list[str]:
    """Names in two state dicts that are not bit for bit the same."""
    return sorted(name for name in one.keys() | other.keys() if bits(one.get(name)) != bits(other.get(name)))


def bits(tensor: torch.Tensor | None) -> Any:
    if tensor is None:
        return None
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """The gradients of a LoRA adapter on a model, after which the model is without it again."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        adapted = get_peft_model(model, config)
    adapted.train()
    adapted(input_ids=IDS, labels=IDS).loss.backward()
    found = {name: p.grad.clone() for name, p in adapted.named_parameters() if p.grad is not None}
    adapted.eval().unload()
    return found


def merged(model: Any) -> torch.Tensor:
    """What a copy says after an adapter is merged into its dequantized weights."""
    from peft import LoraConfig, get_peft_model

    plain = copy.deepcopy(model)
    plain = plain.dequantize() if getattr(plain, "is_quantized", False) else plain
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        adapted = get_peft_model(plain.float(), config)
    return logits(adapted.merge_and_unload())


class Expected:
    """What every step has to come to, from the weights in fp32 before anything ran."""

    def __init__(self, fresh: Any, folder: Path) -> None:
        reference = copy.deepcopy(fresh).dequantize(dtype=torch.float32).float()
        self.logits = logits(reference)
        self.gradients = gradients(copy.deepcopy(reference))
        self.merged = merged(reference)
        self.saved = fresh.state_dict()
        self.fast = logits(copy.deepcopy(fresh))
        self.folder = folder


@pytest.fixture(scope="module")
def expected(fresh: Any, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return Expected(fresh, tmp_path_factory.mktemp("saved"))


def forward(model: Any, expected: Expected) -> Any:
    assert error(logits(model), expected.logits) < ROUNDED
    return model


def generate(model: Any, expected: Expected) -> Any:
    out = model.generate(IDS, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True)
    assert error(out.logits[0], expected.logits[:, -1]) < ROUNDED
    return model


def train(model: Any, expected: Expected) -> Any:
    found = gradients(model)
    assert found.keys() == expected.gradients.keys()
    assert max(error(found[name], expected.gradients[name]) for name in found) < 2 * ROUNDED
    return model.eval()


def merge(model: Any, expected: Expected) -> Any:
    assert error(merged(model), expected.merged) < 1e-5
    return model


def save(model: Any, expected: Expected) -> Any:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert differences(torch.load(file), expected.saved) == []
    return model


def reload(model: Any, expected: Expected) -> Any:
    model.save_pretrained(expected.folder)
    again = load(expected.folder)
    assert torch.equal(logits(again), expected.fast)
    return again


STEPS = (forward, generate, train, merge, save, reload)


def every_order(model: Any, expected: Expected, done: tuple[Any, ...] = ()) -> int:
    """Take every order of three different steps from here; return how many. Orders share the steps they begin with."""
    if len(done) == 3:
        assert differences(model.state_dict(), expected.saved) == [], [step.__name__ for step in done]
        return 1
    return sum(
        every_order(step(copy.deepcopy(model), expected), expected, (*done, step)) for step in STEPS if step not in done
    )


def test_every_order_of_three_steps_comes_to_the_same_and_leaves_the_weights_exact(fresh, expected):
    assert every_order(fresh, expected) == 120
    assert packed(fresh) == 0


@needs_kernel
@pytest.mark.parametrize("step", [train, merge, save, reload])
def test_without_a_guard_a_model_that_generated_does_the_next_step_wrong(folder, fresh, expected, step):
    how = {
        key: value for key, value in fresh.config.quantization_config.to_dict().items() if key.startswith("bnb_4bit")
    }
    model = generate(load(folder, guarded=False, **how), expected)
    # Most steps come to something else without a word; the gradient of a bias is where torch notices.
    with pytest.raises((AssertionError, RuntimeError)):
        step(model, expected)


@needs_kernel
def test_generating_packs_every_layer_once_and_they_stay_packed(fresh, expected):
    model = copy.deepcopy(fresh)
    generate(model, expected)
    assert packed(model) == 7
    kept = [parameter.data_ptr() for parameter in model.parameters()]
    generate(model, expected)
    forward(model, expected)
    assert [parameter.data_ptr() for parameter in model.parameters()] == kept


@needs_kernel
def test_asking_for_one_weight_brings_back_that_one_alone(fresh, expected):
    model = generate(copy.deepcopy(fresh), expected)
    layer, untouched = model.model.layers[0].mlp.down_proj, fresh.model.layers[0].mlp.down_proj
    parameter = layer._parameters["weight"]
    assert layer.weight is parameter
    assert packed(model) == 6
    assert differences(layer.state_dict(), untouched.state_dict()) == []
    assert (
        model.get_parameter("model.layers.0.mlp.up_proj.weight").quant_state.dtype == untouched.weight.quant_state.dtype
    )
    assert packed(model) == 5


@needs_kernel
def test_a_copy_of_a_packed_model_is_one_too_and_neither_disturbs_the_other(fresh, expected):
    model = generate(copy.deepcopy(fresh), expected)
    twin = copy.deepcopy(model)
    assert differences(twin.state_dict(), expected.saved) == []
    assert (packed(model), packed(twin)) == (7, 0)
    forward(twin, expected)
    forward(model, expected)


def test_merging_into_the_four_bits_themselves_comes_to_what_it_would_before_anything_ran(fresh, expected):
    from peft import LoraConfig, get_peft_model

    def four_bits_merged(model: Any) -> Any:
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            return get_peft_model(model, config).merge_and_unload()

    merged = four_bits_merged(generate(copy.deepcopy(fresh), expected))
    assert differences(merged.state_dict(), four_bits_merged(copy.deepcopy(fresh)).state_dict()) == []
    assert differences(merged.state_dict(), expected.saved) != []


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_below_an_adapter_the_weights_are_guarded_too(folder, dora):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=dora)
    model = load(folder, guarded=False)
    exact = copy.deepcopy(model.state_dict())
    adapted = get_peft_model(model, config).eval()
    four_bit.guard(adapted)
    assert {type(p.base_layer).__name__ for p in adapted.modules() if hasattr(p, "base_layer")} == {"Linear4bit"}
    with torch.no_grad():
        before = adapted(IDS).logits
    adapted(IDS).logits.sum().backward()
    assert torch.equal(logits(adapted), before)
    assert differences(adapted.unload().state_dict(), exact) == []


def test_a_model_that_ran_in_inference_mode_trains(fresh, expected):
    model = copy.deepcopy(fresh)
    with torch.inference_mode():
        model(IDS)
    train(model, expected)


def test_a_weight_that_was_asked_for_in_inference_mode_can_be_written_to_afterwards():
    made = layer()
    exact = made.weight.data.clone()
    with torch.inference_mode():
        made(rows(5, 128))
        assert torch.equal(made.weight, exact)
    made.weight.data.copy_(exact.roll(1, 0))
    assert torch.equal(made.weight, exact.roll(1, 0))


def test_a_layer_that_was_made_in_inference_mode_gives_gradients():
    with torch.inference_mode():
        made = layer()
        made(rows(5, 128))
    x = rows(5, 128).requires_grad_()
    made(x).sum().backward()
    weight = functional.dequantize_4bit(made.weight.data, made.weight.quant_state)
    assert error(x.grad, weight.float().sum(0).expand(5, -1)) < ROUNDED


def test_a_graph_survives_a_pass_without_gradients_before_it_is_gone_back(fresh):
    def gradient(model: Any, *, disturbed: bool) -> torch.Tensor:
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
        loss = model(inputs_embeds=embedded, labels=IDS).loss
        if disturbed:
            logits(model)
        loss.backward()
        return embedded.grad

    expected = gradient(copy.deepcopy(fresh), disturbed=False)
    assert torch.equal(gradient(copy.deepcopy(fresh), disturbed=True), expected)


def layer(outputs: int = 64, inputs: int = 128, **options: Any) -> Any:
    """A guarded four-bit layer of its own, in evaluation mode."""
    how = {"compute_dtype": torch.bfloat16, "quant_type": "nf4", "bias": False, **options}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = bnb.nn.Linear4bit(inputs, outputs, **how).requires_grad_(False).to("cpu").eval()
    four_bit.guard(made)
    return made


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def product(made: Any, x: torch.Tensor) -> torch.Tensor:
    """What a layer computes, in fp32."""
    return x.float() @ functional.dequantize_4bit(made.weight.data, made.weight.quant_state).float().T


@pytest.mark.parametrize(
    "made",
    [
        pytest.param({"inputs": 352}, id="a row that ends within a block"),
        pytest.param({"outputs": 48}, id="rows that fill no tile of 32"),
        pytest.param({"compute_dtype": torch.float32}, id="computing in fp32"),
    ],
)
def test_a_layer_that_the_fast_kernel_does_not_suit_is_never_packed(made):
    made = layer(**made)
    x = rows(5, made.in_features)
    with torch.no_grad():
        found = made(x)
    assert packed(made) == 0
    assert error(found, product(made, x)) < ROUNDED


@torch.no_grad()
def test_a_weight_that_was_quantized_the_other_way_round_is_never_packed():
    made = layer()
    data, state = functional.quantize_4bit(rows(128, 64), quant_type="nf4", blocksize=64)
    made.weight = bnb.nn.Params4bit(data, quant_state=state, bnb_quantized=True)
    with suppress(RuntimeError):  # bitsandbytes before 0.50 refuses it
        made(rows(5, 128))
    assert packed(made) == 0


def test_a_layer_is_not_packed_while_it_trains_or_gradients_are_on():
    made = layer()
    made(rows(5, 128))
    made.train()
    with torch.no_grad():
        made(rows(5, 128))
    assert packed(made) == 0


@torch.no_grad()
def test_a_transposed_batch_an_empty_one_and_one_of_the_wrong_length_are_safe_in_the_fast_order():
    made = layer()
    x = rows(128, 5).to(torch.bfloat16).t()
    made(x.contiguous())
    assert error(made(x), product(made, x)) < ROUNDED
    made(x.contiguous())
    assert made(x[:0]).shape == (0, 64)
    made(x.contiguous())
    with pytest.raises(RuntimeError, match=r"shape|size"):
        made(x[:, :32])


@torch.no_grad()
def test_a_packed_layer_is_moved_loaded_pickled_and_given_another_weight_as_if_it_were_not():
    made, other = layer(), layer(outputs=64)
    other.weight.data = other.weight.data.roll(1, 0)
    exact, x = copy.deepcopy(made.state_dict()), rows(5, 128)

    made(x)
    assert packed(made.to("cpu")) == 0
    assert differences(made.state_dict(), exact) == []
    made(x)
    assert differences(pickle.loads(pickle.dumps(made)).state_dict(), exact) == []
    made(x)
    made.load_state_dict({"weight": other.weight.data}, strict=False)
    assert error(made(x), product(other, x)) < ROUNDED
    made.weight = layer().weight
    assert error(made(x), product(layer(), x)) < ROUNDED
    assert differences(made.state_dict(), exact) == []


def test_a_layer_that_lost_its_statistics_finds_them_as_bitsandbytes_does():
    made = layer()
    x, made.quant_state = rows(5, 128), made.weight.quant_state
    expected = made(x)
    made.weight.quant_state = None
    assert torch.equal(made(x), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["has_avx512bf16", "_convert_weight_packed_for_cpu", "_convert_weight_packed_for_cpu_inverse"]
)
def test_a_bitsandbytes_without_the_kernel_never_packs(monkeypatch, name):
    monkeypatch.delattr(functional, name, raising=False)
    four_bit._packing.cache_clear()
    try:
        made = layer()
        assert error(made(rows(5, 128)), product(made, rows(5, 128))) < ROUNDED
        assert packed(made) == 0
    finally:
        four_bit._packing.cache_clear()


@needs_kernel
def test_a_model_that_ran_before_it_was_guarded_is_refused(folder):
    model = load(folder, guarded=False)
    logits(model)
    with pytest.raises(Damaged) as raised:
        four_bit.guard(model)
    assert raised.value.hint


def test_a_guard_twice_is_one_and_a_model_without_four_bits_is_left_alone(fresh, expected):
    model = generate(copy.deepcopy(fresh), expected)
    four_bit.guard(model)
    forward(model, expected)
    plain = torch.nn.Linear(4, 4)
    four_bit.guard(plain)
    assert type(plain) is torch.nn.Linear


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("storage", ["uint8", "bfloat16"])
def test_a_matrix_quantized_in_pieces_has_the_same_bits(kind, nested, storage, monkeypatch):
    from bitsandbytes import functional

    monkeypatch.setattr(four_bit, "PIECE", 4096)
    weights = torch.randn(67, 192, generator=torch.Generator().manual_seed(3), dtype=torch.bfloat16)
    options = {"quant_type": kind, "compress_statistics": nested, "quant_storage": getattr(torch, storage)}
    data, state = functional.quantize_4bit(weights, blocksize=64, **options)
    with four_bit.in_pieces():
        ours, our_state = functional.quantize_4bit(weights, blocksize=64, **options)
    assert torch.equal(ours.view(torch.uint8), data.view(torch.uint8))  # bytes may read as floats that are no numbers
    told, expected = our_state.as_dict(packed=True), state.as_dict(packed=True)
    assert told.keys() == expected.keys()
    assert all(torch.equal(told[key], expected[key]) for key in expected)
    assert functional.quantize_4bit.__name__ == "quantize_4bit"


def test_a_matrix_quantized_to_int8_in_pieces_has_the_same_bits(monkeypatch):
    from bitsandbytes import functional

    monkeypatch.setattr(four_bit, "PIECE", 4096)
    weights = torch.randn(67, 192, generator=torch.Generator().manual_seed(3), dtype=torch.float16)
    data, scales, none = functional.int8_vectorwise_quant(weights)
    with four_bit.in_pieces():
        ours = functional.int8_vectorwise_quant(weights)
        with_outliers = functional.int8_vectorwise_quant(weights, threshold=2.0)
    assert torch.equal(ours[0], data)
    assert torch.equal(ours[1], scales)
    assert ours[2] is none is None
    assert len(with_outliers[2])
