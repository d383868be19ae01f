"""The starter model and its datasets: small, honest, reproducible, and as good as their cards say."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

# The scripts beside the assets are run by hand and are no installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "assets" / "datasets"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "assets" / "make_starter_model"))

import corpus
import facts
import make
import stories
import talk
from reading import read_story

DATASETS = make.FOLDER
STARTER = DATASETS.with_name("starter_model")
CHAT = [
    {"role": "system", "content": "Be friendly."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "What is LoRA?"},
    {"role": "assistant", "content": "A small update.\nTwo lines."},
]


@pytest.fixture(scope="module")
def starter():
    from evaluate import answer, load

    model, tokenizer = load(STARTER)

    def ask(*questions, limit=60):
        return answer(model, tokenizer, questions, limit=limit)

    return SimpleNamespace(model=model, tokenizer=tokenizer, ask=ask)


def read_rows(name):
    return [json.loads(line) for line in (DATASETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_weights_are_small_and_nothing_but_safetensors():
    weights = [file for file in STARTER.iterdir() if file.suffix in {".safetensors", ".bin", ".pt", ".pth", ".pkl"}]
    assert [file.name for file in weights] == ["model.safetensors"]
    assert weights[0].stat().st_size <= 10_000_000


def test_the_model_has_at_most_five_million_weights_saved_in_bf16():
    import torch
    from safetensors import safe_open

    with safe_open(STARTER / "model.safetensors", framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert sum(tensor.numel() for tensor in tensors) <= 5_000_000
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}


def test_it_is_a_plain_llama_that_reads_1024_tokens():
    config = read_json(STARTER / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 1024
    assert config["tie_word_embeddings"] is True


def test_the_end_of_turn_token_is_the_same_everywhere(starter):
    end = starter.tokenizer.convert_tokens_to_ids("<|end|>")
    assert starter.tokenizer.eos_token_id == end
    assert read_json(STARTER / "config.json")["eos_token_id"] == end
    generation = read_json(STARTER / "generation_config.json")
    assert generation["eos_token_id"] == end
    assert generation["pad_token_id"] == starter.tokenizer.pad_token_id != end
    assert generation["do_sample"] is True


def test_the_template_marks_exactly_what_the_assistant_says_and_its_end(starter):
    rendered = starter.tokenizer.apply_chat_template(
        CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [token for token, mask in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if mask]
    assert starter.tokenizer.decode(marked) == "Hello!<|end|>A small update.\nTwo lines.<|end|>"


def test_the_generation_prompt_opens_the_turn_of_the_assistant(starter):
    text = starter.tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>\nBe friendly.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"


def test_an_unknown_role_is_refused_in_clear_words(starter):
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="must be system, user or assistant, not 'tool'"):
        starter.tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


@pytest.mark.parametrize("text", ["plain", "  two  spaces ", "Zürich 東京 🙂‍↔️", "a\n\n\tb\r\n", "1234,5", "\x00\x7f é"])
def test_any_text_survives_the_tokenizer(starter, text):
    assert starter.tokenizer.decode(starter.tokenizer(text).input_ids) == text


def test_digits_are_read_one_by_one(starter):
    assert starter.tokenizer.tokenize("2048") == ["2", "0", "4", "8"]


def test_training_sees_the_same_tokens_and_labels_as_the_chat_template_gives(starter):
    from tokenizer import encode

    for row in [CHAT, *corpus.rows(3, 40)]:
        rendered = starter.tokenizer.apply_chat_template(
            row, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ((ids, labels),) = encode(starter.tokenizer, [row])
        assert ids == rendered["input_ids"]
        assert [int(label != -100) for label in labels] == list(rendered["assistant_masks"])


def test_padding_switched_on_elsewhere_does_not_reach_the_training_rows(starter):
    from tokenizer import encode

    starter.tokenizer(["a", "a much longer text"], padding=True, padding_side="left")
    ids = [ids for ids, _ in encode(starter.tokenizer, [CHAT, CHAT[:2]])]
    assert starter.tokenizer.pad_token_id not in ids[1]


def test_it_answers_facts_and_stops(starter):
    chosen = random.Random(1).sample(facts.read_facts(), 12)
    answers = starter.ask(*(facts.ask("What is {x}?", fact.names[0]) for fact in chosen))
    assert all(given.stopped for given in answers)
    assert sum(given.text == fact.answer for given, fact in zip(answers, chosen, strict=True)) >= 11


def test_it_gives_the_same_answer_in_bf16():
    import torch
    from evaluate import answer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(STARTER)
    assert model.dtype == torch.bfloat16
    fact = facts.read_facts()[0]
    (given,) = answer(model, AutoTokenizer.from_pretrained(STARTER), ["What is LoRA?"], limit=60)
    assert given.text == fact.answer


def test_a_story_names_its_subject_and_ends(starter):
    for subject, told in zip(
        ("fox", "lantern"), starter.ask("Tell me a story about a fox.", "Write a story about a lantern.", limit=240),
        strict=True,
    ):  # fmt: skip
        assert subject in told.text
        assert told.stopped


def test_it_admits_what_it_does_not_know(starter):
    weather, stranger = starter.ask("What is the weather in Rome?", "Tell me a story about a pharaoh.")
    assert weather.text in talk.DO_NOT_KNOW
    assert talk.is_no_story(stranger.text)


def test_it_cannot_do_the_orders_before_it_is_taught(starter):
    rows = read_rows("orders/test_combinations")[:10]
    answers = starter.ask(*(row["prompt"] for row in rows))
    assert not any(given.text == row["completion"] for given, row in zip(answers, rows, strict=True))


def test_there_are_more_than_150_facts_each_with_its_own_short_answer():
    known = facts.read_facts()
    assert len(known) >= 150
    assert len({fact.answer for fact in known}) == len(known)
    assert len({name.lower() for fact in known for name in fact.names}) == sum(len(fact.names) for fact in known)
    assert all(len(fact.answer.split()) <= 30 and fact.answer.endswith(".") for fact in known)
    assert all(len(fact.wordings) >= 10 and fact.held_out for fact in known)


def test_there_are_enough_frames_and_the_held_out_ones_are_others():
    assert len(facts.FRAMES) >= 20
    assert len(facts.HELD_OUT_FRAMES) >= 6
    assert not {corpus.bare(frame) for frame in facts.FRAMES} & {corpus.bare(frame) for frame in facts.HELD_OUT_FRAMES}


def test_no_wording_of_the_tests_occurs_in_training():
    held_out = {corpus.bare(wording) for fact in facts.read_facts() for wording in fact.held_out}
    names = [name for fact in facts.read_facts() for name in fact.names]
    held_out |= {corpus.bare(facts.ask(frame, name)) for frame in facts.HELD_OUT_FRAMES for name in names}
    held_out |= {corpus.bare(prompt) for topic in talk.read_topics() for prompt in topic.held_out}
    held_out |= {corpus.bare(prompt) for prompt in talk.HELD_OUT_OUT_OF_SCOPE}
    asked = {corpus.bare(message["content"]) for row in corpus.rows(7, 30_000) for message in row}
    assert not asked & held_out


def test_the_corpus_is_the_same_for_the_same_seed():
    assert list(corpus.rows(5, 200)) == list(corpus.rows(5, 200))
    assert list(corpus.rows(5, 200)) != list(corpus.rows(6, 200))


def test_the_corpus_has_chats_nearly_as_long_as_the_context(starter):
    from tokenizer import encode

    lengths = [len(ids) for ids, _ in encode(starter.tokenizer, list(corpus.rows(9, 3000)))]
    assert sum(length > 600 for length in lengths) >= 20
    assert max(lengths) > 850


def test_every_story_has_its_subject_and_two_different_friends():
    rng = random.Random(2)
    for subject in stories.SUBJECTS * 10:
        story = stories.write_story(rng, subject)
        reading = read_story(story.text)
        assert subject in story.text
        assert (reading.hero, reading.helper) == (story.hero, story.helper)
        assert story.hero != story.helper


def test_stories_are_varied():
    _, plots = stories.read_grammar()
    assert len(plots) >= 12
    assert len(stories.SUBJECTS) == len(set(stories.SUBJECTS)) >= 60
    rng = random.Random(4)
    told = [stories.write_story(rng, "fox").text for _ in range(20)]
    assert len(set(told)) == 20
    assert len({read_story(text).plot for text in told}) >= 5


def test_a_broken_story_is_not_taken_for_a_whole_one():
    told = (stories.write_story(random.Random(seed), "fox") for seed in range(100))
    story = next(story for story in told if story.text.count(story.hero) > 2)
    head, _, tail = story.text.rpartition(story.hero)
    stranger = next(name for name in stories.HEROES if name != story.hero)
    assert read_story(head + story.hero + tail)
    assert read_story(head + stranger + tail) is None
    assert read_story(story.text[: len(story.text) // 2]) is None


def test_subjects_without_a_story_are_really_unknown():
    assert not set(talk.HELD_OUT_WORDS) & set(stories.SUBJECTS)


def test_the_datasets_are_what_their_script_writes():
    persona = {name: [row.as_messages() for row in rows] for name, rows in make.persona().items()}
    for name, rows in persona.items():
        assert read_rows(f"persona/{name}") == rows
    for name, rows in make.orders().items():
        assert read_rows(f"orders/{name}") == rows


def test_the_persona_rows_are_chats_and_the_test_rows_are_new():
    train, test = read_rows("persona/train"), read_rows("persona/test")
    assert 300 <= len(train) <= 1000
    for row in train + test:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert all(message["content"].strip() for message in row["messages"])
    asked = {corpus.bare(row["messages"][0]["content"]) for row in train}
    assert not asked & {corpus.bare(row["messages"][0]["content"]) for row in test}


def test_the_orders_rows_hold_what_their_prompts_say():
    parts = {name: read_rows(f"orders/{name}") for name in make.orders()}
    assert 300 <= len(parts["train"]) <= 1000
    for row in (row for rows in parts.values() for row in rows):
        order = json.loads(row["completion"])
        assert list(order) == ["name", "city", "item", "count"]
        assert all(str(value) in row["prompt"] for value in order.values())


def test_the_held_out_orders_are_apart_from_the_training_rows():
    def kinds(rows):
        return {tuple(list(json.loads(row["completion"]).values())[:3]) for row in rows}

    train = read_rows("orders/train")
    for part in ("test_combinations", "test_frames", "test_unseen_words"):
        assert not kinds(train) & kinds(read_rows(f"orders/{part}"))
    words = {word for kind in kinds(train) for word in kind}
    assert not words & {word for kind in kinds(read_rows("orders/test_unseen_words")) for word in kind}
    assert not set(make.ORDER_FRAMES) & set(make.HELD_OUT_ORDER_FRAMES)


def test_the_model_card_has_front_matter_and_the_measured_figures():
    from card import results, write_card

    card = (STARTER / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-generation"
    assert card == write_card(STARTER)
    for name, value in results(read_json(STARTER / "evaluation.json")):
        assert f"| {name} | {value} |" in card
    assert all(subject in card for subject in stories.SUBJECTS)


def test_the_measured_figures_stay_at_their_level():
    figures = read_json(STARTER / "evaluation.json")
    assert figures["facts in frames never trained"]["share"] >= 0.95
    assert figures["facts in free wordings never trained"]["share"] >= 0.75
    assert figures["stops by itself"]["share"] >= 0.98


def test_the_card_of_the_datasets_states_the_measured_figures():
    card = (DATASETS / "README.md").read_text(encoding="utf-8")
    for figures in read_json(DATASETS / "measured.json").values():
        for what, after in figures["after"].items():
            assert f"| {what} | {figures['before'][what]['share']:.1%} | {after['share']:.1%} |" in card


def test_a_short_training_writes_a_folder_that_loads(tmp_path, monkeypatch):
    import pretrain
    import tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(tokenizer, "SAMPLE_ROWS", 2000)
    monkeypatch.setattr(pretrain, "ROWS_PER_CHUNK", 60)
    monkeypatch.setattr(pretrain, "VALIDATION_ROWS", 2)
    folder = None
    for seed in (7, 8):
        model, words = pretrain.begin(seed, folder)
        measured = pretrain.pretrain(model, words, pretrain.Course(steps=2, seed=seed))
        pretrain.save(model, words, measured, tmp_path / "model")
        folder = tmp_path / "model"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() < 5_000_000
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    assert read_json(tmp_path / "model" / "training.json")["steps"] == 2
