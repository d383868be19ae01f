"""What a precision costs in quality: numbers that can be trusted, from a text that every model can read."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import torch
from pico import load_pico, save_adapter, save_pico

from studio import compute, jobs, quality
from studio.compute import Room
from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.events import Finished, Phase
from studio.generation import GenerationSettings, Prompt, stream
from studio.loading import LoadPlan
from studio.models import STARTER, ModelRef, Precision
from studio.quality import bundled_text, compare, read
from studio.settings import STARTER_FOLDER
from studio.tokenizer import Message


@pytest.fixture(autouse=True)
def _unloaded():
    yield
    if jobs.SESSION.status().resident:
        list(jobs.unload())


@pytest.fixture(scope="module")
def starter():
    return load_pico(STARTER_FOLDER, precision=Precision.BF16)


@pytest.fixture(scope="module")
def story(starter):
    """A text that the starter model knows well, for it wrote it."""
    texts = []
    for subject in ("a dog", "a bear", "a boat", "a fox"):
        prompt = Prompt((Message("user", f"Tell me a story about {subject}."),))
        *_, last = stream(starter, prompt, GenerationSettings(greedy=True, max_new_tokens=120))
        texts.append(f"<|user|>\nTell me a story about {subject}.<|end|>\n<|assistant|>\n{last.result.text}")
    return "\n".join(texts)


def result(work):
    said = []
    while True:
        try:
            said.append(next(work))
        except StopIteration as end:
            return end.value, said


def reading(loaded, *arguments, **options):
    return result(read(loaded, *arguments, **options))[0]


# The text


def test_the_text_is_plain_english_prose():
    text = bundled_text()
    assert text.isascii()
    assert 5000 < len(text) < 7000
    assert len(text.split("\n\n")) >= 8
    assert text == text.strip() + "\n"


# The numbers


def test_a_model_against_itself_is_the_same(starter):
    reference = reading(starter)
    found = compare(reference, reading(starter, reference))
    assert found.perplexity == found.reference_perplexity > 1
    assert (found.agreement, found.kl) == (1.0, 0.0)
    assert found.tokens == found.kl_tokens == len(reference.losses)


def test_a_text_of_one_window_gives_what_transformers_computes(loaded):
    text = "A man walks down the street with a long umbrella."
    ids = torch.tensor([loaded.tokenizer(text).input_ids])
    with torch.no_grad():
        loss = loaded.model(ids, labels=ids).loss
    assert reading(loaded, text=text).perplexity == pytest.approx(math.exp(loss), rel=1e-5)


def test_over_several_windows_every_token_is_scored_once_with_what_is_before_it(loaded, monkeypatch):
    monkeypatch.setattr(quality, "WINDOW", 20)
    text = bundled_text()[:73]
    ids = loaded.tokenizer(text).input_ids
    expected, scored, end = [], 1, 20
    while scored < len(ids):
        begin = max(0, end - 20)
        with torch.no_grad():
            logs = loaded.model(torch.tensor([ids[begin:end]])).logits[0].double().log_softmax(-1)
        expected += [-float(logs[place - 1 - begin, ids[place]]) for place in range(scored, end)]
        scored, end = end, min(end + 10, len(ids))
    found = reading(loaded, text=text)
    assert len(found.losses) == len(ids) - 1
    assert found.losses.tolist() == pytest.approx(expected, rel=1e-4)


def test_the_divergence_is_that_of_the_textbook(loaded, tmp_path):
    other = load_pico(save_pico(tmp_path / "other", initializer_range=0.3))
    text = bundled_text()[:60]
    ids = torch.tensor([loaded.tokenizer(text).input_ids])
    with torch.no_grad():
        mine, theirs = (model(ids).logits[0, :-1].double().log_softmax(-1) for model in (other.model, loaded.model))
    expected = float((theirs.exp() * (theirs - mine)).sum(-1).mean())
    reference = reading(loaded, text=text)
    found = compare(reference, reading(other, reference, text=text))
    assert found.kl == pytest.approx(expected, rel=1e-3)
    assert found.kl > 0.1
    assert found.agreement == pytest.approx(float((mine.argmax(-1) == theirs.argmax(-1)).double().mean()))


def test_every_precision_is_as_good_as_its_bits(starter, story):
    reference, found = reading(starter, text=story), {}
    assert reference.perplexity < 20, "the model knows this text"
    for precision in (Precision.FP32, Precision.INT8, Precision.NF4):
        found[precision] = compare(
            reference, reading(load_pico(STARTER_FOLDER, precision=precision), reference, text=story)
        )
    fp32, int8, nf4 = found.values()
    assert fp32.perplexity == pytest.approx(reference.perplexity, rel=0.02)
    assert int8.perplexity == pytest.approx(reference.perplexity, rel=0.03)
    assert reference.perplexity < nf4.perplexity < 2 * reference.perplexity
    assert fp32.kl < int8.kl < nf4.kl
    assert int8.agreement > 0.95
    assert 0.6 < nf4.agreement < int8.agreement
    assert all(math.isfinite(number) for of in found.values() for number in (of.perplexity, of.kl, of.agreement))


def test_where_the_scores_of_all_tokens_take_too_much_room_some_will_do(starter, monkeypatch):
    worse = load_pico(STARTER_FOLDER, precision=Precision.NF4)
    whole = reading(starter)
    full = compare(whole, reading(worse, whole))
    monkeypatch.setattr(quality, "KEPT_BYTES", whole.scores.numel() * whole.scores.element_size() // 7 + 1)
    part = reading(starter)
    assert part.scores.untyped_storage().nbytes() < whole.scores.untyped_storage().nbytes() / 6
    assert torch.equal(part.scores, whole.scores[::7])
    few = compare(part, reading(worse, part))
    assert few.kl_tokens == -(full.tokens // -7)
    assert few.kl == pytest.approx(full.kl, rel=0.3)
    assert replace(few, kl=full.kl, kl_tokens=full.kl_tokens, seconds=full.seconds) == full


# Models and texts of every kind


def test_a_model_that_does_not_say_how_much_it_reads_is_measured(pico):
    loaded = load_pico(pico)
    loaded = replace(loaded, resident=replace(loaded.resident, context=None))
    assert math.isfinite(reading(loaded).perplexity)


@pytest.mark.parametrize("context", [8, 512])
def test_no_window_is_longer_than_the_context(tmp_path, context):
    loaded, lengths = load_pico(save_pico(tmp_path / "short", context=context)), []
    hook = loaded.model.register_forward_pre_hook(
        lambda _module, _arguments, options: lengths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    found = reading(loaded, text=bundled_text()[:900])
    hook.remove()
    assert len(found.losses) == 899
    assert max(lengths) == context


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_without_anything_to_score_is_refused(loaded, text):
    with pytest.raises(InputError, match="too little text"):
        reading(loaded, text=text)


def test_two_tokens_are_a_text(loaded):
    assert len(reading(loaded, text="ab").losses) == 1


def test_what_begins_every_text_begins_every_window(pico):
    from tokenizers.processors import TemplateProcessing

    loaded = load_pico(pico)
    loaded.tokenizer.bos_token = "<|user|>"
    number = loaded.tokenizer.bos_token_id
    loaded.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|user|> $A", special_tokens=[("<|user|>", number)]
    )
    seen = []
    hook = loaded.model.register_forward_pre_hook(
        lambda _module, _arguments, options: seen.append(options["input_ids"][0]), with_kwargs=True
    )
    found = reading(loaded, text=bundled_text()[:1200])
    hook.remove()
    assert len(found.losses) == 1200, "with something before it, the first token is scored too"
    assert len(seen) > 2
    assert {int(ids[0]) for ids in seen} == {number}
    assert max(len(ids) for ids in seen) == quality.WINDOW


def test_two_texts_are_not_compared(loaded):
    with pytest.raises(InputError, match="another text"):
        reading(loaded, reading(loaded, text="one"), text="two")


def test_a_model_that_gives_no_numbers_is_found_out(pico):
    loaded = load_pico(pico)
    with torch.no_grad():
        loaded.model.model.norm.weight[0] = float("nan")
    with pytest.raises(Damaged, match="not numbers"):
        reading(loaded)


def test_a_tokenizer_of_another_model_is_found_out(tmp_path):
    small = load_pico(save_pico(tmp_path / "small", vocab_size=40))
    with pytest.raises(Damaged, match="tokenizer"):
        reading(small)


# While it runs


def test_it_tells_how_far_it_is_and_leaves_nothing_in_the_model(loaded):
    found, said = result(read(loaded))
    assert {event.phase for event in said} == {Phase.MEASURE}
    done = [event.done for event in said]
    assert done == sorted(done)
    assert {event.total for event in said} == {len(found.losses)}
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())
    assert torch.is_grad_enabled()


def test_it_ends_in_the_midst_of_a_window(loaded):
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        go_on.wait(30)

    after = []
    layers = loaded.model.model.layers
    hooks = [layers[0].register_forward_pre_hook(wait), layers[1].mlp.register_forward_hook(lambda *_: after.append(1))]
    work = read(loaded)
    next(work)
    next(work)
    assert inside.wait(30)
    threading.Timer(0.3, go_on.set).start()
    work.close()
    for hook in hooks:
        hook.remove()
    assert after == []
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("studio-work")]


# The job


def test_the_job_leaves_the_model_of_the_plan_in_memory():
    *events, last = jobs.check_quality(LoadPlan(STARTER, Precision.NF4), token=False)
    assert isinstance(last, Finished)
    found = last.result
    assert found.tokens > 500
    assert 0.6 < found.agreement < 1
    assert found.kl > 0
    assert {Phase.MEASURE, Phase.READ, Phase.QUANTIZE} <= {event.phase for event in events}
    status = jobs.SESSION.status()
    assert status.resident.plan.precision is Precision.NF4
    assert status.busy_with is None


def test_an_adapter_is_on_both(pico, tmp_path):
    plan = LoadPlan(ModelRef("folder", str(pico)), Precision.FP32, save_adapter(tmp_path / "lora", pico))
    *_, last = jobs.check_quality(plan, token=False)
    assert last.result.agreement > 0.9
    assert last.result.kl < 0.01


def test_sixteen_bit_is_not_compared_with_itself():
    reference = quality.reference_plan(LoadPlan(STARTER, Precision.NF4), STARTER_FOLDER)
    with pytest.raises(InputError, match="what others are compared with"):
        list(jobs.check_quality(LoadPlan(STARTER, reference.precision), token=False))


def test_a_checkpoint_that_is_quantized_already_has_nothing_to_be_compared_with(tmp_path):
    load_pico(STARTER_FOLDER, precision=Precision.NF4).model.save_pretrained(tmp_path)
    for file in STARTER_FOLDER.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(Unsupported, match="quantized already"):
        list(jobs.check_quality(LoadPlan(ModelRef("folder", str(tmp_path))), token=False))


def test_where_sixteen_bit_does_not_fit_nothing_is_read_and_the_model_stays(monkeypatch):
    plan = LoadPlan(STARTER, Precision.NF4)
    list(jobs.load(plan, token=False))
    # 4.5 MB are free, and the 2.8 MB that the model holds would come free: 7.9 MB find no room.
    room = [Room("cpu", 4_500_000 + 300_000_000)]
    monkeypatch.setattr(compute, "rooms", lambda: room)
    with pytest.raises(DoesNotFit, match="which does not fit"):
        list(jobs.check_quality(plan, token=False))
    assert jobs.SESSION.status().resident.plan.precision is Precision.NF4


def test_a_model_that_makes_room_counts_as_room(monkeypatch):
    monkeypatch.setattr(compute, "rooms", lambda: [Room("cpu", 5_500_000 + 300_000_000)])
    plan = LoadPlan(STARTER, Precision.NF4)
    with pytest.raises(DoesNotFit):
        quality.reference_plan(plan, STARTER_FOLDER)
    assert quality.reference_plan(plan, STARTER_FOLDER, held=2_842_032).precision is Precision.BF16
