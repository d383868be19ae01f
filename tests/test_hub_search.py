"""Finding a model with the real client against a Hub on this machine: what is listed, in which order, and why not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hub_steps import PICO, go_offline
from huggingface_hub import HfApi
from loopback_hub import api
from loopback_hub.samples import ALICE, BOB, SMALL, weights

from studio import hub
from studio.errors import AccessDenied, Damaged, HubError, InputError, NotFound, Offline
from studio.hub import client, searching
from studio.models import ModelRef

CONFIG = {"config.json": SMALL["config.json"]}


def found(text: str = "", *, token: hub.Token = False, **asked) -> list[hub.ModelSummary]:
    return hub.search(hub.SearchQuery(text, **asked), token=token)


def names(text: str = "", *, token: hub.Token = False, **asked) -> list[str]:
    return [row.repo.partition("/")[2] for row in found(text, token=token, **asked)]


def sized(count: int) -> dict:
    return SMALL | {"model.safetensors": weights(count)}


def readme(hub_server, text: str | bytes, **settings) -> hub.ModelCard:
    hub_server.add("alice/pico", SMALL | {"README.md": text}, **settings)
    return hub.card(PICO, token=False)


def written(folder: Path, text: str) -> hub.ModelCard:
    (folder / "README.md").write_text(text, encoding="utf-8")
    return hub.read_card(folder)


# What is listed


def test_a_row_says_what_the_hub_says(hub_server):
    hub_server.add("alice/pico", SMALL, license="mit", downloads=7, likes=3, updated="2026-02-03T04:05:06.000Z")
    (row,) = found("PICO")
    assert (row.repo, row.license, row.downloads, row.likes, row.parameters) == ("alice/pico", "mit", 7, 3, 100)
    assert (row.task, row.library, row.updated.day) == ("text-generation", "transformers", 3)
    assert (row.private, row.gated, row.why_not, row.remark) == (False, False, None, None)
    assert row.ref == PICO


@pytest.mark.parametrize(
    ("sort", "order"),
    [("downloads", "abc"), ("likes", "bca"), ("lastModified", "cab"), ("trendingScore", "cba")],
)
def test_models_are_sorted_by_whatever_is_asked_for(hub_server, sort, order):
    for name, downloads, likes, day, trending in [("a", 9, 1, 2, 0), ("b", 5, 8, 1, 5), ("c", 1, 4, 3, 9)]:
        settings = {"downloads": downloads, "likes": likes, "trending": trending}
        hub_server.add(f"alice/{name}", SMALL, updated=f"2026-01-0{day}T00:00:00.000Z", **settings)
    assert "".join(names(sort=sort)) == order


def test_an_empty_text_lists_what_is_downloaded_most(hub_server):
    for number in range(5):
        hub_server.add(f"alice/pico-{number}", SMALL, downloads=number)
    assert names("  ", limit=2) == ["pico-4", "pico-3"]
    assert "search" not in hub_server.requests("GET", "/api/models$")[0].query


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ({}, {"small", "large", "gated", "uncounted"}),
        ({"task": "any"}, {"small", "large", "gated", "uncounted", "image"}),
        ({"license": "MIT"}, {"small", "gated"}),
        ({"license": "apache-2.0"}, {"large"}),
        ({"gated": "open only"}, {"small", "large", "uncounted"}),
        ({"max_parameters": 100}, {"small", "gated"}),
        ({"max_parameters": 5000}, {"small", "large", "gated"}),
        ({"license": "mit", "gated": "open only", "max_parameters": 200}, {"small"}),
        ({"usable_only": True}, {"small", "large", "gated"}),
        ({"usable_only": True, "task": "any"}, {"small", "large", "gated"}),
    ],
)
@pytest.mark.parametrize("deaf", [False, True], ids=["the Hub filters", "the Hub does not filter"])
def test_filters_leave_what_fits(hub_server, monkeypatch, asked, listed, deaf):
    hub_server.add("alice/small", SMALL, license="mit")
    hub_server.add("alice/large", sized(5000), license="apache-2.0")
    hub_server.add("alice/gated", SMALL, license="mit", gated=True)
    hub_server.add("alice/uncounted", CONFIG | {"pytorch_model.bin": "x"})
    hub_server.add("alice/image", SMALL, task="text-to-image")
    if deaf:
        monkeypatch.setattr(api, "_fits", lambda said, asked: True)
    assert set(names(**asked)) == listed


def test_the_real_hubs_own_parameters_are_used(hub_server):
    found("x", license="MIT", gated="open only", max_parameters=7_000_000_000, sort="likes", usable_only=True, limit=3)
    (asked,) = hub_server.requests("GET", "/api/models$")
    shown = asked.query.pop("expand")
    assert {"safetensors", "tags", "gated", "library_name"} <= set(shown)
    assert asked.query == {
        "search": ["x"],
        "filter": ["license:mit", "safetensors"],
        "pipeline_tag": ["text-generation"],
        "gated": ["false"],
        "num_parameters": ["max:7000000000"],
        "sort": ["likes"],
        "limit": ["3"],
    }


def test_the_clients_own_search_finds_the_same(hub_server):
    for number in range(5):
        hub_server.add(f"alice/pico-{number}", sized(100 * (number + 1)), likes=number, gated=number == 2)
    theirs = HfApi(endpoint=hub_server.url, token=False).list_models(
        search="pico", pipeline_tag="text-generation", sort="likes", gated=False, num_parameters="max:450", limit=2
    )
    asked = {"sort": "likes", "gated": "open only", "max_parameters": 450, "limit": 2}
    assert [model.id for model in theirs] == [row.repo for row in found("pico", **asked)]
    theirs_asked, we_asked = hub_server.requests("GET", "/api/models$")
    assert theirs_asked.query == {name: value for name, value in we_asked.query.items() if name != "expand"}


def test_more_pages_are_read_until_enough_rows_fit_but_no_more_than_three(hub_server):
    for number in range(40):
        files = SMALL if number % 4 == 3 else SMALL | {"adapter_config.json": "{}"}
        settings = {} if number % 4 == 3 else {"library": "peft"}
        hub_server.add(f"alice/pico-{number}", files, downloads=-number, **settings)
    assert names(usable_only=True, limit=4) == ["pico-3", "pico-7", "pico-11"]
    pages = hub_server.requests("GET", "/api/models$")
    assert [page.query.get("cursor") for page in pages] == [None, ["4"], ["8"]]
    assert len({str(page.query["expand"]) for page in pages}) == 1
    hub_server.log.clear()
    assert len(names(limit=4)) == 4
    assert len(hub_server.requests("GET", "/api/models$")) == 1


def test_a_row_that_moves_to_the_next_page_meanwhile_is_listed_once(hub_server):
    body = json.dumps([{"id": "alice/pico", "tags": ["safetensors"], "pipeline_tag": "text-generation"}]).encode()
    link = {"link": f'<{hub_server.url}/api/models?cursor=1>; rel="next"'}
    hub_server.fault("/api/models$", method="GET", status=200, body=body, headers=link)
    assert names() == ["pico"]
    assert len(hub_server.requests("GET", "/api/models$")) == 3


def test_a_link_to_another_host_does_not_get_the_token(hub_server):
    hub_server.add("alice/pico", SMALL)
    link = {"link": '<http://127.0.0.1:9/api/models?cursor=0>; rel="next"'}
    hub_server.fault("/api/models$", method="GET", times=1, status=200, body=b"[]", headers=link)
    assert names(token=ALICE) == ["pico"]


# One model


def test_a_model_that_is_named_exactly_comes_first(hub_server):
    hub_server.add("alice/pico", SMALL, downloads=1)
    hub_server.add("alice/pico-large", SMALL, downloads=9)
    assert names("pico") == ["pico-large", "pico"]
    for text in (
        "alice/pico",
        " alice/pico ",
        "https://huggingface.co/alice/pico",
        "huggingface.co/alice/pico/",
        "https://hf.co/alice/pico?library=transformers#use",
        "https://huggingface.co/alice/pico/tree/main",
        "https://huggingface.co/alice/pico/tree/main/folder",
        "https://huggingface.co/alice/pico/blob/main/config.json",
        "https://www.huggingface.co/alice/pico/discussions/1",
        f"{hub_server.url}/alice/pico",
    ):
        assert names(text) == ["pico", "pico-large"], text
        assert names(text, limit=1) == ["pico"], text


def test_a_model_that_is_named_exactly_shows_although_nothing_else_about_it_fits(hub_server):
    hub_server.add("alice/pico", {"pico.gguf": "GGUF"}, task="text-to-image", gated=True)
    asked = {"license": "mit", "gated": "open only", "max_parameters": 1, "usable_only": True}
    (row,) = found("alice/pico", **asked)
    assert (row.repo, row.why_not) == ("alice/pico", "GGUF only")


def test_a_revision_stays_with_the_row(hub_server):
    hub_server.add("alice/pico", CONFIG).commit(sized(300), branch="v2/rc")
    for text in ("alice/pico@v2/rc", f"{hub_server.url}/alice/pico/tree/v2%2Frc"):
        (row,) = found(text)
        assert (row.ref, row.parameters) == (ModelRef("hub", "alice/pico", "v2/rc"), 300)


def test_a_name_that_is_none_is_searched_for(hub_server):
    hub_server.add("alice/pico-large", SMALL)
    assert names("alice/pico") == ["pico-large"]
    assert names("alice/nothing") == []
    assert names("no such model!") == []


def test_a_private_model_shows_to_its_owner_alone(hub_server):
    hub_server.add("alice/pico", SMALL, private=True)
    for text in ("pico", "alice/pico", f"{hub_server.url}/alice/pico"):
        assert [len(found(text, token=token)) for token in (ALICE, BOB, False)] == [1, 0, 0]
    assert found("alice/pico", token=ALICE)[0].private


# Why not


@pytest.mark.parametrize(
    ("files", "settings", "reason"),
    [
        (CONFIG | {"pytorch_model.bin": "x"}, {}, "pickle files only"),
        ({"pico.gguf": "GGUF"}, {}, "GGUF only"),
        ({"pico.gguf": "GGUF"}, {"library": "gguf"}, "GGUF only"),
        (CONFIG | {"pico.gguf": "GGUF", "pytorch_model.bin": "x"}, {}, "GGUF and pickle files only"),
        (CONFIG | {"model.onnx": "x"}, {}, "ONNX only"),
        (CONFIG, {}, "no safetensors weights"),
        ({"model_index.json": "{}", "unet/x.safetensors": "x"}, {}, "made for diffusers, not for transformers"),
        (SMALL, {"library": "mlx"}, "made for mlx, not for transformers"),
        (
            SMALL,
            {"library": "sentence-transformers", "tags": ("transformers",)},
            "made for sentence-transformers, not for transformers",
        ),
        (SMALL, {"library": "nemo"}, "made for nemo, not for transformers"),
        (SMALL, {"library": "nemo", "tags": ("transformers",)}, None),
        (SMALL, {"library": "vllm"}, None),
        (
            {"adapter_config.json": "{}", "adapter_model.safetensors": weights(3)},
            {"tags": ("base_model:adapter:Alice/Base-1B",)},
            "an adapter, not a whole model: it goes on top of Alice/Base-1B",
        ),
        (SMALL, {"library": "peft"}, "an adapter, not a whole model: it goes on top of the model that it was made for"),
        (SMALL, {"task": "fill-mask"}, "made for fill-mask, not for text generation"),
        (SMALL, {"task": None}, None),
    ],
)
def test_a_row_says_why_the_studio_cannot_use_it(hub_server, files, settings, reason):
    hub_server.add("alice/pico", files, **settings)
    (listed,) = found("pico", task="any")
    (named,) = found("alice/pico")
    assert listed == named
    assert listed.why_not == reason
    assert names("pico", task="any", usable_only=True) == ([] if reason else ["pico"])


@pytest.mark.parametrize(
    ("settings", "remark"),
    [
        ({"gated": True}, "gated: accept its terms on the Hub first"),
        ({"tags": ("gptq", "4-bit")}, "already quantized: GPTQ"),
        ({"tags": ("fp8", "compressed-tensors")}, "already quantized: FP8, compressed-tensors"),
        ({"tags": ("base_model:quantized:a/b",)}, "already quantized"),
        ({"gated": True, "tags": ("mxfp4",)}, "gated: accept its terms on the Hub first; already quantized: MXFP4"),
        ({"tags": ("custom_code",)}, "brings its own code, which the studio does not run"),
    ],
)
def test_what_is_no_reason_against_a_model_is_a_remark(hub_server, settings, remark):
    hub_server.add("alice/pico", SMALL, **settings)
    (row,) = found("pico", usable_only=True)
    assert row.why_not is None
    assert row.remark.startswith(remark)


def test_hostile_fields_arrive_as_they_are(hub_server):
    tag = "base_model:adapter:<img src=x onerror=alert(1)>"
    hub_server.add("alice/<b>pico</b>", SMALL, license="<script>", task="<i>", library="'; --", tags=(tag,))
    (row,) = found("pico", task="any")
    assert (row.repo, row.license, row.task, row.library) == ("alice/<b>pico</b>", "<script>", "<i>", "'; --")
    assert "<img src=x onerror=alert(1)>" in row.why_not


# What is refused


@pytest.mark.parametrize(
    "asked",
    [
        {"task": "text-to-image"},
        {"sort": "size"},
        {"gated": True},
        {"limit": 0},
        {"limit": 101},
        {"limit": True},
        {"limit": "20"},
        {"max_parameters": 0},
        {"max_parameters": 1.5},
        {"license": ""},
        {"license": "mit&author=x"},
        {"text": "two\nlines"},
        {"text": "x" * 301},
        {"text": None},
        {"text": "/etc/passwd"},
        {"text": "./model"},
        {"text": "https://huggingface.co/datasets/alice/rows"},
        {"text": "https://huggingface.co/"},
        {"text": "https://example.com/alice/pico"},
        {"text": "https://huggingface.co/alice/../pico"},
    ],
)
def test_a_query_that_makes_no_sense_cannot_be_made(asked):
    with pytest.raises(InputError) as caught:
        hub.SearchQuery(**asked)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ({"status": 429, "headers": {"retry-after": "77"}}, HubError, "in 77 seconds"),
        ({"status": 500}, HubError, r"has a problem \(500\)"),
        ({"status": 200, "body": b"<html>Please log in"}, HubError, "not the Hub"),
        ({"status": 200, "body": b'{"error": "no"}'}, HubError, "not the Hub"),
        ({"status": 200, "body": b"[1, null]"}, HubError, "not the Hub"),
        ({"status": 200, "body": b'[{"id": "a/b", "lastModified": "soon"}]'}, HubError, "not the Hub"),
        ({"end": "drop"}, Offline, "cannot be reached"),
        ({"end": "stall"}, Offline, "cannot be reached"),
    ],
)
@pytest.mark.parametrize("text", ["pico", "alice/pico"])
def test_a_hub_that_does_not_answer_is_explained(hub_server, monkeypatch, answer, kind, words, text):
    monkeypatch.setattr(client, "CALL_SECONDS", 0.4)
    hub_server.add("alice/pico", SMALL)
    hub_server.fault("/api/models", method="GET", **answer)
    begin = time.monotonic()
    with pytest.raises(kind, match=words) as caught:
        found(text)
    assert type(caught.value) is kind
    assert time.monotonic() - begin < 10
    assert len(hub_server.requests("GET", "/api/models")) == 1


def test_a_token_that_is_not_known_is_told(hub_server):
    hub_server.add("alice/pico", SMALL)
    with pytest.raises(AccessDenied, match="does not accept the token"):
        found("alice/pico", token="hf_notOneOfTheTokens")


def test_without_the_hub_neither_a_search_nor_a_card_is_waited_for(monkeypatch):
    go_offline(monkeypatch)
    for ask in (found, lambda: found("alice/pico"), lambda: hub.card(PICO, token=False)):
        with pytest.raises(Offline, match=r"127\.0\.0\.1:9"):
            ask()


# The card

CARD = """---
license: apache-2.0
language: [en, no]
base_model: alice/base
datasets:
- alice/rows
- bob/rows
tags: [small, 2024]
---

