"""Text in GGUF files: a way to split it that gives the folder's tokens in llama.cpp, or a refusal with a reason."""

from __future__ import annotations

import subprocess

import pytest
from exporting_steps import LLAMA3, QWEN2, STARTER, save_model, split_by, trained
from pico import save_pico

from studio.errors import Damaged, Unsupported
from studio.exporting import command_for
from studio.exporting.splits import CONTROL, NORMAL, SPLITS, UNUSED, USER_DEFINED, as_read
from studio.exporting.texts import probes
from studio.exporting.vocabulary import own_ids, read_vocabulary


def gpt_2(**options):
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def digits():
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt_2()])


def found(tokenizer, folder, rows=None):
    return read_vocabulary(folder, tokenizer, rows or len(tokenizer), probes(tokenizer), lambda: None)


@pytest.mark.parametrize(
    ("make", "options", "name"),
    [
        (gpt_2, {}, "gpt-2"),
        (digits, {}, "smollm"),
        (lambda: split_by(QWEN2), {}, "qwen2"),
        (lambda: split_by(LLAMA3), {"whole_words": True}, "llama-bpe"),
        (lambda: split_by(SPLITS["gpt-4o"].patterns[0]), {"size": 1500}, "gpt-4o"),
    ],
)
def test_the_splitting_is_found_by_what_it_does(make, options, name, tmp_path):
    tokenizer = trained(make(), **options)
    told = found(tokenizer, tmp_path)
    assert told.split == name
    text = "Tell me 12345 things,  please\n\nIt'S <|user|>WeirdCase"
    read = as_read(told.tokens, told.types, told.merges, SPLITS[name])
    assert [read.encode(text, add_special_tokens=False).ids] == own_ids(tokenizer, [text])


def test_a_word_that_is_a_token_without_merges_needs_a_splitting_that_takes_it_whole(tmp_path):
    # "ab" is in the vocabulary, and no merge makes it.
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    chosen = {}
    for whole in (True, False):
        saved = json.loads(trained(split_by(LLAMA3), whole_words=whole).backend_tokenizer.to_str())
        word = next(token for token in saved["model"]["vocab"] if len(token) == 5 and token.isascii())
        saved["model"]["merges"] = [merge for merge in saved["model"]["merges"] if "".join(merge) != word]
        backend = Tokenizer.from_str(json.dumps(saved))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
        tokens = own_ids(tokenizer, [word.replace("Ġ", " ")])[0]
        chosen[whole] = (len(tokens) == 1, found(tokenizer, tmp_path).split)
    assert chosen == {True: (True, "llama-bpe"), False: (False, "dbrx")}


def test_a_splitting_that_llama_cpp_does_not_know_is_refused_with_a_text_that_shows_it(tmp_path):
    tokenizer = trained(split_by(r"\p{L}|\p{N}+|[^\p{L}\p{N}]+"))
    with pytest.raises(Unsupported, match=r"the closest, .+, makes others of '.+'") as refused:
        found(tokenizer, tmp_path)
    assert "transformers or vLLM" in refused.value.hint


def test_a_normal_form_is_named_as_what_llama_cpp_leaves_out(tmp_path):
    from tokenizers import normalizers

    told = found(trained(split_by(QWEN2), normalizer=normalizers.NFC()), tmp_path)
    assert (told.split, len(told.caveats)) == ("qwen2", 1)
    assert "NFC" in told.caveats[0]


def test_a_tokenizer_that_changes_the_text_first_is_refused(tmp_path):
    from tokenizers import normalizers

    with pytest.raises(Unsupported, match="it changes the text first \\(Lowercase\\)"):
        found(trained(gpt_2(), normalizer=normalizers.Lowercase()), tmp_path)


def test_a_tokenizer_without_merges_is_refused(tmp_path):
    from pico import byte_tokenizer

    with pytest.raises(Unsupported, match="no merges"):
        found(byte_tokenizer(), tmp_path)


def test_special_tokens_that_take_the_space_beside_them_are_refused(tmp_path):
    from tokenizers import AddedToken

    tokenizer = trained(gpt_2())
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    with pytest.raises(Unsupported, match="<mask>"):
        found(tokenizer, tmp_path)


def test_rows_without_a_token_and_tokens_of_every_kind_have_their_place(tmp_path):
    tokenizer = trained(gpt_2())
    size = len(tokenizer)
    tokenizer.add_tokens(["<think>"])
    told = found(tokenizer, tmp_path, size + 4)
    assert told.tokens[size:] == ("<think>", f"[PAD{size + 1}]", f"[PAD{size + 2}]", f"[PAD{size + 3}]")
    assert told.types[size:] == (USER_DEFINED, UNUSED, UNUSED, UNUSED)
    assert (told.types[0], told.types[300]) == (CONTROL, NORMAL)
    with pytest.raises(Damaged, match="belongs to another model"):
        found(tokenizer, tmp_path, size)


def test_a_first_token_is_written_where_the_tokenizer_puts_one(tmp_path):
    from tokenizers import processors

    tokenizer = trained(gpt_2())
    tokenizer.bos_token = "<|system|>"
    assert found(tokenizer, tmp_path).pairs["tokenizer.ggml.add_bos_token"] is False
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    told = found(tokenizer, tmp_path).pairs
    assert (told["tokenizer.ggml.add_bos_token"], told["tokenizer.ggml.bos_token_id"]) == (True, 2)


# What to run elsewhere


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: save_model(folder, "gpt_neox"), "this is gpt_neox"),
        (save_pico, "it has no merges"),
        (save_model, "for Q4_K_M, Q6_K and the like"),
    ],
)
def test_the_command_says_why_and_is_a_shell_script(make, why, tmp_path):
    folder = make(tmp_path / "it's mine")
    script = command_for(folder)
    assert why in script.splitlines()[0]
    # The shell itself reads the name of the folder back, quote and all.
    probe = script.replace("llama.cpp/.venv/bin/python llama.cpp/convert_hf_to_gguf.py", "printf '%s\\n'")
    line = next(line for line in probe.splitlines() if line.startswith("printf"))
    said = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == [str(folder), "--outtype", "bf16", "--outfile", "it's mine-BF16.gguf"]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_no_command_is_given_for_what_is_no_model(tmp_path):
    with pytest.raises(Unsupported, match=r"config\.json"):
        command_for(tmp_path)
    assert command_for(STARTER).startswith("# The studio writes this model itself")
