"""What a model knows, before and after: figures that can be trusted, and a model that stays as it was."""

from __future__ import annotations

import math
import pickle
import time
from dataclasses import asdict, replace

import pytest
import torch
from evaluation_steps import SHORT, SLOW, chat, conversations, examples, standing
from pico import load_pico, save_adapter, save_pico

from studio import quality
from studio.errors import Damaged, InputError
from studio.evaluation import Check, Exam, Kind, Meter, Question, Score, look, read_checks
from studio.events import Finished, Phase
from studio.generation import GenerationSettings, Prompt, stream
from studio.models import STARTER, Precision
from studio.settings import ASSETS, STARTER_FOLDER
from studio.tokenizer import Message, mask_conversation, masked_completion, masked_text

PAIRS = [("Hi", "Hello!"), ("What is a long question about a street?", "A man walks."), ("Bye", "So long, my friend.")]


@pytest.fixture
def rows(loaded, tmp_path):
    return conversations(tmp_path / "rows", loaded.tokenizer, PAIRS)


def state(model):
    """Everything that a look could have changed."""
    modes = [module.training for module in model.modules()]
    needed = [weight.requires_grad for weight in model.parameters()]
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    return modes, needed, hooks, torch.get_rng_state().tolist(), model.generation_config.to_dict()


# The figures


def test_the_loss_is_that_of_transformers_over_all_trained_tokens(loaded, rows):
    total = count = 0
    for pair in PAIRS:
        masked = mask_conversation(loaded.tokenizer, chat(*pair))
        ids = torch.tensor([masked.ids])
        labels = torch.where(torch.tensor([masked.trained]), ids, -100)
        with torch.no_grad():
            total += loaded.model(ids, labels=labels).loss.item() * sum(masked.trained)
        count += sum(masked.trained)
    found = standing(loaded, Exam(rows, text=SHORT))
    assert found.loss == pytest.approx(total / count, rel=1e-5)
    assert (found.rows, found.loss_tokens) == (3, count)


def test_the_loss_does_not_depend_on_how_rows_are_batched(loaded, rows, monkeypatch):
    together = standing(loaded, Exam(rows, text=SHORT)).loss
    monkeypatch.setattr("studio.evaluation.scoring.BATCH_TOKENS", 1)
    assert standing(loaded, Exam(rows, text=SHORT)).loss == pytest.approx(together, rel=1e-5)


def test_the_perplexity_is_that_of_the_quality_check(loaded):
    work = quality.read(loaded, text=quality.bundled_text()[:900])
    while True:
        try:
            next(work)
        except StopIteration as end:
            expected = end.value
            break
    found = standing(loaded, Exam(text=quality.bundled_text()[:900]))
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert found.text_tokens == len(expected.losses)
    assert (found.rows, found.loss, found.exact, found.scores) == (0, None, None, ())


def test_a_reply_in_a_batch_is_the_one_that_chat_gives_alone(tmp_path):
    loaded = load_pico(save_pico(tmp_path / "model", initializer_range=0.3))
    prompts = ("Hi", "What is it that a man with a long umbrella does on the street?", "And now?")
    found = standing(loaded, Exam(prompts=prompts, text=SHORT, limit=20))
    for said in found.said:
        *_, last = stream(
            loaded, Prompt((Message("user", said.prompt),)), GenerationSettings(greedy=True, max_new_tokens=20)
        )
        assert said.reply == last.result.text
    assert len({said.reply for said in found.said}) == 3
    assert (found.asked, found.ended, found.limit) == (3, sum(said.ended for said in found.said), 20)


def test_a_reply_that_is_the_rows_own_is_an_exact_match(tmp_path):
    loaded = load_pico(save_pico(tmp_path / "model"))
    teach(loaded, [("Hi", "Yes."), ("Bye", "No.")])
    pairs = [("Hi", "Yes."), ("Bye", "No."), ("Hi", "Yes. "), ("Bye", "N")]
    found = standing(loaded, Exam(conversations(tmp_path / "rows", loaded.tokenizer, pairs), text=SHORT, limit=8))
    assert found.exact == Score("exact match", "learnt", 2, 4)
    assert (found.asked, found.ended) == (2, 2), "the same prompt is asked once"


def test_what_has_no_prompt_or_no_end_is_not_matched(loaded, tmp_path):
    whole, cut = masked_text(loaded.tokenizer, "Once upon a time."), masked_completion(loaded.tokenizer, "A: ", "b")
    cut = replace(cut, ids=cut.ids[:-1], trained=cut.trained[:-1])
    found = standing(loaded, Exam(examples(tmp_path / "rows", [whole, cut]), text=SHORT))
    assert found.exact is None
    assert found.asked == 0
    assert math.isfinite(found.loss)


