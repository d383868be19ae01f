"""What layers remember: computed, and held by the real caches of transformers after real texts."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from memory_shapes import PUBLISHED, TINY, config, real_model

from studio.errors import Unsupported
from studio.memory import DEVICES, Question, cache_bytes, estimate, read_facts

facts_of = cache(lambda name: read_facts((TINY | PUBLISHED)[name]))
GENERATE = Question(task="generate")
KINDS = ["llama", "gpt2", "mixtral", "mistral, sliding", "gemma3", "gpt_oss", "deepseek_v3", "qwen3_next", "mamba2",
         "falcon_h1", "lfm2"]  # fmt: skip


@cache
def model_of(name):
    return real_model(TINY[name], dtype=torch.bfloat16).eval()


def held(values):
    """Tensors by where their storage begins, and the bytes that are in use of each."""
    found = {}
    for value in values:
        if isinstance(value, torch.Tensor) and value.numel() > 1:
            found[value.untyped_storage().data_ptr()] = value.numel() * value.element_size()
        elif isinstance(value, dict):
            found |= held(value.values())
    return found


def remembered(name, tokens, batch):
    with torch.no_grad():
        read = model_of(name)(torch.randint(0, 500, (batch, tokens)), use_cache=True)
    found = next(read[key] for key in ("cache", "past_key_values", "cache_params") if read.get(key) is not None)
    return sum(sum(held(vars(layer).values()).values()) for layer in found.layers)


@pytest.mark.parametrize(("tokens", "batch"), [(3, 1), (20, 2), (100, 2)])
@pytest.mark.parametrize("name", KINDS)
def test_a_cache_is_what_transformers_holds(name, tokens, batch):
    question = Question(task="generate", context=tokens, batch=batch)
    assert cache_bytes(facts_of(name), question, tokens) == pytest.approx(remembered(name, tokens, batch), rel=0.002)


CROSSING = {
    "t5": config(model_type="t5", vocab_size=512, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=3,
                 num_heads=4),
    "bart": config(model_type="bart", vocab_size=512, d_model=32, encoder_layers=2, decoder_layers=3,
                   encoder_attention_heads=4, decoder_attention_heads=8, encoder_ffn_dim=64, decoder_ffn_dim=64),
}  # fmt: skip


@pytest.mark.parametrize("name", CROSSING)
def test_a_decoder_remembers_what_its_encoder_read_as_well(name):
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    read, written, batch = 10, 5, 2
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**CROSSING[name]), dtype=torch.bfloat16).eval()
    with torch.no_grad():
        ids = [torch.ones(batch, tokens, dtype=torch.long) for tokens in (read, written)]
        caches = model(input_ids=ids[0], decoder_input_ids=ids[1], use_cache=True).past_key_values
    layers = (*caches.self_attention_cache.layers, *caches.cross_attention_cache.layers)
    holds = sum(sum(held(vars(layer).values()).values()) for layer in layers)
    question = Question(task="generate", context=read + written, reply=written, batch=batch)
    facts = read_facts(CROSSING[name])
    assert cache_bytes(facts, question, question.context) == holds
    assert "weights and cache are exact" in next(n.message for n in facts.notes if n.id == "encoder-decoder")
    with pytest.raises(Unsupported, match="encoder beside its decoder"):
        estimate(facts, Question())


def test_a_window_holds_the_whole_prompt_until_it_grows():
    # The layer cuts a view, so the storage of the whole prompt stays.
    with torch.no_grad():
        layers = model_of("mistral, sliding")(torch.randint(0, 500, (1, 100)), use_cache=True).past_key_values.layers
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for x in layers for t in (x.keys, x.values)
    }
    answer = estimate(facts_of("mistral, sliding"), Question(task="generate", context=101, reply=1))
    prefill = cache_bytes(facts_of("mistral, sliding"), GENERATE, 100)
    whole = sum(storages.values())
    assert whole == 100 * prefill // 31
    moments = {moment.name: moment.bytes for moment in answer.moments}
    assert moments["prefill"] > moments["after the last token"] + whole - prefill


@pytest.mark.parametrize(
    ("shape", "megabytes"),
    [
        # 32,768 tokens in bf16. A formula that takes every layer for full attention says 53.4, 3.0 and 4.0 GiB.
        (config(model_type="deepseek_v3"), 2.15 * 1024),
        (config(model_type="qwen3_next"), 0.82 * 1024),
        (PUBLISHED["mistral-7b"], 0.5 * 1024),
    ],
)
def test_latent_linear_and_sliding_layers_remember_less(shape, megabytes):
    found = cache_bytes(read_facts(shape), Question(task="generate", context=32_768), 32_768) / 2**20
    assert found == pytest.approx(megabytes, rel=0.01)


def test_a_cache_is_as_wide_as_it_is_asked_to_be():
    def size(**fields):
        return cache_bytes(facts_of("llama"), Question(task="generate", context=1000, **fields), 1000)

    plain = size()
    assert size(batch=3) == 3 * plain
    assert size(cache_dtype="fp32") == 2 * plain == size(precision="fp32")
    assert size(precision="fp32", cache_dtype="fp16") == plain
    assert plain / 4 < size(cache_dtype="int4") < plain / 2 < size(cache_dtype="int8") < plain


def test_a_static_cache_is_there_at_once_and_does_not_grow():
    question = Question(task="generate", context=1000, cache="static")
    assert cache_bytes(facts_of("llama"), question, 1) == cache_bytes(facts_of("llama"), question, 1000)
    held_once = cache_bytes(facts_of("mistral, sliding"), question, 1)
    assert held_once == 3 * 32 * 64 * 2  # three layers of 32 tokens, keys and values of 2 heads of 16


def test_a_window_cannot_be_quantized():
    with pytest.raises(Unsupported, match="sliding"):
        estimate(facts_of("gemma3"), Question(task="generate", cache_dtype="int4"))


# Against what was published: Qwen3, speed benchmark, transformers 4.51.3 on an H20, MB after the last token


@pytest.mark.parametrize(
    ("prompt", "quantized", "published"),
    [
        *[(6144, False, 2066), (14_336, False, 2963), (30_720, False, 4755)],
        *[(6144, True, 1658), (14_336, True, 2554), (30_720, True, 4347)],
    ],
)
def test_generating_with_qwen3_takes_what_was_measured(prompt, quantized, published):
    shape = dict(PUBLISHED["qwen3-0.6b"])
    if quantized:
        shape["quantization_config"] = {"quant_method": "gptq", "bits": 8, "group_size": 128}
    question = Question(task="generate", precision="as stored", context=prompt + 2048, reply=2048)
    if not quantized:
        question = Question(task="generate", context=prompt + 2048, reply=2048)
    answer = estimate(read_facts(shape), question, DEVICES["h100"])
    after = next(moment.bytes for moment in answer.moments if moment.name == "after the last token")
    assert after / 2**20 == pytest.approx(published, rel=0.002)
    assert answer.peak >= after


def test_reading_a_long_prompt_takes_what_was_traced():
    # A dry run of the 8B shape: 1.82 GiB beside weights and cache at 16,384 tokens.
    answer = estimate(facts_of("llama-3.1-8b"), Question(task="generate", context=16_385, reply=1))
    assert answer.moment == "prefill"
    assert answer.of("activations") / 2**30 == pytest.approx(1.82, rel=0.05)
    eager = estimate(facts_of("llama-3.1-8b"), Question(task="generate", context=16_385, reply=1, attention="eager"))
    assert eager.of("activations") > 5 * answer.of("activations")


def test_a_text_beyond_what_the_model_was_made_for_is_a_note():
    answer = estimate(facts_of("qwen3-0.6b"), Question(task="generate", context=100_000))
    assert [note.severity for note in answer.notes if note.id == "beyond-context"] == ["note"]
    assert "beyond-context" in [n.id for n in estimate(facts_of("qwen3-0.6b"), Question(context=100_000)).notes]


def test_several_devices_divide_weights_and_cache():
    one = estimate(facts_of("llama-3.1-8b"), Question(task="generate", context=8192))
    two = estimate(facts_of("llama-3.1-8b"), Question(task="generate", context=8192, devices=2, strategy="tensor"))
    copies = estimate(facts_of("llama-3.1-8b"), Question(task="generate", context=8192, devices=2, strategy="ddp"))
    assert two.of("weights") == one.of("weights") // 2
    assert copies.parts == one.parts
    assert "devices-assumed" in [note.id for note in two.notes]
