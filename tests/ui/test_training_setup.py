"""Setting a run up, handler by handler: what the widgets ask for, what a preset chooses, what is refused."""

from __future__ import annotations

import dataclasses

import gradio as gr
import pytest

from studio import runs
from studio.dataset import ColumnMapping, Format, Preparation
from studio.errors import InputError
from studio.loading import Placement, Quantization
from studio.memory import Question
from studio.models import STARTER
from studio.training import DataSource, TrainingSettings
from studio.ui import training_data, training_how, training_setup, training_sources
from studio.ui.data_panel import Cut
from studio.ui.dataset_chooser import FILE, HUB, NO_COLUMN, PASTED, RECOGNISED, STARTER_SET
from studio.ui.training_how import OWN, SETTING
from studio.ui.training_sources import A_SHARE, PREPARED

ROWS = '{"prompt": "Where is the harbour?", "completion": "Two streets down."}\n'
VALUES = {
    "model": "starter",
    "precision": "auto",
    "attention": "auto",
    **dataclasses.asdict(Quantization()),
    **dataclasses.asdict(Placement()),
    "where": STARTER_SET,
    "bundled": "persona",
    "file": None,
    "pasted": "",
    "name": "",
    "looked": None,
    "split": None,
    "format_": RECOGNISED,
    "apart": A_SHARE,
    "mixed": "",
    **dict.fromkeys(f"column_{number}" for number in range(4)),
    **{f"{PREPARED}{name}": value for name, value in dataclasses.asdict(Preparation()).items()},
    **training_how.shown(TrainingSettings()),
    "prompts": "",
    "run_name": "",
    "rows": None,
    "recognised": None,
    "amount": None,
    "at": 0,
    "preset": "Quick",
}


def merged(updates, values=VALUES):
    """The page after these updates."""
    page = dict(values)
    for update in updates:
        page |= update
    return page


def looked(**changed):
    """The values of the page once the rows were looked at, as the handlers get them."""
    page = VALUES | changed
    for update in training_data.look(**page):
        for name, value in update.items():
            is_change = isinstance(value, dict) and "__type__" in value
            page[name] = value.get("value", page.get(name)) if is_change else value
    return page


def test_opened_and_nothing_touched_it_is_the_starter_on_the_persona_measured_with_its_own_test_rows():
    page = looked()
    run, files = training_setup.run_of(page)
    assert (run.plan.model, run.data, run.held_out, files) == (
        STARTER,
        (DataSource("persona:train"),),
        DataSource("persona:test"),
        (),
    )
    assert len(run.prompts) == training_sources.PROMPTS
    assert "762 examples to learn from, 115 held out" in page["every"]
    assert "Row 1 of 762" in page["title"]
    assert 'class="tokens"' in page["row"]


def test_a_preset_sets_every_setting_and_the_limit_and_says_what_it_means():
    page = looked()
    quick = merged(training_setup.plan_ahead(**page), page)
    thorough = merged(training_setup.plan_ahead(**page | {"preset": "Thorough"}), page)
    assert quick[f"{SETTING}epochs"] < thorough[f"{SETTING}epochs"]
    assert quick[f"{SETTING}rank"] < thorough[f"{SETTING}rank"]
    assert quick[f"{PREPARED}limit"] < Preparation().limit
    assert "on this machine" in quick["meaning"]
    assert "fits" in quick["takes"]
    modules = quick[training_how.TARGETS]["choices"]
    assert "q_proj" in [name for _, name in modules]
    assert all("×" in said for said, _ in modules)


def test_settings_of_ones_own_are_left_alone_and_estimated_as_they_are():
    page = looked() | {f"{SETTING}rank": 64, f"{SETTING}batch_tokens": 65_536}
    (first, *others) = training_setup.plan_own(**page)
    assert first == {"preset": OWN}
    own = merged(others, {})
    assert f"{SETTING}rank" not in own
    assert "Every setting is under Advanced" in own["meaning"]
    assert "64" in own["takes"]  # advice on the rank


def test_modules_are_chosen_by_name_and_none_is_all_of_them():
    assert training_how.settings_of(VALUES).targets == "all-linear"
    chosen = VALUES | {training_how.TARGETS: ["q_proj", "v_proj"]}
    assert training_how.settings_of(chosen).target_names == ("q_proj", "v_proj")
    assert training_how.shown(training_how.settings_of(chosen))[training_how.TARGETS] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"where": FILE}, "No file is chosen"),
        ({"where": HUB, "name": "no name"}, "is not the name of a dataset"),
        ({f"{SETTING}rank": 0}, "Rank is 0"),
        ({f"{SETTING}learning_rate": None}, "Learning rate is None"),
        ({f"{SETTING}method": "full", "precision": "nf4"}, "cannot be trained"),
        ({"run_name": "two\nlines"}, "is no name for a run"),
        ({"model": "no such model"}, "is not the name of a model"),
    ],
)
def test_what_cannot_be_begun_is_said_beside_start_and_leaves_no_run(changed, said):
    shown = merged(training_setup.start(**VALUES | {"preset": OWN} | changed), {})
    assert said in shown["note"]
    assert shown["start"]["interactive"]
    assert runs.listing() == ()


