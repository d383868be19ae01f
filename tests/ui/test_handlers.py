"""The border to Gradio: names instead of positions, errors as dialogs, tokens only where they belong."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import gradio as gr
import pytest

from studio import hub
from studio.errors import InputError
from studio.settings import Settings
from studio.ui import handlers
from studio.ui.layout import build, launch_options


def refuse() -> None:
    with handlers.errors_as_dialogs():
        raise InputError("<b>That</b> is wrong.", "Do <i>this</i>.")


def test_an_error_of_ours_is_shown_as_it_is_worded_and_escaped() -> None:
    with pytest.raises(gr.Error) as shown:
        refuse()
    assert shown.value.title == "&lt;b&gt;That&lt;/b&gt; is wrong."
    assert shown.value.message == "Do &lt;i&gt;this&lt;/i&gt;."


def test_any_other_error_is_logged_whole_and_shown_as_our_bug(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(gr.Error, match="ZeroDivisionError") as shown,
        handlers.errors_as_dialogs(),
    ):
        raise ZeroDivisionError("secret detail")
    assert "bug" in shown.value.title
    assert "secret detail" not in str(shown.value.message)
    assert "secret detail" in caplog.text


def test_a_handler_reads_keywords_and_returns_names() -> None:
    def add(*, first: str, second: str) -> handlers.Update:
        return {"total": first + second}

    def count(*, first: str) -> Iterator[handlers.Update]:
        yield {}
        yield {"total": first * 2}

    with gr.Blocks() as page:
        a, b, total = gr.Textbox(), gr.Textbox(), gr.Textbox()
        handlers.on(a.submit, add, inputs={"first": a, "second": b}, outputs={"total": total})
        handlers.on(b.submit, count, inputs={"first": a}, outputs={"total": total})
    adding, counting = page.fns[0].fn, page.fns[1].fn
    assert adding(first="x", second="y") == {total: "xy"}
    unchanged, doubled = counting(first="x")
    assert unchanged == gr.skip()
    assert doubled == {total: "xx"}


def test_a_handler_that_says_nothing_changes_nothing() -> None:
    def silent() -> Iterator[handlers.Update]:
        yield from ()

    with gr.Blocks() as page:
        outputs = {"first": gr.Textbox(), "second": gr.Textbox()}
        handlers.on(page.load, silent, inputs={}, outputs=outputs)
    (handler,) = page.fns.values()
    assert list(handler.fn()) == [[gr.skip(), gr.skip()]]


def test_what_is_shown_meanwhile_is_said_again_and_a_stopped_handler_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ended = iter([0.0, 0.5, 1.5, 1.5, 1.7]), []
    monkeypatch.setattr(handlers.time, "monotonic", lambda: next(clock))

    def count() -> Iterator[handlers.Update]:
        try:
            for number in range(9):
                yield {"note": number}
        finally:
            ended.append(True)

    updates = handlers.insisting({"stop": "shown"}, count())
    assert [next(updates) for _ in range(3)] == [{"note": 0}, {"stop": "shown", "note": 1}, {"note": 2}]
    updates.close()  # type: ignore[attr-defined]
    assert ended


def test_only_the_person_at_the_machine_uses_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ofThisMachine")
    assert handlers.hub_token() == hub.machine_token() == "hf_ofThisMachine"
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    assert handlers.hub_token() is False


def test_the_page_offers_only_what_is_meant_to_be_called() -> None:
    page = build()
    public = {fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"}
    assert public == {
        "estimate",
        "generate",
        "inspect",
        "preview",
        "runs",
        "tokenize",
        "train",
        "merge",
        "merges",
        "push",
        "uploads",
    }


def test_the_page_is_served_to_this_machine_alone_and_keeps_no_history() -> None:
    options = launch_options(Settings.from_env({}))
    assert options["server_name"] == "127.0.0.1"
    assert options["share"] is False
    assert options["run_history"] is False
    assert options["enable_monitoring"] is False
