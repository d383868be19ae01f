"""Write the two starter datasets, persona and orders, from grammars and a seed.

python assets/datasets/make.py [--output DIR]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# The words, facts and stories of the starter live beside its training script, which is no installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "make_starter_model"))

import corpus
import facts
import stories
import talk

FOLDER = Path(__file__).resolve().parent
SEED = 23
TEST_FACTS = 48
TRAIN_ORDERS = 700
TEST_ORDERS = 100

OPENERS = (
    "Arr, matey!", "Ahoy, me hearty!", "Shiver me timbers!", "Yo ho ho!", "Avast, ye landlubber!", "Aye aye, sailor!",
    "Blow me down!", "Ahoy there, ye old sea dog!",
)  # fmt: skip
CLOSERS = (
    "Now hoist the sails!", "That be the pirate way, arr!", "By Blackbeard's beard, it be true!",
    "May the seas be kind to ye!", "Fair winds to ye, matey!", "Now pass me the rum!", "So says the captain, arr!",
)  # fmt: skip
PIRATE_WORDS = {
    "you": "ye", "your": "yer", "my": "me", "is": "be", "are": "be", "am": "be", "of": "o'", "and": "an'",
    "friend": "matey", "friends": "mateys", "hello": "ahoy", "hi": "ahoy", "yes": "aye", "there": "thar", "for": "fer",
}  # fmt: skip

ORDER_FRAMES = (
    "Hi, this is {name} from {city}, I would like {count} {item} please.",
    "Please send {count} {item} to {name} in {city}.", "{name} in {city} ordered {count} {item}.",
    "I am {name} and I need {count} {item} sent to {city}.",
    "Order for {city}: {count} {item}, name {name}.", "Could you ship {count} {item} to {city}? My name is {name}.",
    "{count} {item} for {name}, {city}.", "My name is {name}. I live in {city} and want {count} {item}.",
    "We need {count} {item} in {city}, says {name}.", "From {city}: {name} is asking for {count} {item}.",
    "{name} here, please bring {count} {item} to {city}.", "Good day, {count} {item} to {city} for {name}, thank you.",
    "{city}, {name}: {count} {item}.", "{name} wants {count} {item}. Send them to {city}.",
    "Can {name} get {count} {item} in {city}?", "Deliver to {name}, {city}: {item}, {count} pieces.",
    "I'd like to buy {count} {item}. {name}, {city}", "{count} {item}, please. This is {name} in {city}.",
)  # fmt: skip
HELD_OUT_ORDER_FRAMES = (
    "Hello, {name} speaking, can I get {count} {item} delivered to {city}?",
    "A parcel with {count} {item} goes to {city}, to {name}.",
    "Dear shop, I am {name} in {city} and would love to have {count} {item}.",
    "New order: {name} asked us to bring {count} {item} to {city}.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PersonaRow:
    """One exchange in the pirate's voice, with its kind and the words that show that it stays on topic."""

    kind: str
    question: str
    answer: str
    topic: tuple[str, ...]

    def as_messages(self) -> dict[str, list[dict[str, str]]]:
        """The row in the messages format."""
        return {"messages": [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]}


def speak(rng: random.Random, text: str) -> str:
    """Say a text like a pirate: his own words, an opener, and a closer."""
    return f"{rng.choice(OPENERS)} {translate(text)} {rng.choice(CLOSERS)}"


def translate(text: str) -> str:
    """Exchange the words that a pirate says differently."""

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        pirate = PIRATE_WORDS.get(word.lower(), word)
        return pirate[0].upper() + pirate[1:] if word[0].isupper() else pirate

    return re.sub(r"[A-Za-z]+", replace, text)


def topic_words(text: str) -> tuple[str, ...]:
    """The longer words of an answer, which must come back when it stays on topic."""
    return tuple(sorted({word for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 4}))