def test_a_file_is_named_as_the_run_keeps_it_and_a_share_of_it_is_held_out(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(ROWS * 40)
    page = looked(where=FILE, file=str(file))
    run, files = training_setup.run_of(page)
    assert (run.data, run.held_out, files) == ((DataSource("mine.jsonl"),), None, (file,))
    assert run.prompts == ("Where is the harbour?",)


def test_pasted_rows_are_learnt_from_like_a_file():
    run, (file,) = training_setup.run_of(looked(where=PASTED, pasted=ROWS * 3))
    assert run.data[0].name == file.name
    assert file.read_text() == ROWS * 3


def test_columns_that_are_not_recognised_open_advanced_and_once_chosen_are_the_runs(tmp_path):
    file = tmp_path / "odd.jsonl"
    file.write_text('{"one": "a question", "two": "an answer"}\n' * 5)
    named = {"where": FILE, "file": str(file)}
    refused = merged(training_data.look(**VALUES | named), VALUES | named)
    assert "the columns are one, two" in refused["note"]
    assert refused["advanced"]["open"]
    columns = {"column_0": "one", "column_1": "two", "column_2": NO_COLUMN, "column_3": NO_COLUMN}
    page = VALUES | named | columns | {"format_": "prompt-completion", "looked": refused["looked"]}
    shown = merged(training_data.show_rows(**page), page)
    assert "5 examples" in shown["every"]
    assert training_setup.run_of(page)[0].data[0].mapping.format is Format.PROMPT_COMPLETION


def test_rows_of_the_hub_are_fetched_only_when_that_is_asked_for(hub_server):
    hub_server.add("alice/rows", {"train.jsonl": ROWS * 30, "validation.jsonl": ROWS * 3}, kind="datasets")
    named = {"where": HUB, "name": "alice/rows"}
    page = merged(training_data.look(**VALUES | named), VALUES | named)
    assert page["fetch"]["visible"]
    assert page["apart"]["value"] == "validation"
    assert page["rows"] is None
    assert not hub_server.requests("GET", r"train\.jsonl")


def test_rows_are_gone_through_one_at_a_time_round_the_end():
    page = looked()
    assert "Row 762 of 762" in merged(training_data.row_before(**page), page)["title"]
    assert "Row 2 of 762" in merged(training_data.row_behind(**page), page)["title"]


def test_a_row_that_is_too_long_shows_where_it_is_cut_and_what_is_lost():
    page = looked() | {f"{PREPARED}limit": 20}
    shown = merged(training_data.same_row(**page), page)["row"]
    assert "Cut here: " in shown
    assert 'class="behind"' in shown


def test_the_widgets_of_a_run_are_those_that_the_handlers_take():
    with gr.Blocks():
        drawn = {**training_how.draw_settings(), **training_how.draw_prompts(), **training_data.draw_meaning()}
    assert set(drawn) <= set(VALUES)
    assert {name for name in VALUES if name.startswith((SETTING, PREPARED))} <= set(drawn)


def test_other_datasets_are_mixed_in_as_often_as_is_written():
    run, _ = training_setup.run_of(VALUES | {"mixed": "orders 0.5\n\nowner/name:train\n"})
    assert [(source.name, source.weight) for source in run.data] == [
        ("persona", 1.0),
        ("orders", 0.5),
        ("owner/name:train", 1.0),
    ]
    page = looked(mixed="orders 0.5")
    alone = looked()
    assert alone["amount"].rows < page["amount"].rows < 2.5 * alone["amount"].rows


@pytest.mark.parametrize("line", ["orders often", "orders 0", "orders -1", "orders nan", "orders 1e9"])
def test_how_often_rows_occur_is_a_number(line):
    with pytest.raises(InputError, match=r"how often|The weight of orders"):
        training_setup.run_of(VALUES | {"mixed": line})


def test_what_was_weighed_under_memory_is_taken_over():
    asked = Question("owner/name", precision="nf4", context=512, batch=4, rank=32, checkpointing=False, method="dora")
    taken = next(training_setup.take_question(question=asked, **VALUES))
    assert (taken["model"], taken["precision"], taken["tabs"]["selected"]) == ("owner/name", "nf4", "training")
    assert (taken[f"{PREPARED}limit"], taken[f"{SETTING}batch_tokens"]) == (512, 2048)
    assert (taken[f"{SETTING}method"], taken[f"{SETTING}rank"], taken[f"{SETTING}alpha"]) == ("dora", 32, 64)
    assert taken[f"{SETTING}checkpointing"] == "off"
    assert list(training_setup.take_question(question=None, **VALUES)) == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Question(task="generate"), "in order to generate"),
        (Question(method="vera"), "by vera"),
        (Question("8B, 32 layers"), "is a size and no model"),
    ],
)
def test_what_was_weighed_and_is_no_run_is_refused(asked, words):
    with pytest.raises(InputError, match=words):
        next(training_setup.take_question(question=asked, **VALUES))


def test_a_cut_off_that_was_chosen_under_your_data_is_taken_over():
    cut = Cut("persona", ColumnMapping.of(Format.MESSAGES, messages="messages"), 40)
    shown = next(training_setup.take_cut(cut=cut, **VALUES))
    assert (shown[f"{PREPARED}limit"], shown["tabs"]["selected"]) == (40, "training")
    assert list(training_setup.take_cut(cut=None, **VALUES)) == []
