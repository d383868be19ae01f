"""The endpoint that publishes: begun over the API by the login of the machine, told of, and refused to visitors."""

from __future__ import annotations

import json

import gradio as gr
import pytest
from loopback_hub.samples import ALICE
from pico import save_adapter
from upload_steps import at_rest, base_on_hub

from studio.runs import State
from studio.ui import api


def test_a_push_is_begun_and_told_of(hub_server, pico, tmp_path, monkeypatch) -> None:
    base_on_hub(hub_server, pico)
    folder = str(save_adapter(tmp_path / "adapter", pico))
    with pytest.raises(gr.Error, match="Sign in"):
        api.push(folder, "new")
    monkeypatch.setenv("HF_TOKEN", ALICE)
    for more in ("licence=mit&base=alice/pico", "colour=red", "pull_request=perhaps", "branch=a%20b"):
        with pytest.raises(gr.Error):
            api.push(folder, "new", True, more)
    assert api.list_uploads() == []
    id_ = api.push(folder, "new", True, "base=alice/pico")
    assert at_rest(id_) is State.FINISHED
    (told,) = json.loads(json.dumps(api.list_uploads(id_)))
    assert (told["state"], told["uploaded"]["repo"], told["uploaded"]["private"]) == ("finished", "alice/new", True)
    monkeypatch.setenv("SPACE_ID", "owner/space")
    for use in (lambda: api.push(folder, "new"), api.list_uploads):
        with pytest.raises(gr.Error, match="Sign in"):
            use()
