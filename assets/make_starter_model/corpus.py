"""The seeded training corpus: rows of messages, all of them written by the grammars beside this file."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache

from facts import FRAMES, HELD_OUT_FRAMES, Fact, ask, read_facts
from stories import ANIMALS, SUBJECTS, Story, with_article, words, write_story
from talk import SYSTEM_PROMPTS, no_story, out_of_scope, small_talk, unknown_word

Message = dict[str, str]
Turns = list[tuple[str, str]]
"""Pairs of what the user says and what the assistant answers."""

KINDS = {"story": 0.23, "fact": 0.48, "talk": 0.12, "unknown": 0.11, "no story": 0.06}
"""What a row is about, and how often."""

STORY_PROMPTS = (
    "Tell me a story about {a}.", "Tell me a short story about {a}.", "Write a story about {a}.", "a story about {a}",
    "Can you tell me a story about {a}?", "I would like a story about {a}.", "Story about {a}, please.", "story: {a}",
    "Please tell a story about {a}.", "Make up a story about {a}.", "Could you write a little tale about {a}?",
    "tell me about {a} in a story", "Give me a story with {a} in it.", "Do you know a story about {a}?",
    "I want to hear a story about {a}", "Once upon a time there was {a}. Go on!", "Tell my child a story about {a}.",
    "Please write something about {a}.", "A bedtime story about {a}, please.", "Write a fairy tale about {a}.",
    "Tell a story. It should be about {a}.", "Story with {a}", "Tell us a tale of {a}.", "Let me hear about {a}.",
    "Can I have a story about {a}?", "Write a short text about {a}.", "How about a story about {a}?",
    "Invent a story about {a}", "A new story about {a}!", "{a} story please",
)  # fmt: skip
HELD_OUT_STORY_PROMPTS = (
    "Please write me a tiny tale about {a}.", "Would you make up a story with {a}?", "My kids want a story about {a}.",
    "Could I get a short story about {a}?",
)  # fmt: skip
_OPEN_PROMPTS = (
    "Tell me a story.", "Tell me a story", "A story, please.", "Do you know a story?", "Write a story.", "story",
    "I want to hear a story.", "Can you tell me a story?", "Any story will do.", "Surprise me with a story.",
    "Tell me something nice.", "Make up a story.", "Story time!", "A bedtime story please", "Tell me a short story.",
)  # fmt: skip
_MORE_PROMPTS = (
    "Another one.", "Another story, please.", "One more!", "Tell me another one.", "And another?", "More stories!",
    "Again!", "Tell me a different story.", "More, please.", "Another one about {a}.", "Now one about {a}.",
    "And a story about {a}?", "The same with {a}.",
)  # fmt: skip

_WRAPPERS = (
    "Can you tell me: {q}", "One more question: {q}", "I wonder: {q}", "Hey, {q}", "Question: {q}", "Sorry, {q}",
    "I am confused. {q}", "{q} Please explain.", "Okay, and {q}", "Tell me, {q}", "I want to know: {q}", "{q} Thanks!",
    "Hi! {q}", "Please help: {q}", "So, {q}", "Hello, {q}", "I'm new to this. {q}", "Next question. {q}", "um, {q}",
    "{q} I don't get it.", "Maybe you know: {q}", "Just curious, {q}", "Thanks. {q}", "well, {q}", "{q} Any idea?",
)  # fmt: skip
_FILLERS = (
    "really", "actually", "basically", "please", "just", "again", "even", "the idea of", "the point of", "the whole",
    "the term", "this", "kind of", "roughly", "the concept of", "maybe", "the meaning of", "in short", "you know",
)  # fmt: skip
_SAME_MEANING = (
    ("a model", "my model", "the model", "a language model"),
    ("how do i", "how can i", "how could i", "how would i", "how to", "tell me how i"),
    ("should i", "do i have to", "would you", "is it good to", "must i"),
    ("why use", "why would i use", "why should i use", "why do people use", "what is the reason to use"),
    ("what is", "what's", "whats", "what exactly is", "tell me what is", "so what is"),
    ("what does", "what exactly does", "so what does"),
    ("why does", "why would", "for what reason does"),
    ("where can i", "where do i", "in which place can i", "where could i"),
    ("which", "what"),
    ("big", "large"),
    ("can i", "could i", "may i", "is it possible to", "am i able to"),
    ("what happens", "what goes on", "what will happen"),
    ("train", "tune", "fine-tune"),
    ("good", "useful", "helpful"),
    ("mean", "stand for", "signify"),
    ("memory", "room"),
    ("text", "sentence"),
    ("need", "require"),
)
_ANSWER_OPENINGS = ("", "", "what is it: ", "what ", "is that ", "why ", "how do I get ", "tell me about ", "I want ")
_SMALL_WORDS = frozenset(words("a an the is are do does i my me it to of in for what how so should can please be"))


def rows(seed: int, count: int, *, part: str = "train") -> Iterator[list[Message]]:
    """Yield rows of messages; the same seed and part give the same rows."""
    rng = random.Random(f"{part} {seed}")
    for _ in range(count):
        yield _row(rng)


def rows_of_kind(kind: str, seed: int, count: int) -> list[list[Message]]:
    """Rows with a single exchange of one kind, to measure it apart."""
    rng = random.Random(f"{kind} {seed}")
    return [_messages(_exchange(rng, kind)) for _ in range(count)]


def story_prompt(rng: random.Random, story: Story, frames: tuple[str, ...] = STORY_PROMPTS) -> str:
    """Ask for a story; now and then with an adjective, the hero's name or the thing that appears."""
    noun = with_article(story.subject)
    extra = rng.random()
    if extra < 0.08:
        noun = with_article(f"{rng.choice(('little', 'brave', 'old', 'happy', 'magic', 'red', 'big'))} {story.subject}")
    elif extra < 0.14 and story.subject in ANIMALS:
        noun = f"{noun} {rng.choice(('named', 'called'))} {story.hero}"
    elif extra < 0.2 and story.thing in story.text:
        noun = f"{noun} and {with_article(story.thing)}"
    elif extra < 0.26:
        noun = rng.choice((f"the {story.subject}", story.subject, f"{story.subject}s", f"my {story.subject}"))
    return rng.choice(frames).format(a=noun)