def test_a_check_is_asked_of_the_held_out_rows_or_of_its_own_questions(tmp_path):
    loaded = load_pico(save_pico(tmp_path / "model"))
    teach(loaded, [("Hi", "Yes."), ("Bye", "No.")])
    rows = conversations(tmp_path / "rows", loaded.tokenizer, [("Hi", "Yes."), ("Bye", "Yes.")])
    own = (Question((Message("user", "Hi"),), "Yes.", ("yes", "never")),)
    checks = (
        Check("says no", Kind.MARKS, pattern="no"),
        Check("half of the words", Kind.WORDS, own, "kept", share=0.5),
        Check("all of the words", Kind.WORDS, own, "kept"),
        Check("the answer", Kind.EXACT, own),
    )
    scores = standing(loaded, Exam(rows, checks, text=SHORT, limit=8)).scores
    assert [(score.good, score.of) for score in scores] == [(1, 2), (1, 1), (0, 1), (1, 1)]
    assert [score.tells for score in scores] == ["learnt", "kept", "kept", "learnt"]


def test_a_pattern_that_never_ends_costs_its_own_figure_alone(loaded, rows):
    slow = Check("slow", Kind.MARKS, pattern=SLOW)
    found = standing(loaded, Exam(rows, (slow, Check("quick", Kind.MARKS, pattern=".")), text=SHORT, limit=40))
    assert [(score.of, bool(score.note)) for score in found.scores] == [(0, True), (3, False)]
    assert found.scores[0].share is None


def test_of_many_rows_some_are_drawn_and_the_same_again(loaded, tmp_path):
    pairs = [(f"Number {number}", f"{number}!") for number in range(30)]
    rows = conversations(tmp_path / "rows", loaded.tokenizer, pairs)
    question = tuple(Question(chat(*pair)[:1], pair[1]) for pair in pairs)
    exam = Exam(rows, (Check("own", Kind.EXACT, question),), text=SHORT, most=4, limit=2)
    first, again, other = (standing(loaded, one) for one in (exam, exam, replace(exam, seed=1)))
    assert replace(first, seconds=0) == replace(again, seconds=0)
    assert first.loss != other.loss
    assert (first.rows, first.exact.of, first.scores[0].of, first.asked) == (4, 4, 4, 4), "both draw the same four"


def test_a_prompt_that_leaves_no_room_is_left_out(tmp_path):
    loaded = load_pico(save_pico(tmp_path / "model", context=64))
    found = standing(loaded, Exam(prompts=("a" * 80, "Hi"), text=SHORT, limit=100))
    assert found.said[0].reply == ""
    assert len(found.said[1].reply) > 10
    assert found.asked == 1


def test_without_a_chat_template_the_text_itself_is_the_prompt(tmp_path):
    loaded = load_pico(save_pico(tmp_path / "model", chat_template=None))
    found = standing(loaded, Exam(prompts=("Once upon",), text=SHORT, limit=10))
    *_, last = stream(loaded, Prompt(text="Once upon"), GenerationSettings(greedy=True, max_new_tokens=10))
    assert found.said[0].reply == last.result.text


def test_a_model_whose_scores_are_no_numbers_is_named(pico, rows):
    loaded = load_pico(pico)
    with torch.no_grad():
        loaded.model.model.norm.weight.fill_(math.nan)
    with pytest.raises(Damaged, match="not numbers"):
        standing(loaded, Exam(rows, text=SHORT))


def test_asking_nothing_is_refused():
    with pytest.raises(InputError, match="nothing is asked"):
        Exam(limit=0)


# The model stays as it was


def test_a_model_in_training_goes_on_as_if_nothing_had_been(pico, rows):
    from peft import LoraConfig, get_peft_model

    loaded = load_pico(pico)
    tuned = get_peft_model(loaded.model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)).train()
    tuned.base_model.model.lm_head.eval()
    # Switched off and on, PEFT would train all of an adapter again.
    next(weight for weight in tuned.parameters() if weight.requires_grad).requires_grad_(False)
    before = state(tuned)
    for adapted in (True, False):
        standing(loaded, Exam(rows, prompts=("Hi",), text=SHORT, limit=4), adapted=adapted, model=tuned)
        assert state(tuned) == before


@pytest.mark.parametrize("precision", [Precision.NF4, Precision.INT8])
def test_quantized_weights_are_the_same_to_the_bit(pico, rows, precision):
    loaded = load_pico(pico, precision=precision)
    before = {name: weight.clone() for name, weight in loaded.model.state_dict().items() if torch.is_tensor(weight)}
    standing(loaded, Exam(rows, text=SHORT, limit=4))
    after = loaded.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_without_its_adapter_a_model_is_the_one_before(pico, loaded, rows, tmp_path):
    exam = Exam(rows, prompts=("Hi",), text=SHORT, limit=8)
    tuned = load_pico(pico, adapter=save_adapter(tmp_path / "adapter", pico))
    before, after = standing(tuned, exam, adapted=False), standing(tuned, exam)
    plain = standing(loaded, exam)
    assert replace(before, seconds=0, loss=0, perplexity=0) == replace(plain, seconds=0, loss=0, perplexity=0)
    assert (before.loss, before.perplexity) == pytest.approx((plain.loss, plain.perplexity), rel=1e-5)
    assert abs(after.loss - before.loss) > 0.001
    assert standing(tuned, exam).loss == after.loss, "the adapter is on again"


