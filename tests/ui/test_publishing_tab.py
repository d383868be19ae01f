"""The Publish tab without a browser: whose token an event has, what is shown before work, whose uploads are seen."""

from __future__ import annotations

import gradio as gr
import pytest
from loopback_hub.samples import ALICE, BOB, READER
from pico import save_adapter
from upload_steps import at_rest, base_on_hub, everything_written

from studio import uploads
from studio.runs import State
from studio.settings import Settings
from studio.ui import layout, publishing_tab, upload_panel

VALUES = {
    "repo": "",
    "licence": "",
    "private": True,
    "pull_request": False,
    "branch": "main",
    "base": "alice/pico",
    "card": "",
    "drawn": "",
    "token": "",
}


def shown(updates):
    """What a page shows after all updates of a handler."""
    page = {}
    for update in updates:
        page |= update
    return page


def signed_in(token):
    return gr.OAuthToken(token=token, scope="openid profile contribute-repos", expires_at=2**33)


@pytest.fixture
def adapter(hub_server, pico):
    base_on_hub(hub_server, pico)
    return save_adapter(Settings.from_env().workspace / "adapters" / "pirate", pico)


def test_a_token_that_is_typed_is_told_of_publishes_and_is_kept_nowhere(hub_server, adapter, monkeypatch):
    page = shown(publishing_tab.opened(None, what=None, handed=None, taken=None, **VALUES | {"base": ""}))
    assert "Nobody is signed in" in page["who"]
    page = shown(publishing_tab.signed(None, what=None, **VALUES | {"token": READER}))
    assert "may read alone" in page["who"]
    asked = VALUES | {"token": ALICE}
    page = shown(publishing_tab.redrawn(None, what=str(adapter), **asked))
    assert (page["repo"], "Under cc-by-sa-4.0" in page["about"]) == ("alice/pirate", True)
    assert "The Hub takes this card" in page["card_state"]
    # A card that was changed by hand stays, but for Draw it anew.
    mine = asked | {"card": page["card"] + "\nMine.", "drawn": page["card"], "repo": "alice/other"}
    assert shown(publishing_tab.redrawn(None, what=str(adapter), **mine))["card"].endswith("Mine.")
    assert "alice/other" in shown(publishing_tab.drawn_anew(None, what=str(adapter), **mine))["card"]
    page = shown(publishing_tab.begin_upload(None, what=str(adapter), **mine))
    id_ = page["seen"].id
    assert at_rest(id_) is State.FINISHED
    page = upload_panel.follow(seen=page["seen"], showing="Publish", label="Publish")
    assert "It is on the Hub: alice/other" in page["progress"]
    assert "alice/other" in page["list"]
    files = hub_server.repos["alice/other"].commits[uploads.of(id_).uploaded.commit]
    assert files["README.md"].content.endswith(b"Mine.")
    assert [name for name, content in everything_written().items() if ALICE.encode() in content] == []


def test_bad_wishes_are_told_before_anything_is_sent(hub_server, adapter, tmp_path):
    for wishes, says in (
        ({"token": "hf_nobodyNobodyNobody"}, "does not accept"),
        ({"token": READER}, "may read and not write"),
        ({"token": ALICE, "repo": "bob/pirate"}, "may not write to what belongs to bob"),
        ({"token": ALICE, "repo": "a/b/c"}, "not the name of a repository"),
        ({"token": ALICE, "repo": "alice/bad name"}, "not the name"),
        ({"token": ALICE, "licence": "mit"}, "cannot be published under mit"),
        ({"token": ALICE, "card": "no card"}, "does not begin with metadata"),
    ):
        asked = VALUES | {"repo": "alice/pirate", "card": "x"} | wishes
        page = shown(publishing_tab.begin_upload(None, what=str(adapter), **asked))
        assert says in page["note"], page["note"]
    page = shown(publishing_tab.chosen(None, what="pirate", **VALUES))
    assert "nothing of the list" in page["note"]
    assert uploads.listing() == ()
    assert set(hub_server.repos) == {"alice/pico"}


def test_visitors_publish_as_themselves_and_only_what_is_in_the_workspace(hub_server, adapter, pico, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "alice/studio")
    monkeypatch.setenv("HF_TOKEN", BOB)  # the secret of the Space
    page = shown(publishing_tab.opened(None, what=None, handed=None, taken=None, **VALUES))
    assert ("Nobody is signed in" in page["who"], "Nothing of yours" in page["nothing"]) == (True, True)
    asked = VALUES | {"repo": "alice/pirate", "token": BOB}  # nor is what is typed there used
    assert "Nobody is signed in" in shown(publishing_tab.begin_upload(None, what=str(adapter), **asked))["note"]
    page = shown(publishing_tab.chosen(signed_in(ALICE), what=str(pico), **VALUES))
    assert "not open to visitors" in page["note"]
    who = shown(publishing_tab.signed(signed_in(ALICE), what=None, **VALUES))
    assert "Signed in as alice" in who["who"]
    card = "---\nlicense: unknown\n---\n# Pirate\n"
    page = shown(publishing_tab.begin_upload(signed_in(ALICE), what=str(adapter), **asked | {"base": "", "card": card}))
    assert "seen" in page, page
    assert at_rest(page["seen"].id) is State.FINISHED
    assert "alice/pirate" in shown(publishing_tab.signed(signed_in(ALICE), what=None, **VALUES))["list"]
    assert "pirate" not in shown(publishing_tab.signed(signed_in(BOB), what=None, **VALUES))["list"]


def test_a_space_has_a_button_to_sign_in_and_no_field_for_tokens(monkeypatch):
    def parts():
        blocks = layout.build().blocks.values()
        login = [block for block in blocks if isinstance(block, gr.LoginButton)]
        return len(login), next(block.visible for block in blocks if block.elem_id == "publish-token")

    assert parts() == (0, True)
    for name, value in (("SPACE_ID", "a/b"), ("SYSTEM", "spaces"), ("OAUTH_CLIENT_ID", "x")):
        monkeypatch.setenv(name, value)
    for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL"):
        monkeypatch.setattr(f"gradio.oauth.{name}", "http://127.0.0.1:9")  # read when it was imported
    assert parts() == (1, False)