# Pico

A <b>model</b> & more.
"""


def test_a_card_is_its_text_and_what_stands_in_front_of_it(hub_server):
    card = readme(hub_server, CARD)
    assert card.text.strip() == "# Pico\n\nA <b>model</b> & more."
    assert (card.license, card.languages, card.base_models) == ("apache-2.0", ("en", "no"), ("alice/base",))
    assert (card.datasets, card.tags, card.cut) == (("alice/rows", "bob/rows"), ("small", "2024"), False)


def test_a_folder_has_the_same_card(hub_server, tmp_path):
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf" + CARD.replace("\n", "\r\n").encode())
    card = hub.card(ModelRef("folder", str(tmp_path)), token=False)
    assert card == hub.read_card(tmp_path)
    assert (card.license, card.datasets) == ("apache-2.0", ("alice/rows", "bob/rows"))
    assert "# Pico" in card.text
    assert not hub_server.log


def test_no_card_is_an_empty_card(hub_server, tmp_path):
    hub_server.add("alice/pico", SMALL)
    (tmp_path / "README.md").mkdir()
    assert hub.card(PICO, token=False) == hub.read_card(tmp_path) == hub.read_card(tmp_path / "x") == hub.ModelCard()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_a_card_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "README.md").symlink_to("/proc/self/mem")
    with pytest.raises(Damaged, match=r"README\.md cannot be read"):
        hub.read_card(tmp_path)


@pytest.mark.parametrize(
    "front",
    [
        "license: [mit",
        "license: mit\n\ttags: x",
        "- a\n- list",
        "just words",
        "license: !!python/object/apply:os.system ['true']",
        "1: 2",
        "date: 2024-99-99",
        "self: me",
        "license: \x07",
        "a: " + "[" * 5000,
        "license: mit\nx: " + "y" * 60_000,
    ],
)
def test_broken_metadata_leave_the_text(tmp_path, front):
    card = written(tmp_path, f"---\n{front}\n---\n# Pico\n")
    assert card == hub.ModelCard(text="# Pico\n")


@pytest.mark.parametrize(
    ("front", "field", "words"),
    [
        ("language: no", "languages", ("no",)),
        ("language: {a: b}", "languages", ()),
        ("tags: one", "tags", ("one",)),
        ("tags: [one, null, [two], {three: 3}, yes]", "tags", ("one",)),
        ("license: other\nlicense_name: llama3", "license", "llama3"),
        ("license: other", "license", "other"),
        ("license: [mit, apache-2.0]", "license", "mit, apache-2.0"),
        ("license:", "license", None),
        ("x: &x [a, a]\ntags: [*x, *x, b]", "tags", ("b",)),
        ("model-index:\n- name: x\n  results: [broken\nlicense: mit", "license", "mit"),
    ],
)
def test_metadata_are_words_whatever_the_author_wrote(tmp_path, front, field, words):
    assert getattr(written(tmp_path, f"---\n{front}\n---\n# Pico\n"), field) == words


def test_the_results_of_many_benchmarks_neither_hide_the_text_nor_take_long(tmp_path):
    results = "\n".join(f"  - task: {{type: t{n}}}\n    metrics: [{{type: m, value: {n}}}]" for n in range(9000))
    begin = time.monotonic()
    card = written(tmp_path, f"---\nmodel-index:\n- name: pico\n  results:\n{results}\nlicense: mit\n---\n# Pico\n")
    assert (card.text, card.license) == ("# Pico\n", "mit")
    assert time.monotonic() - begin < 10


def test_a_huge_card_is_cut(hub_server):
    hub_server.fault("/_cdn/", pace=0.01)  # what is not waited for is not sent either
    card = readme(hub_server, CARD + "é" * 5_000_000)
    assert (card.cut, len(card.text), card.license) == (True, 100_000, "apache-2.0")
    assert hub_server.requests("GET", "/_cdn/")[0].sent < 5_000_000
    assert "\N{REPLACEMENT CHARACTER}" not in card.text


def test_a_card_of_any_bytes_is_text(hub_server):
    assert readme(hub_server, b"\xff\xfe # Pico").text.endswith("# Pico")
    assert hub.card(PICO, token=False).license is None


def test_a_card_is_shown_to_those_who_may_read_the_model(hub_server):
    hub_server.add("alice/pico", SMALL | {"README.md": CARD}, private=True)
    assert hub.card(PICO, token=ALICE).license == "apache-2.0"
    for token in (BOB, False):
        with pytest.raises(NotFound, match="no model called alice/pico"):
            hub.card(PICO, token=token)
    hub_server.add("alice/pico", SMALL | {"README.md": CARD}, gated=True)
    with pytest.raises(AccessDenied, match="is gated"):
        hub.card(PICO, token=BOB)


def test_a_large_card_is_fetched_from_the_other_origin_without_the_token(hub_server):
    hub_server.add("alice/pico", SMALL | {"README.md": CARD + "x" * 1_100_000}, private=True)
    assert hub.card(PICO, token=ALICE).cut
    (seen,) = hub_server.requests("GET", "/_cdn/")
    assert "authorization" not in seen.headers


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ({"status": 429, "headers": {"retry-after": "77"}}, HubError, "in 77 seconds"),
        ({"status": 500}, HubError, r"has a problem \(500\)"),
        ({"end": "drop"}, Offline, "cannot be reached"),
        ({"end": "stall"}, Offline, "cannot be reached"),
        ({"end": "stall", "after": 20}, Offline, "cannot be reached"),
        ({"end": "drop", "after": 20}, Offline, "cannot be reached"),
        ({"pace": 0.3}, Offline, "takes too long"),
    ],
)
def test_a_card_that_does_not_come_is_explained(hub_server, monkeypatch, answer, kind, words):
    monkeypatch.setattr(searching, "CALL_SECONDS", 0.5)
    hub_server.fault("README.md", method="GET", **answer)
    with pytest.raises(kind, match=words) as caught:
        readme(hub_server, CARD + "x" * 500_000)
    assert type(caught.value) is kind
