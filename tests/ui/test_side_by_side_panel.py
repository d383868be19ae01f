"""Side by side by its handlers: who is asked, what is shown of them and when, and how votes are counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pico import save_adapter

from studio import jobs
from studio.generation import GenerationSettings
from studio.jobs.comparing import Column
from studio.loading import LoadPlan
from studio.models import ModelRef, Precision
from studio.ui import side_by_side_panel as panel
from studio.ui import side_by_side_view as view
from studio.ui.side_by_side_view import Tally

SAMPLING = {name: getattr(GenerationSettings(), name) for name in GenerationSettings.__dataclass_fields__}
SAMPLING |= {"max_new_tokens": 8, "seed": "3"}


@pytest.fixture(autouse=True)
def _unloaded():
    yield
    list(jobs.unload())


def merged(updates):
    page = {}
    for update in updates:
        page |= update
    return page


def asked(pico, *chosen, blind=False, **changes):
    """The page after everybody was asked."""
    rows = {f"adapter_{n}": str(adapter) for n, (adapter, _) in enumerate(chosen)}
    rows |= {f"strength_{n}": strength for n, (_, strength) in enumerate(chosen)}
    plan = LoadPlan(ModelRef("folder", str(pico)), Precision.FP32)
    known = {"plan": plan, "prompt": "Hi", "mode": "Chat", "system": "", "blind": blind, "count": len(chosen)}
    return merged(panel.ask_all(**known | rows | SAMPLING | changes))


def test_base_and_adapters_are_named_and_what_fails_is_said_in_its_column(pico, tmp_path):
    good = save_adapter(tmp_path / "<b>good", pico)
    page = asked(pico, (good, 1), (good, 0.5), (tmp_path / "none", 1))
    found = page["found"]
    assert [found.count(f"<h4>{name}</h4>") for name in (view.BASE, "&lt;b&gt;good", "&lt;b&gt;good at 0.5")] == [1] * 3
    assert found.count("class='refused'") == 1
    assert found.count("seed 3") == 3
    assert found.count("adapter takes") == 2
    assert [value for _, value in page["choice"]["choices"]] == ["A", "B", "C", panel.NO_DIFFERENCE]
    assert [label for label, _ in page["choice"]["choices"]][:2] == [view.BASE, "<b>good"]
    assert page["note"] == ""
    assert not page["stop"]["visible"]


def test_names_are_hidden_until_the_vote_and_the_tally_goes_by_name(pico, tmp_path):
    good = save_adapter(tmp_path / "good", pico)
    pages = []
    for update in panel.ask_all(
        plan=LoadPlan(ModelRef("folder", str(pico)), Precision.FP32), count=1, adapter_0=str(good), strength_0=1,
        prompt="Hi", mode="Chat", system="", blind=True, **SAMPLING,
    ):  # fmt: skip
        pages.append(update)
    assert not any(name in update.get("found", "") for update in pages for name in ("good", view.BASE, "takes"))
    last = merged(pages)["last"]
    at = next(number for number, side in enumerate(last.sides) if side.name == "good")
    page = panel.vote(last=last, votes=Tally(), choice=view.letter(at))
    assert f"{view.letter(at)}: good" in page["found"]
    assert page["votes"] == Tally({"good": 1}, {view.BASE: 1, "good": 1})
    assert page["tally"].index("good") < page["tally"].index(view.BASE)
    assert "100%" in page["tally"]
    assert panel.vote(last=page["last"], votes=page["votes"], choice="A") == {}  # one vote a round
    more = panel.vote(last=replace(last, choice=""), votes=page["votes"], choice=panel.NO_DIFFERENCE)
    assert more["votes"] == Tally({"good": 1}, {view.BASE: 2, "good": 2}, 1)
    assert "50%" in more["tally"]
    cleared = panel.clear()
    assert (cleared["votes"], cleared["tally"]) == (Tally(), "")


def test_the_order_of_a_blind_round_is_not_the_order_of_the_choice(monkeypatch, pico, tmp_path):
    adapter = save_adapter(tmp_path / "good", pico)
    monkeypatch.setattr("random.SystemRandom.sample", lambda _self, population, _k: list(population)[::-1])
    page = asked(pico, (adapter, 1), blind=True)
    assert [side.name for side in page["last"].sides] == ["good", view.BASE]
    assert [isinstance(side.end, jobs.comparing.Answer) for side in page["last"].sides] == [True, True]


def test_what_cannot_be_asked_says_why(pico, tmp_path):
    adapter = save_adapter(tmp_path / "good", pico)
    assert "No adapter is chosen" in asked(pico, (None or "", 1))["note"]
    assert "Two columns are the same" in asked(pico, (adapter, 1), (adapter, 1))["note"]
    assert "There is no prompt" in asked(pico, (adapter, 1), prompt=" ")["note"]
    assert "nothing" not in asked(pico, (adapter, 1), mode="Completion")["note"]


def test_two_adapters_with_one_name_are_told_apart():
    columns = [Column(), Column("/a/adapter"), Column("/b/adapter", 0.5), Column("/a/adapter", 0.5), Column("x/y")]
    assert view.named(columns, {}) == [view.BASE, "/a/adapter", "/b/adapter at 0.5", "/a/adapter at 0.5", "y"]
    assert view.named(columns[:2], {"/a/adapter": "Pirate"}) == [view.BASE, "Pirate"]


def test_rows_are_added_and_taken_out_and_a_kind_without_strength_says_so(pico, tmp_path):
    import peft
    from transformers import AutoModelForCausalLM

    dora = tmp_path / "dora"
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(pico), settings).save_pretrained(dora)
    found = panel.looked_at(adapter=str(dora))["strength"]
    assert (found["value"], found["interactive"]) == (1, False)
    assert "length of every weight" in found["info"]
    assert "no folder" in panel.looked_at(adapter="/nowhere")["strength"]["info"].lower()
    assert panel.looked_at(adapter=None)["strength"]["interactive"]
    assert panel.added(count=1)["row_1"]["visible"]
    assert not panel.added(count=panel.ROWS - 1)["add"]["interactive"]
    rows = {"adapter_0": "x/a", "strength_0": 1, "adapter_1": str(dora), "strength_1": 1}
    page = panel._dropping(0)(count=2, **rows)
    assert (page["count"], page["adapter_0"], page["strength_0"]["interactive"]) == (1, str(dora), False)
    assert not page["row_1"]["visible"]
    assert panel._dropping(0)(count=1, **rows)["adapter_0"] is None


def test_the_adapter_that_the_page_talks_to_is_chosen_first(pico, tmp_path):
    plan = LoadPlan(ModelRef("folder", str(pico)), adapter=save_adapter(tmp_path / "mine", pico))
    page = panel.opened(plan=plan, count=1, adapter_0=None)
    assert page["adapter_0"]["value"] == str(plan.adapter)
    assert "value" not in panel.opened(plan=plan, count=1, adapter_0="x/y")["adapter_0"]
    assert "value" not in panel.opened(plan=replace(plan, adapter=None), count=1, adapter_0=None)["adapter_0"]
