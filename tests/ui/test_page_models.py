"""Choosing and loading a model in a real browser: what works, and what is said when it does not."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from page_steps import begin_load, finish, load, load_outcome, say, set_advanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Studio
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def _well_behaved_hub(studio: Studio) -> Iterator[None]:
    yield
    studio.hub.faults.clear()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some megabytes, so that its download can be watched."""
    from pico import save_pico

    shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 8}
    return save_pico(tmp_path_factory.mktemp("models") / "large", num_key_value_heads=8, **shape)


def test_the_starter_loads_at_one_click_and_says_what_it_took(page: Page) -> None:
    words = load(page, "starter")
    assert re.search(r"starter is ready: 3\.\d M parameters in \w+, [\d.]+ MB, loaded in", words)
    page.locator("#session-bar", has_text="starter").wait_for()
    bar = page.inner_text("#session-bar")
    assert "Weights" in bar
    assert "Free" in bar


def test_unload_lets_go_and_the_next_message_loads_again(page: Page) -> None:
    load(page, "starter")
    page.click("#unload")
    page.locator("#model-note", has_text=re.compile(r"Unloaded\. .* are free")).wait_for()
    page.locator("#session-bar", has_text="no model yet").wait_for()
    assert "tokens/s" in say(page, "Hello")


def test_the_precision_can_be_chosen(page: Page) -> None:
    assert "in fp32" in load(page, "starter", precision="fp32")
    assert "in fp16" in load(page, "starter", precision="fp16")


def test_a_model_of_the_hub_is_downloaded_with_progress_and_answers(page: Page, studio: Studio, large: Path) -> None:
    studio.hub.add("alice/large", large)
    studio.hub.fault("/_cdn/", pace=0.02)
    begin_load(page, "alice/large")
    page.locator("#model-note", has_text=re.compile(r"Downloading [\d.]+ MB of [\d.]+ MB")).wait_for()
    assert "alice/large is ready" in load_outcome(page)
    assert re.search(r"tokens/s|ended", say(page, "Hello"))


def test_a_cancelled_download_goes_on_where_it_was(page: Page, studio: Studio, large: Path) -> None:
    studio.hub.add("alice/cancelled", large)
    slow = studio.hub.fault("/_cdn/", pace=1.0)  # it takes minutes, so that it is never over before it is cancelled
    begin_load(page, "alice/cancelled")
    page.locator("#model-note", has_text=re.compile(r"Downloading [1-9][\d.]* [kM]B of")).wait_for()
    page.click("#cancel-load")
    page.locator("#model-note", has_text="Cancelled").wait_for(timeout=240_000)
    page.locator("#load").wait_for()
    studio.hub.faults.remove(slow)
    assert "is ready" in load(page, "alice/cancelled")
    ranges = [seen.headers.get("range", "") for seen in studio.hub.requests("GET", "/_cdn/")]
    assert re.match(r"bytes=[1-9]\d*-", ranges[-1])


def test_the_web_address_of_a_model_works_too(page: Page, studio: Studio, pico: Path) -> None:
    studio.hub.add("alice/pico", pico)
    assert "alice/pico is ready" in load(page, "https://huggingface.co/alice/pico")


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def drop_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def unknown_architecture(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "nobody-knows-it"}))


def only_tokenizer(folder: Path) -> None:
    for file in folder.iterdir():
        if not file.name.startswith("token"):
            file.unlink()


BROKEN_FOLDERS = [
    (drop_weights, "config but no weights"),
    (only_pickle, "only as pickle"),
    (truncate, "model.safetensors is damaged"),
    (drop_tokenizer, "without a tokenizer"),
    (only_tokenizer, "holds a tokenizer and no model"),
    (unknown_architecture, "does not know this architecture"),
]


@pytest.mark.parametrize(("break_it", "words"), BROKEN_FOLDERS, ids=[case[0].__name__ for case in BROKEN_FOLDERS])
def test_a_broken_folder_is_explained_and_the_studio_goes_on(
    page: Page, pico: Path, tmp_path: Path, break_it: Callable[[Path], None], words: str
) -> None:
    folder = shutil.copytree(pico, tmp_path / "model")
    break_it(folder)
    assert words in load(page, folder)
    assert "starter is ready" in load(page, "starter")


REFUSED = [
    ("", "No model is named"),
    ("two words", "is not the name of a model"),
    ("nobody/nothing", "no model called nobody/nothing"),
    ("alice/gated", "gated"),
    ("alice/private", "no model called alice/private"),
    ("alice/pickle", "pickle"),
    ("alice/config-only", "weights"),
    ("alice/good@v9", "v9"),
    ("/no/such/folder", "There is no folder"),
]


@pytest.mark.parametrize(("model", "words"), REFUSED, ids=[case[0] or "empty" for case in REFUSED])
def test_what_cannot_be_loaded_is_explained(page: Page, studio: Studio, pico: Path, model: str, words: str) -> None:
    config = {"config.json": (pico / "config.json").read_bytes()}
    studio.hub.add("alice/good", pico)
    studio.hub.add("alice/gated", pico, gated=True)
    studio.hub.add("alice/private", pico, private=True)
    studio.hub.add("alice/pickle", {**config, "pytorch_model.bin": b"pickle"})
    studio.hub.add("alice/config-only", config)
    said = load(page, model)
    assert words in said
    assert said.count("\n") >= 1  # what to do next follows what happened


def test_a_hub_in_trouble_is_explained(page: Page, studio: Studio, pico: Path) -> None:
    studio.hub.add("alice/troubled", pico)
    studio.hub.fault("/api/models/alice/troubled", status=500)
    assert "Hub" in load(page, "alice/troubled")
    studio.hub.faults.clear()
    assert "is ready" in load(page, "alice/troubled")


def test_two_loads_at_once_take_turns(open_page: Any, pico: Path) -> None:
    first, second = open_page(), open_page()
    begin_load(first, "starter", precision="fp32")
    begin_load(second, pico)
    assert "starter is ready" in load_outcome(first)
    assert "is ready" in load_outcome(second)


def test_unload_waits_for_the_reply_that_is_being_written(open_page: Any, talker: Path) -> None:
    first, second = open_page(), open_page()
    load(first, talker)
    set_advanced(first, max_new_tokens=1000)  # long enough to be seen at it by a browser that is short of time
    first.fill("#message textarea", "Hello")
    first.click("#send")
    first.locator("#generation-note", has_text="Writing").wait_for()
    second.click("#unload")
    second.locator("#model-note", has_text="Unloaded").wait_for(timeout=240_000)
    finish(first)


def test_a_list_closes_when_the_keyboard_leaves_it_and_a_choice_by_mouse_counts(page: Page) -> None:
    page.click("#model input")
    page.keyboard.type("starter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.locator(".options").first.wait_for(state="hidden")
    page.click("#precision input")
    page.locator(".options li", has_text="int8").click()
    assert page.input_value("#precision input") == "int8"
