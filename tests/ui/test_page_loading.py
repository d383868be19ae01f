"""The Load tab and the search in a real browser: what is told before, and what was measured after."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from page_steps import begin_load, load, load_outcome, say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Studio
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def _well_behaved_hub(studio: Studio) -> Iterator[None]:
    yield
    studio.hub.faults.clear()


def settle(page: Page) -> None:
    """Wait until the tab takes the next click: Gradio drops one that comes before it has heard the end of the last."""
    page.locator("#stop-looking").wait_for(state="hidden")
    page.wait_for_timeout(300)


def open_load(page: Page) -> None:
    page.get_by_role("tab", name="Load").click()
    page.locator("#outlook .sheet, #loading-note .problem").first.wait_for(timeout=240_000)
    settle(page)


def choose(page: Page, model: str | Path, precision: str = "auto") -> None:
    page.fill("#model input", str(model))
    page.keyboard.press("Tab")
    page.fill("#precision input", precision)
    page.keyboard.press("Enter")


def foresee(page: Page) -> str:
    """Ask what loading will take; return the answer, or the problem."""
    page.evaluate("document.querySelectorAll('#outlook .prose, #loading-note .prose').forEach(e => e.textContent = '')")
    page.wait_for_timeout(300)  # what was typed reaches Gradio a moment later, and nobody's hand is quicker
    page.click("#foresee")
    answer = page.locator("#outlook .sheet, #loading-note .problem").first
    answer.wait_for(timeout=240_000)
    settle(page)
    return answer.inner_text()


def look_inside(page: Page) -> str:
    page.evaluate("document.querySelectorAll('#inside .prose, #loading-note .prose').forEach(e => e.textContent = '')")
    page.click("#look-inside")
    answer = page.locator("#inside .sheet, #loading-note .problem").first
    answer.wait_for(timeout=240_000)
    settle(page)
    return answer.inner_text()


def test_the_tab_tells_at_once_what_the_starter_takes_and_where_it_goes(page: Page) -> None:
    open_load(page)
    told = page.inner_text("#outlook")
    assert re.search(r"(7\.9|15\.7) MB of weights in (bf16|fp32)", told)
    assert "layers 0–3" in told
    assert "nf4" in told
    assert page.locator("#outlook .cells i").count() >= 5


def test_the_advice_is_one_click_away_and_the_load_keeps_the_promise(page: Page) -> None:
    open_load(page)
    choose(page, "starter", "nf4")
    assert "nothing has to be lost to quantization" in foresee(page)
    page.click("#load")
    assert "in nf4" in load_outcome(page)
    held = page.locator("#held .sheet")
    held.wait_for()
    # The estimate is to the byte, and test_memory holds it to that; on a busy machine the page was seen to say 0.03 %.
    off = re.search(r"[+−-]?([\d.]+) % off", held.inner_text())
    assert off is not None
    assert float(off[1]) < 0.1, held.inner_text()
    assert "Linear4bit" in held.inner_text()
    page.locator("#apply-advice").click()
    page.wait_for_function("document.querySelector('#precision input').value.match(/16|32/)")


def test_a_quantized_model_answers_and_is_told_in_the_session_bar(page: Page) -> None:
    assert "in int8" in load(page, "starter", precision="int8")
    assert re.search("tokens/s", say(page, "What is the rank of a LoRA?"))
    assert "starter, int8" in page.inner_text("#session-bar")
    load(page, "starter")


def test_a_model_of_the_hub_is_foretold_and_opened_without_its_weights(page: Page, studio: Studio, pico: Path) -> None:
    studio.hub.add("alice/unseen", pico)
    open_load(page)
    choose(page, "alice/unseen")
    before = len(studio.hub.requests("GET", "/_cdn/"))
    assert "layers 0–1" in foresee(page)
    told = look_inside(page)
    assert "LlamaForCausalLM" in told
    assert "chat_template.jinja" in told
    asked = studio.hub.requests("GET", "/_cdn/")[before:]
    assert all(seen.headers.get("range") for seen in asked)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("alice/nowhere", "alice/nowhere"),
        ("not a name", "is not the name of a model"),
        ("/no/such/folder", "no folder"),
    ],
)
def test_what_cannot_be_opened_is_said_beside_the_button(page: Page, name: str, words: str) -> None:
    open_load(page)
    choose(page, name)
    assert words in foresee(page)
    assert words in look_inside(page)


def test_a_checkpoint_that_was_quantized_before_is_not_loaded_as_something_else(page: Page, broken: Path) -> None:
    file = broken / "config.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    open_load(page)
    choose(page, broken, "bf16")
    assert "was quantized already (gptq)" in foresee(page)
    assert "gptq" in look_inside(page)


def test_limits_that_make_no_sense_are_refused_in_words(page: Page) -> None:
    open_load(page)
    page.click("#how .label-wrap")
    page.fill("#setting-limits input, #setting-limits textarea", "much")
    assert "'much' is not the limit of a device" in foresee(page)
    page.fill("#setting-limits input, #setting-limits textarea", "cpu=1 MB")
    assert "does not fit" in foresee(page)
    begin_load(page, "starter")
    assert "Load it in" in load_outcome(page) or "cpu has 0.00 GB" in load_outcome(page)


def test_the_search_lists_what_the_hub_has_and_puts_it_above(page: Page, studio: Studio, pico: Path) -> None:
    card = "---\nlicense: mit\n---\n# How it talks\n\n![](https://elsewhere.example/a.png) Softly.\n"
    files = {file.name: file.read_bytes() for file in pico.iterdir()} | {"README.md": card}
    studio.hub.add("carol/soft-talker", files)
    studio.hub.add("carol/soft-pickle", {"config.json": "{}", "pytorch_model.bin": b"x" * 100})
    page.click("#find .label-wrap")
    page.fill("#find-text input, #find-text textarea", "soft")
    page.click("#find-search")
    page.locator("#find-list label", has_text="carol/soft-talker").wait_for()
    assert "not usable" in page.locator("#find-list label", has_text="carol/soft-pickle").inner_text()
    page.locator("#find-list label", has_text="carol/soft-talker").click()
    page.locator("#find-card", has_text="Softly").wait_for()
    assert page.input_value("#model input") == "carol/soft-talker"
    page.click("#load")
    assert "carol/soft-talker is ready" in load_outcome(page)


def test_a_search_without_the_hub_says_so(page: Page, studio: Studio) -> None:
    studio.hub.fault("/api/models", status=503)
    page.click("#find .label-wrap")
    page.click("#find-search")
    page.locator("#find-note .problem").wait_for(timeout=240_000)


def test_a_model_of_pickles_alone_is_refused_and_converted_on_the_spot(
    page: Page, studio: Studio, broken: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    studio.hub.add("dave/old-pickle", broken)
    assert "only as pickle" in load(page, "dave/old-pickle")
    open_load(page)
    page.locator("#convert").click()
    page.locator("#loading-note", has_text="Converted and compared byte for byte").wait_for(timeout=240_000)
    settle(page)
    assert page.input_value("#model input").endswith("old-pickle-safetensors")
    page.evaluate("document.querySelector('#model-note .prose').textContent = ''")  # what was said of the pickles
    page.click("#load")
    assert "is ready" in load_outcome(page)


def test_an_inspection_is_there_for_programs_too(studio: Studio) -> None:
    from gradio_client import Client

    told = Client(studio.url, verbose=False).predict("starter", api_name="/inspect")
    assert told["model"] == "starter"
    assert told["parameters"] > 3_000_000
    assert told["findings"] is not None


def answer_of(page: Page, button: str) -> str:
    page.evaluate("document.querySelectorAll('#outlook .prose, #loading-note .prose').forEach(e => e.textContent = '')")
    page.click(button)
    done = "#loading-note .note:not(:has(progress)), #loading-note .problem, #outlook .sheet"
    page.locator(done).first.wait_for(timeout=240_000)
    settle(page)
    return page.inner_text("#loading-note") + page.inner_text("#outlook")


def test_a_quantized_model_is_checked_and_kept_and_loads_again(page: Page) -> None:
    open_load(page)
    load(page, "starter", precision="nf4")
    assert re.search(r"9\d\.\d% of the next tokens are the same|[6-9]\d\.\d% of", answer_of(page, "#check-quality"))
    page.fill("#keep-name input, #keep-name textarea", "kept-starter")
    told = answer_of(page, "#keep")
    assert "equal bit for bit" in told
    assert "exists already" in answer_of(page, "#keep")
    page.fill("#keep-name input, #keep-name textarea", "../escape")
    assert "escape" in answer_of(page, "#keep")
    folder = re.search(r"Kept in (\S+):", told)
    assert folder
    assert "in as stored" in load(page, folder[1], precision="auto")
    load(page, "starter", precision="auto")


def test_what_a_precision_costs_in_speed_is_measured_here(page: Page) -> None:
    open_load(page)
    told = answer_of(page, "#measure-speed")
    assert "writes fastest here" in told
    assert "int8" in told


def test_keeping_without_a_model_says_what_to_do(page: Page) -> None:
    page.click("#unload")
    page.locator("#session-bar", has_text="no model yet").wait_for()
    open_load(page)
    assert "Press Load first" in answer_of(page, "#keep")


def test_what_was_looked_at_is_what_is_loaded_even_if_the_hub_has_moved_on(
    page: Page, studio: Studio, pico: Path
) -> None:
    repo = studio.hub.add("erin/moving", pico)
    looked_at = repo.refs["main"]
    open_load(page)
    choose(page, "erin/moving")
    assert looked_at[:7] in look_inside(page)
    repo.commit({file.name: file.read_bytes() for file in pico.iterdir()} | {"NEWS.md": "changed"})
    assert repo.refs["main"] != looked_at
    page.click("#load")
    assert f"erin/moving@{looked_at[:7]} is ready" in load_outcome(page)
    assert page.input_value("#model input") == "erin/moving"
