"""A deployment is held to what the folder's own model writes, by programs that can be run as they are."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from adapter_steps import result_of
from exporting_steps import STARTER
from pico import save_adapter, save_pico
from safetensors.torch import load_file, save_file

from studio import dataset, merging
from studio.dataset.examples import Maker
from studio.errors import InputError, Unsupported
from studio.exporting import ServePlan, parity
from studio.models import Precision
from studio.tokenizer import Message, encode, load_tokenizer, render, ways_to_model

ASKED = (Message("system", 'Be "brief" and don\'t {guess}.'), Message("user", "What is 2 + 2?\n\\ Tell me, é你好."))


@pytest.fixture(scope="module")
def told(pico):
    return result_of(parity(ServePlan(pico, ASKED, tokens=24)))


def saved(snippet, folder):
    file = folder / snippet.file
    file.write_text(snippet.code, encoding="utf-8")
    return str(file)


def said(snippet, folder, capsys):
    """What a program says last, run within this process: starting another takes 4 seconds."""
    capsys.readouterr()
    try:
        runpy.run_path(saved(snippet, folder), run_name="__main__")
    except SystemExit as end:
        return str(end.code)
    return capsys.readouterr().out.splitlines()[-1]


def test_the_reply_is_the_one_that_transformers_gives(told, pico):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pico)
    prompt = torch.tensor([told.prompt_ids])
    written = model.generate(prompt, do_sample=False, max_new_tokens=24)[0, prompt.shape[1] :].tolist()
    assert list(told.ids) == written
    assert told.prompt == render(load_tokenizer(pico), ASKED)
    assert told.prompt_ids == tuple(encode(load_tokenizer(pico), told.prompt, special_tokens=False))
    # The lead of the token that was nearly not chosen.
    logits = model(torch.tensor([[*told.prompt_ids, *told.ids]])).logits[0, len(told.prompt_ids) - 1 : -1]
    leads = logits.topk(2).values
    leads = leads[:, 0] - leads[:, 1]
    assert told.closest == pytest.approx(float(leads.min()), abs=1e-5)
    assert told.closest_at == int(leads.argmin()) + 1
    json.dumps(asdict(told))


def test_the_program_for_transformers_runs_and_ends_well(told, tmp_path):
    command = [sys.executable, saved(told.snippets[0], tmp_path)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert done.stdout == f"The same {len(told.ids) - told.ended} tokens: {told.text!r}\n"


def test_another_weight_or_another_template_is_told(pico, tmp_path, capsys):
    other = Path(shutil.copytree(pico, tmp_path / "other"))
    (snippet, *_) = result_of(parity(ServePlan(pico, ASKED, tokens=24, served_as=str(other)))).snippets
    assert said(snippet, tmp_path, capsys).startswith("The same 24 tokens: ")
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] *= -1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert said(snippet, tmp_path, capsys).startswith("Other words: the first 0 of 24 tokens are the same, and then ")
    (other / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert "another chat template" in said(snippet, tmp_path, capsys)


def test_a_text_is_continued_and_what_the_model_would_rather_do_is_left_out(tmp_path, capsys):
    folder = save_pico(tmp_path / "it's mine", eos_token_id=[1, 4])
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 9.0, "repetition_penalty": 3.0, "eos_token_id": [1, 4]})
    )
    told = result_of(parity(ServePlan(folder, prompt="It's {late}\n", tokens=16)))
    assert told.prompt == "It's {late}\n"
    assert said(told.snippets[0], tmp_path, capsys) == f"The same {len(told.ids)} tokens: {told.text!r}"


def test_a_reply_that_ends_by_itself_is_compared_up_to_there(tmp_path, capsys):
    told = result_of(parity(ServePlan(STARTER, (Message("user", "Hello!"),), tokens=200)))
    assert told.ended
    assert said(told.snippets[0], tmp_path, capsys) == f"The same {len(told.ids) - 1} tokens: {told.text!r}"


def test_a_first_token_comes_before_a_text_and_not_before_a_conversation(tmp_path, capsys):
    from pico import CHAT_TEMPLATE, byte_tokenizer
    from tokenizers import processors

    folder = save_pico(tmp_path / "first")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    tokenizer.save_pretrained(folder)
    for plan, first in ((ServePlan(folder, prompt="Hi", tokens=8), 2), (ServePlan(folder, ASKED[1:], tokens=8), 3)):
        told = result_of(parity(plan))
        assert (told.prompt_ids[0], told.prompt_ids.count(2)) == (first, first == 2)
        assert said(told.snippets[0], tmp_path, capsys).startswith("The same 8 tokens")


def test_half_precision_is_the_same_here_and_there(pico, tmp_path, capsys):
    told = result_of(parity(ServePlan(pico, ASKED, tokens=16, precision=Precision.BF16)))
    assert "torch.bfloat16" in told.snippets[0].code
    assert 'dtype="bfloat16"' in told.snippets[1].code
    assert said(told.snippets[0], tmp_path, capsys).startswith("The same 16 tokens")


@pytest.mark.parametrize("chat", [True, False])
def test_every_program_is_python_with_the_same_values(chat, pico):
    plan = ServePlan(pico, ASKED if chat else (), "" if chat else "Say {this}:", tokens=8, gguf="it's.gguf")
    told = result_of(parity(plan))
    assert [snippet.runtime for snippet in told.snippets] == ["transformers", "vllm", "llama.cpp"]
    for snippet in told.snippets:
        tree = ast.parse(snippet.code)
        values = {
            ast.unparse(node.targets[0]): ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()
        }
        assert values["PROMPT_IDS"] == list(told.prompt_ids)
        assert values["EXPECTED_IDS"] == list(told.ids)
        assert values.get("FOLDER", str(pico)) == str(pico)
        assert ("MESSAGES" in values) == chat
        assert values.get("PROMPT", "Say {this}:") == "Say {this}:"
    assert "llama-server -m 'it'\"'\"'s.gguf' -c " in told.snippets[2].code


def test_training_chat_and_the_merged_folder_read_one_conversation_byte_for_byte_alike(pico, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", pico)
    result_of(merging.merge(merging.MergePlan(pico, adapter, tmp_path / "merged", dtype="fp32")))
    tokenizer = load_tokenizer(pico)
    served = result_of(parity(ServePlan(tmp_path / "merged", ASKED, tokens=4)))
    chat, training, _ = ways_to_model(tokenizer, ASKED)
    assert chat.ids == training.ids == served.prompt_ids
    assert chat.text.encode() == training.text.encode() == served.prompt.encode()
    # And a row that is learnt begins with it, by the very code that makes rows into examples.
    row = {"messages": [{"role": m.role, "content": m.content} for m in (*ASKED, Message("assistant", "Four."))]}
    example = dataset.as_conversation(row, dataset.ColumnMapping.of(dataset.Format.MESSAGES, messages="messages"))
    learnt = Maker(tokenizer, dataset.Preparation(limit=512)).make(example, "The row").masked
    assert tuple(learnt.ids[: len(chat.ids)]) == chat.ids
    assert learnt.trained.index(True) == len(chat.ids)


@pytest.mark.parametrize("words", [{}, {"messages": ASKED, "prompt": "both"}])
def test_a_plan_says_one_thing(words, pico):
    with pytest.raises(InputError, match="There is"):
        ServePlan(pico, **words)


def test_a_model_without_a_template_holds_no_conversation(tmp_path):
    folder = save_pico(tmp_path / "plain", chat_template=None)
    with pytest.raises(Unsupported, match="no chat template"):
        result_of(parity(ServePlan(folder, ASKED)))


def test_it_can_be_given_up(pico):
    work = parity(ServePlan(pico, ASKED, tokens=512))
    next(work)
    work.close()
    assert list(work) == []