def fact_question(rng: random.Random, fact: Fact) -> str:
    """Ask for a fact in one of many wordings, with the noise of real typing, but never in a wording of the tests."""
    while True:
        question = _noise(rng, _plain_question(rng, fact))
        if bare(question) not in _held_out_questions():
            return question


def bare(text: str) -> str:
    """A text without capitals and marks, to compare wordings."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


@cache
def _held_out_questions() -> frozenset[str]:
    free = {bare(wording) for fact in read_facts() for wording in fact.held_out}
    names = [name for fact in read_facts() for name in fact.names]
    return frozenset(free | {bare(ask(frame, name)) for frame in HELD_OUT_FRAMES for name in names})


def _plain_question(rng: random.Random, fact: Fact) -> str:
    way = rng.random()
    if way < 0.45:
        question = ask(rng.choice(FRAMES), rng.choice(fact.names))
        return _padded(rng, question) if rng.random() < 0.35 else question
    if way < 0.52:
        return _from_answer(rng, fact.answer)
    return _reword(rng, rng.choice(fact.wordings))


def _padded(rng: random.Random, question: str) -> str:
    """Put a word into a question that says nothing, or the whole of it into a longer one."""
    if rng.random() < 0.4:
        return _wrapped(rng, question)
    said = question.split()
    said.insert(rng.randrange(1, len(said) + 1), rng.choice(_FILLERS))
    return " ".join(said)


def _wrapped(rng: random.Random, question: str) -> str:
    wrapped = rng.choice(_WRAPPERS)
    return wrapped.format(q=question if wrapped.startswith("{q}") else question[0].lower() + question[1:])


def _from_answer(rng: random.Random, answer: str) -> str:
    """Ask with a few words of the answer, so that its words lead back to it."""
    parts = re.sub(r"[.,;:]", "", answer).split()
    length = rng.randrange(4, 8)
    start = rng.randrange(max(1, len(parts) - length + 1))
    return rng.choice(_ANSWER_OPENINGS) + " ".join(parts[start : start + length])


def _row(rng: random.Random) -> list[Message]:
    turns = _exchange(rng, _kind(rng))
    length = rng.random()
    if length < 0.03:
        turns = _fill(rng, turns, characters=rng.randrange(800, 2700))
    elif length < 0.25:
        for _ in range(rng.choice((1, 1, 2, 3))):
            turns += _exchange(rng, _kind(rng))
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else ""
    return _messages(turns, system)


def _fill(rng: random.Random, turns: Turns, *, characters: int) -> Turns:
    while sum(len(said) + len(answer) for said, answer in turns) < characters:
        turns = turns + _exchange(rng, _kind(rng))
    return turns


def _kind(rng: random.Random) -> str:
    return rng.choices(list(KINDS), list(KINDS.values()))[0]


def _messages(turns: Turns, system: str = "") -> list[Message]:
    messages = [{"role": "system", "content": system}] if system else []
    for said, answer in turns:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
    return messages


def _exchange(rng: random.Random, kind: str) -> Turns:
    if kind == "story":
        return _story(rng)
    if kind == "fact":
        fact = rng.choice(read_facts())
        return [(fact_question(rng, fact), fact.answer)]
    if kind == "talk":
        said, answer = small_talk(rng)
        return [(_noise(rng, _reword(rng, said) if rng.random() < 0.3 else said), answer)]
    if kind == "unknown":
        said, answer = out_of_scope(rng)
        return [(_noise(rng, said), answer)]
    wish = rng.choice(STORY_PROMPTS).format(a=_unknown_subject(rng))
    return [(_noise(rng, wish), no_story(rng))]


def _unknown_subject(rng: random.Random) -> str:
    word = unknown_word(rng)
    adjective = rng.choice(("", "", "", "", "little ", "brave ", "old ", "happy "))
    return with_article(adjective + word) if rng.random() < 0.85 else rng.choice((word, f"the {word}", f"{word}s"))


def _story(rng: random.Random) -> Turns:
    story = write_story(rng, rng.choice(SUBJECTS))
    asked = rng.choice(_OPEN_PROMPTS) if rng.random() < 0.08 else story_prompt(rng, story)
    turns = [(_noise(rng, asked), story.text)]
    if rng.random() < 0.06:
        more = write_story(rng, rng.choice(SUBJECTS))
        turns.append((_noise(rng, rng.choice(_MORE_PROMPTS).format(a=with_article(more.subject))), more.text))
    return turns


def _reword(rng: random.Random, question: str) -> str:
    """Exchange a phrase for one that means the same, drop words, or wrap the question into a longer one."""
    chance = rng.random()
    if chance < 0.35:
        lowered = question.lower()
        groups = [group for group in _SAME_MEANING if any(_has(lowered, phrase) for phrase in group)]
        if groups:
            group = rng.choice(groups)
            found = next(phrase for phrase in group if _has(lowered, phrase))
            return re.sub(rf"\b{re.escape(found)}\b", rng.choice(group), lowered, count=1)
    elif chance < 0.48:
        kept = [word for word in question.split() if word.lower() not in _SMALL_WORDS or rng.random() < 0.4]
        return " ".join(kept) or question
    elif chance < 0.6 and question.count(" ") >= 4:
        kept = question.split()
        for _ in range(rng.choice((1, 1, 2))):
            kept.pop(rng.randrange(len(kept)))
        return " ".join(kept)
    elif chance < 0.75:
        return _wrapped(rng, question)
    return question


def _has(text: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase)}\b", text) is not None


def _noise(rng: random.Random, text: str) -> str:
    """What typing does to a sentence: lost capitals and marks, a swapped or missing letter."""
    if rng.random() < 0.3:
        text = text.lower()
    elif rng.random() < 0.02:
        text = text.upper()
    if rng.random() < 0.3:
        text = text.rstrip("?.!") or text
    elif rng.random() < 0.04:
        text += rng.choice(("!", "?", "??", " please"))
    return _typo(rng, text) if rng.random() < 0.08 and len(text) > 12 else text


def _typo(rng: random.Random, text: str) -> str:
    at = rng.randrange(1, len(text) - 2)
    if rng.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