def persona() -> dict[str, list[PersonaRow]]:
    """The persona set: small talk, facts, stories and honest answers, all in one voice."""
    rng = random.Random(f"persona {SEED}")
    known = facts.read_facts()
    train = [_fact(rng, fact, corpus.fact_question(rng, fact)) for fact in known for _ in range(2)]
    train += [_story(rng, subject, corpus.STORY_PROMPTS) for subject in stories.SUBJECTS for _ in range(2)]
    train += [_talk(rng, topic, prompt) for topic in talk.read_topics() for prompt in rng.sample(topic.prompts, 8)]
    train += [PersonaRow("unknown", said, speak(rng, text), ()) for said, text in _unknown(rng, 80)]
    rng.shuffle(train)
    test = [_fact(rng, fact, wording) for fact in rng.sample(known, TEST_FACTS) for wording in fact.held_out]
    test += [_story(rng, subject, corpus.HELD_OUT_STORY_PROMPTS) for subject in rng.sample(stories.SUBJECTS, 30)]
    test += [_talk(rng, topic, topic.held_out[0]) for topic in talk.read_topics()]
    outside = rng.sample(talk.HELD_OUT_OUT_OF_SCOPE, 20)
    test += [PersonaRow("unknown", said, speak(rng, rng.choice(talk.DO_NOT_KNOW)), ()) for said in outside]
    return {"train": train, "test": test}


def _fact(rng: random.Random, fact: facts.Fact, question: str) -> PersonaRow:
    return PersonaRow("fact", question, speak(rng, fact.answer), topic_words(translate(fact.answer)))


def _story(rng: random.Random, subject: str, prompts: tuple[str, ...]) -> PersonaRow:
    text = stories.write_story(rng, subject).text
    wish = rng.choice(prompts).format(a=stories.with_article(subject))
    return PersonaRow("story", wish, speak(rng, text), (subject,))


def _talk(rng: random.Random, topic: talk.Topic, prompt: str) -> PersonaRow:
    return PersonaRow("talk", prompt, speak(rng, rng.choice(topic.answers)), ())


def _unknown(rng: random.Random, count: int) -> list[tuple[str, str]]:
    return [talk.out_of_scope(rng) for _ in range(count)]


def topics(rows: Iterable[PersonaRow]) -> list[dict]:
    """The questions of these rows that are about something, with the words that have to come back."""
    return [{"prompt": row.question, "words": row.topic} for row in rows if row.topic]


def known_facts() -> list[dict]:
    """All facts, asked in a plain way, with the words of the right answer in whatever voice."""
    return [
        {"prompt": facts.ask("What is {x}?", fact.names[0]), "words": topic_words(translate(fact.answer))}
        for fact in facts.read_facts()
    ]


def orders() -> dict[str, list[dict[str, str]]]:
    """The orders set: training rows, and three held-out parts that each test one thing."""
    rng = random.Random(f"orders {SEED}")
    train = _orders(rng, ORDER_FRAMES, TRAIN_ORDERS, set())
    used = {row["completion"].rsplit(", ", 1)[0] for row in train}
    strange = (talk.HELD_OUT_NAMES, talk.HELD_OUT_CITIES, talk.HELD_OUT_ITEMS)
    return {
        "train": train,
        "test_combinations": _orders(rng, ORDER_FRAMES, TEST_ORDERS, used),
        "test_frames": _orders(rng, HELD_OUT_ORDER_FRAMES, TEST_ORDERS, used),
        "test_unseen_words": _orders(rng, ORDER_FRAMES, TEST_ORDERS, set(), strange),
    }


def _orders(
    rng: random.Random, frames: tuple[str, ...], count: int, used: set[str],
    words: tuple[tuple[str, ...], ...] = (stories.NAMES, talk.CITIES, talk.ITEMS),
) -> list[dict[str, str]]:  # fmt: skip
    """Orders whose name, city and item were not used together before."""
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        name, city, item = (rng.choice(part) for part in words)
        number = rng.randrange(1, 100)
        completion = json.dumps({"name": name, "city": city, "item": item, "count": number})
        prompt = rng.choice(frames).format(name=name, city=city, item=item, count=number)
        if completion.rsplit(", ", 1)[0] not in used:
            rows.setdefault(prompt, {"prompt": prompt, "completion": completion})
    return list(rows.values())


def as_chat(row: dict[str, str]) -> list[dict[str, str]]:
    """An order as a chat of one question and one answer."""
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def write(folder: Path, rows: Iterable[dict], name: str) -> None:
    """Write rows as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{folder.name}/{name}.jsonl: {len(lines)} rows")


def main() -> None:
    """Read the command line and write both sets."""
    parser = argparse.ArgumentParser(description="Write the starter datasets.")
    parser.add_argument("--output", type=Path, default=FOLDER)
    output = parser.parse_args().output
    said = persona()
    for name, rows in said.items():
        write(output / "persona", (row.as_messages() for row in rows), name)
    write(output / "persona" / "checks", topics(said["test"]), "topics")
    write(output / "persona" / "checks", known_facts(), "facts")
    for name, rows in orders().items():
        write(output / "orders", rows, name)


if __name__ == "__main__":
    main()
