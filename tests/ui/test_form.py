"""Settings as widgets and back."""

from __future__ import annotations

import dataclasses

import gradio as gr
import pytest

from studio.errors import InputError
from studio.generation import GenerationSettings
from studio.tokenizer import Kind, Recipe
from studio.training import TrainingSettings
from studio.ui import form


@pytest.fixture(scope="module")
def drawn() -> dict[str, gr.components.Component]:
    with gr.Blocks():
        return form.widgets(GenerationSettings)


def test_every_field_has_a_widget_with_its_default_and_its_help(drawn: dict[str, gr.components.Component]) -> None:
    fields = dataclasses.fields(GenerationSettings)
    assert list(drawn) == [field.name for field in fields]
    for field in fields:
        assert drawn[field.name].value == field.default
        assert drawn[field.name].info == field.metadata["help"]


def test_the_bounds_of_the_widgets_are_those_of_the_fields(drawn: dict[str, gr.components.Component]) -> None:
    for field in dataclasses.fields(GenerationSettings):
        if isinstance(widget := drawn[field.name], gr.Slider):
            assert (widget.minimum, widget.maximum) == (field.metadata["min"], field.metadata["max"])


def test_untouched_widgets_read_back_as_the_defaults(drawn: dict[str, gr.components.Component]) -> None:
    assert form.read(GenerationSettings, {name: widget.value for name, widget in drawn.items()}) == GenerationSettings()


@pytest.mark.parametrize(("typed", "seed"), [("", None), ("  ", None), (None, None), ("7", 7), (" 12 ", 12)])
def test_a_number_that_may_be_left_out_is_read_from_text(typed: str | None, seed: int | None) -> None:
    values = dataclasses.asdict(GenerationSettings()) | {"seed": typed}
    assert form.read(GenerationSettings, values).seed == seed


@pytest.mark.parametrize("typed", ["seven", "1.5", "-1", "99999999999999"])
def test_what_is_no_seed_names_the_field(typed: str) -> None:
    with pytest.raises(InputError, match="Seed"):
        form.read(GenerationSettings, dataclasses.asdict(GenerationSettings()) | {"seed": typed})


def test_a_value_beyond_the_slider_sent_by_hand_names_the_field() -> None:
    with pytest.raises(InputError, match="Temperature"):
        form.read(GenerationSettings, dataclasses.asdict(GenerationSettings()) | {"temperature": 50})


def test_the_recipe_of_a_tokenizer_is_drawn_and_read_back() -> None:
    with gr.Blocks():
        drawn = form.widgets(Recipe)
    values = {name: widget.value for name, widget in drawn.items()}
    assert form.read(Recipe, values) == Recipe()
    assert drawn["kind"].choices == [(str(kind), str(kind)) for kind in Kind]
    changed = form.read(Recipe, values | {"kind": "WordPiece", "minimum_frequency": "3", "longest_token": ""})
    assert changed == Recipe(kind=Kind.WORDPIECE, minimum_frequency=3)


def test_numbers_that_no_slider_can_set_are_typed_and_a_whole_one_reads_back_as_what_the_field_holds() -> None:
    with gr.Blocks():
        drawn = form.widgets(TrainingSettings)
    typed = {name for name, widget in drawn.items() if isinstance(widget, gr.Number)}
    assert {"learning_rate", "epochs", "seed", "batch_tokens"} <= typed
    assert isinstance(drawn["dropout"], gr.Slider)
    values = {name: widget.value for name, widget in drawn.items()}
    assert form.read(TrainingSettings, values) == TrainingSettings()
    assert type(form.read(TrainingSettings, values | {"epochs": 2}).epochs) is float
    with pytest.raises(InputError, match="Learning rate is None"):
        form.read(TrainingSettings, values | {"learning_rate": None})
