"""Prove a deployment, by its handlers: what the merged model has to write, and programs that say whether it does."""

from __future__ import annotations

import runpy
from dataclasses import replace

import pytest
from merge_steps import ordered, worked_off
from pico import save_pico

from studio import merges
from studio.errors import InputError
from studio.exporting import Parity
from studio.jobs.exporting import prove_deployment
from studio.models import Precision
from studio.settings import STARTER_FOLDER
from studio.ui import merged_panel, parity_panel


def proved(id_, prompt="Who are you?", **wishes):
    page = {}
    values = {"tokens": 12, "precision": "fp32", **wishes}
    for update in parity_panel.prove(merge=id_, prompt=prompt, **values):
        page |= update
    return page


def test_what_it_has_to_write_is_what_its_programs_hold_it_to(tmp_path, capsys):
    id_ = merges.create(ordered(STARTER_FOLDER, tmp_path, prove=False))
    assert "no proven merge" in proved(id_)["note"]
    worked_off(id_)
    assert merged_panel.opened(merge=id_)["parity"]["visible"]
    page = proved(id_)
    assert page["note"] == ""
    assert "what it has to write" in page["found"]
    assert page["programs"]["visible"]
    code = page["transformers"]["value"]
    assert "MESSAGES" in code  # in the chat template, which the starter has
    assert "check_transformers.py" in page["transformers"]["label"]
    assert "from vllm import" in page["vllm"]["value"]
    assert "llama-server -m model.gguf" in page["llama.cpp"]["value"]
    file = tmp_path / "check.py"
    file.write_text(code)
    runpy.run_path(str(file), run_name="__main__")
    assert "The same" in capsys.readouterr().out
    file.write_text(code.replace("EXPECTED_IDS = [", "EXPECTED_IDS = [1, 1, "))
    with pytest.raises(SystemExit, match="Other words"):
        runpy.run_path(str(file), run_name="__main__")
    assert "nothing for the model to answer" in proved(id_, " ")["note"]
    assert not parity_panel.emptied()["programs"]["visible"]


def test_a_model_without_a_chat_template_continues_the_text(tmp_path):
    base = save_pico(tmp_path / "base", chat_template=None)
    id_ = merges.create(ordered(base, tmp_path, prove=False))
    worked_off(id_)
    assert "PROMPT = 'Once'" in proved(id_, "Once")["transformers"]["value"]


def test_a_reply_that_hangs_on_a_hair_is_said_and_no_reply_is_html():
    done = Parity("", (1,), (2, 3), "<i>Aye", True, 0.5, 2, (), 1.0)
    clear = parity_panel.expected(done)
    assert "&lt;i&gt;Aye" in clear
    assert "<i>" not in clear
    assert "almost alike" not in clear
    assert "At token 2 two tokens are almost alike" in parity_panel.expected(replace(done, closest=1e-5))
    assert "Nothing but the token" in parity_panel.expected(replace(done, text=""))


def test_visitors_prove_nothing(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/space")
    assert "Visitors cannot" in proved("0" * 32)["note"]
    with pytest.raises(InputError, match="Visitors cannot"):
        next(prove_deployment(STARTER_FOLDER, "Hello", 4, Precision.FP32))
