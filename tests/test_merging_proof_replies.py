"""What is made of scores and replies: a tie that rounding decides is no fault, and anything beyond it is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from proof_steps import save_base, save_lora

from studio.merging.proving_judgement import judge
from studio.merging.proving_replies import FACTOR, Distance, Expectation, Heard, apart

NOISE = Distance(0.01, 0.001, 1e-6)
EXPECTED = Expectation(Distance(1e-6, 1e-7, 1e-13), NOISE, Distance(3.0, 0.5, 0.4), size=0.0)


def heard(replies=((5, 6, 7),), change=0.0, loss=None):
    """Scores of a prompt of two tokens and a reply of three, over ten tokens."""
    scores = torch.zeros(5, 10)
    for place, token in zip((1, 2, 3), (5, 6, 7), strict=True):
        scores[place, token] = 1.0
        scores[place, 9] = 0.99  # nearly as good
    return Heard(((1, 2),), replies, tuple(map(str, replies)), (scores + change,), loss)


def found(merged, reference=None):
    return {check.name: check for check in judge(reference or heard(), merged, EXPECTED, rows=4)}


def test_the_same_is_the_same():
    checks = found(heard())
    assert {check.state for name, check in checks.items() if name != "perplexity"} == {"passed"}
    assert checks["replies"].words == "All 3 tokens of 1 replies are the same."


def test_a_tie_that_rounding_decides_is_explained():
    checks = found(heard(((5, 9, 7),)))
    assert checks["replies"].state == "passed"
    assert checks["replies"].found == pytest.approx(0.01)
    assert "differs from token 2 on" in checks["replies"].words
    assert "Rounding explains that." in checks["replies"].words


def test_a_reply_that_no_rounding_explains_fails():
    checks = found(heard(((5, 6, 8),)))
    assert checks["replies"].state == "failed"
    assert checks["replies"].found == pytest.approx(1.0)
    assert "(5, 6, 7)" in checks["replies"].words


@pytest.mark.parametrize(("times", "state"), [(0.9, "passed"), (1.1, "failed")])
def test_scores_may_be_so_far_apart_as_the_factor_says(times, state):
    change = torch.zeros(5, 10)
    change[4, 0] = times * FACTOR * NOISE.largest
    assert found(heard(change=change))["scores"].state == state


@pytest.mark.parametrize(("times", "state"), [(0.9, "passed"), (1.1, "failed")])
def test_the_loss_may_move_by_twice_what_scores_do(times, state):
    after = 2.0 + times * 2 * FACTOR * NOISE.mean
    check = found(heard(loss=after), heard(loss=2.0))["perplexity"]
    assert check.state == state
    assert "on 4 held-out rows" in check.words


def test_scores_that_are_no_numbers_fail():
    checks = found(heard(change=torch.nan))
    assert checks["scores"].state == checks["mean score"].state == checks["KL"].state == "failed"


def test_another_vocabulary_fails_in_every_check():
    other = replace(heard(), scores=(torch.zeros(5, 11),))
    assert {check.state for check in judge(heard(), other, EXPECTED, 0)} == {"failed"}


def test_an_adapter_that_rounding_hides_is_told():
    expected = replace(EXPECTED, adapter=Distance(1e-3, 1e-4, 1e-8))
    assert "the tensors alone tell" in judge(heard(), heard(), expected, 0)[0].words


def test_kl_is_that_of_the_definition():
    torch.manual_seed(0)
    ours, theirs = torch.randn(40, 50), torch.randn(40, 50)
    p, q = ours.double().softmax(-1), theirs.double().softmax(-1)
    distance = apart((ours,), (theirs,))
    assert distance.kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()))
    assert distance.mean == pytest.approx(float((ours - theirs).abs().mean()))
    assert distance.largest == pytest.approx(float((ours - theirs).abs().max()))


def test_what_is_measured_is_what_rounding_does(tmp_path):
    """What is measured is right, and the guess of the first order, 0.42 u √n of the scores, is near it."""
    import warnings
    from threading import Event

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from studio.merging.proving_replies import expect, hear_reference

    base = save_base(tmp_path / "base", dtype="bf16")
    adapter = save_lora(tmp_path / "adapter", base, target_modules="all-linear")

    def adapted():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(model, str(adapter)).eval()

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = adapted()
    reference = hear_reference(model, tokenizer, ("Hello",), (), 8)(print, Event())
    measured = expect(model, reference, torch.bfloat16, 8)(lambda _: None, Event())
    tokens = torch.tensor([[*reference.prompts[0], *reference.replies[0]]])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = adapted()(tokens).logits[0]
        rounded = adapted().merge_and_unload().bfloat16().float()(tokens).logits[0]
    assert measured.rounded.largest == pytest.approx(float((before - rounded).abs().max()), rel=1e-3)
    spread = float((before - rounded).norm() / before.norm())
    guess = 0.42 * 2**-8 * 14**0.5
    assert guess / 5 < spread < guess * 5
    assert measured.summed.largest < measured.rounded.largest / 100
    assert measured.adapter.largest > measured.rounded.largest