@pytest.mark.parametrize("phase", [Phase.MEASURE, Phase.ASK])
def test_a_look_ends_at_once_when_nobody_waits(pico, rows, phase):
    loaded = load_pico(pico)
    before = state(loaded.model)
    # Some minutes of reading, or of writing.
    text = quality.bundled_text() * (40 if phase is Phase.MEASURE else 1)
    work = look(loaded.model, loaded.tokenizer, Exam(rows, text=text, limit=450))
    event = next(work)
    while not (isinstance(event, Finished) or (event.phase is phase and event.total)):
        event = next(work)
    assert event.phase is phase
    started = time.monotonic()
    work.close()
    assert time.monotonic() - started < 10
    assert state(loaded.model) == before


def test_progress_counts_tokens_and_then_answers(loaded, rows):
    *events, last = look(loaded.model, loaded.tokenizer, Exam(rows, text=SHORT, limit=100))
    assert isinstance(last, Finished)
    assert list(dict.fromkeys(event.phase for event in events)) == [Phase.MEASURE, Phase.ASK]
    assert (events[-1].done, events[-1].total) == (3, 3)


# What lies between


def teach(loaded, pairs):
    """Learn pairs by heart."""
    optimizer = torch.optim.AdamW(loaded.model.parameters(), 1e-2)
    rows = [mask_conversation(loaded.tokenizer, chat(*pair)) for pair in pairs]
    for _ in range(60):
        for row in rows:
            ids = torch.tensor([row.ids])
            loaded.model(ids, labels=torch.where(torch.tensor([row.trained]), ids, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_meter_says_what_was_learnt_and_what_was_forgotten(tmp_path):
    loaded = load_pico(save_pico(tmp_path / "model"))
    rows = conversations(tmp_path / "rows", loaded.tokenizer, [("Hi", "Yes."), ("Bye", "No.")])
    checks = (Check("any", Kind.MARKS, pattern=r".|\n", tells="kept"), Check("yes", Kind.MARKS, pattern="yes"))
    exam = Exam(rows, checks, text=quality.bundled_text()[:300], limit=8)
    before = standing(loaded, exam)
    teach(loaded, [("Hi", "Yes."), ("Bye", "No.")])
    meter = Meter(before, standing(loaded, exam))
    assert meter.halved
    assert meter.loss_ratio == meter.after.loss / meter.before.loss < 0.1
    assert [(change.name, change.before, change.after, change.of) for change in meter.learnt] == [
        ("exact match", 0.0, 1.0, 2),
        ("yes", 0.0, 0.5, 2),
    ]
    assert [(change.name, change.retained) for change in meter.kept] == [("any", 1.0)]
    assert meter.learnt[0].retained is None, "nothing was there"
    assert meter.perplexity_ratio == meter.after.perplexity / meter.before.perplexity != 1
    assert pickle.loads(pickle.dumps(meter)) == meter
    assert asdict(meter)["after"]["exact"]["good"] == 2


def test_two_looks_at_different_things_are_not_compared(loaded, rows):
    one, other = standing(loaded, Exam(rows, text=SHORT, limit=2)), standing(loaded, Exam(text=SHORT, limit=2))
    with pytest.raises(InputError, match="did not ask the same"):
        Meter(one, other)


def test_without_held_out_rows_the_meter_speaks_of_the_text_alone(loaded):
    meter = Meter(*(standing(loaded, Exam(text=SHORT)) for _ in range(2)))
    assert (meter.loss_ratio, meter.halved, meter.learnt, meter.kept) == (None, None, (), ())
    assert meter.perplexity_ratio == 1


# The starter


def test_the_starter_knows_its_facts_and_speaks_in_its_own_voice():
    starter = load_pico(STARTER_FOLDER, precision=Precision.FP32)
    exam = Exam(checks=read_checks(ASSETS / "datasets" / "persona"), text=quality.bundled_text(STARTER), most=25)
    found = standing(starter, exam)
    shares = {score.name: score.share for score in found.scores}
    assert shares["voice"] <= 0.05
    assert shares["on topic"] >= 0.9
    assert shares["retained facts"] >= 0.95
    assert found.perplexity < 4
    assert found.ended == found.asked
