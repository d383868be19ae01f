"""The facts the starter knows, read from `facts.txt`, and the frames that ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: its names for use in frames, its answer, wordings to train on, and wordings kept for the test."""

    names: tuple[str, ...]
    answer: str
    wordings: tuple[str, ...]
    held_out: tuple[str, ...]


FRAMES = (
    "What is {x}?", "What's {x}?", "Explain {x}.", "Can you explain {x}?", "Please explain {x} to me.",
    "Tell me about {x}.", "What does {x} mean?", "I do not know what {x} is.", "Define {x}.", "{x}?",
    "Could you tell me what {x} is?", "What do you know about {x}?", "In short, what is {x}?", "{x}, please",
    "Help me understand {x}.", "Do you know what {x} is?", "Explain {x} in one sentence.", "What about {x}?",
    "I read about {x}. What is that?", "Quick question: what is {x}?", "What is meant by {x}?", "how about {x}",
    "I want to know more about {x}.", "Give me a short explanation of {x}.", "Describe {x}.", "And {x}?",
    "Say something about {x}.", "I have never heard of {x}.", "What can you say about {x}?", "what about {x} then",
    "I have a question about {x}.", "Tell me what {x} is.", "What should I know about {x}?", "explain {x} simply",
    "How would you explain {x} to a beginner?", "I don't understand {x}.", "Please tell me about {x}.", "{x} meaning",
    "Is there something I should know about {x}?", "Teach me about {x}.", "Let us talk about {x}.", "why {x}",
    "I am reading about {x}, can you help?", "Give me one sentence about {x}.", "Somebody mentioned {x}.",
    "Can you tell me something about {x}?", "Please define {x} for me.", "Would you explain what {x} is?",
    "what exactly is {x}?", "I keep hearing about {x}, what is it?", "Sorry, but what does {x} mean exactly?",
    "Could you describe {x} in a few words?", "My teacher asked me about {x}, what should I say?",
    "Everyone is talking about {x}.", "I heard of {x} today, what does that mean?", "Hearing {x} for the first time.",
    "They told me to learn about {x}.", "My boss wants to know what {x} is.", "{x}, what does it do?",
    "{x} for dummies", "Is {x} hard to understand?", "Where do I read about {x}?", "What would you say about {x}?",
    "In the docs it says {x}.", "I saw {x} in a config, what is it for?", "Remind me what {x} is.",
    "Could you go over {x} again?", "{x} in plain words", "Any idea what {x} means?",
    "My friend mentioned {x}, but I did not get it.", "What role does {x} play?", "Summarize {x} for me.",
    "I came across {x}.", "You mentioned {x}.", "not sure what {x} is", "so {x} is what exactly",
    "{x} - what is that?", "{x} explained", "{x}, in a nutshell?", "{x}!? What on earth is that?",
    "{x} ... no clue what that is", "{x} is a term I can't place.", "{x} is new to me, could you clarify?",
    "{x} keeps coming up and nobody ever defines it.", "{x} was on the slide, but the speaker skipped over it.",
    "{x} confuses me.", "{x}: definition", "{x} definition please", "{x}, for someone who is not technical?",
    "{x} came up in a meeting and I just nodded.", "{x} means what, actually?", "{x}: good for what?",
    "{x} - is that a kind of setting or something else?", "{x} sounds complicated, break it down for me",
    "{x} in this context refers to what?", "{x} ELI5", "{x} pls", "{x} overview", "{x} basics", "{x} 101",
    "{x} has me stumped.", "{x} makes no sense to me at all!", "'{x}' - what does this term stand for?",
    "'{x}' appears in the README, what does it refer to?",
    "'{x}' is written on the whiteboard and I missed the lecture.", "So, {x}... what is it?",
    "So what's the deal with {x}?", "ok and {x}", "OK, next: {x}.", "Next question, {x}.", "Now {x}, please.",
    "Also {x}?", "But what is {x}?", "but what does {x} actually do", "Hey, what's {x} again?",
    "hi, can u explain {x}", "Hello! Could you please clarify {x} for me?",
    "Good morning, I would like to learn what {x} is.", "Um, what is {x} supposed to be?", "Wait, what was {x} again?",
    "wait {x}??", "Huh, {x}? Never seen that before.", "Uh, I forgot what {x} is.", "meaning of {x}", "purpose of {x}",
    "intro to {x}", "info on {x}", "details on {x}?", "basics of {x}", "the idea behind {x}", "the point of {x}?",
    "whats {x}", "what does {x} do", "What does {x} do during training?", "What does the term {x} mean?",
    "What is the purpose of {x}?", "What is {x} used for?", "What is {x}, and why does it matter?",
    "What is {x} good for?", "What kind of thing is {x}?", "What sort of thing would {x} be?",
    "What do you mean when you say {x}?", "What would be a good definition of {x}?",
    "What am I supposed to understand by {x}?", "What in the world is {x}?", "WHAT IS {x} SUPPOSED TO MEAN",
    "Why do people use {x}?", "Why would anyone need {x}?", "Why does {x} matter?", "How does {x} work?",
    "How should I think about {x}?", "How do I picture {x}?", "How can {x} be explained simply?",
    "When would I hear about {x}?", "When people say {x}, what are they talking about?",
    "Who can tell me what {x} is?", "Which thing is called {x}?", "Can you give me a quick definition of {x}?",
    "Can we go back to {x}? I lost you there.", "Can somebody please explain {x}...",
    "Could you shed some light on {x}?", "Would you mind explaining {x}?",
    "Would you kindly explain the concept of {x}?", "Might I ask for the definition of {x}?",
    "Do you have a simple explanation for {x}?", "Do I need to know about {x}?", "Does {x} mean anything to you?",
    "Did you say {x}? What's that?", "Are you familiar with {x}?", "Is {x} something I should know?",
    "Is there an easy way to understand {x}?", "Ever heard of {x}?", "Heard of {x}?", "Got a minute to explain {x}?",
    "Mind telling me what {x} is?", "Care to explain {x}?", "I wonder what {x} is.", "I am curious about {x}.",
    "I'm stuck on {x}, what does it mean?", "i dont get {x}", "i have no idea what {x} is lol",
    "I'd like a definition of {x}, please.", "I need to understand {x} for my exam tomorrow.",
    "I need a one-line description of {x}.", "I never really understood {x}.", "I still don't get {x}!",
    "I always forget what {x} means.", "I can't figure out what {x} is.", "I'm new here and don't know about {x} yet.",
    "I found {x} in a tutorial but it was not explained there.", "I watched a video on {x} and did not follow a word.",
    "I was asked about {x} in an interview and went blank.",
    "I noticed {x} in the training log, what does that refer to?",
    "My colleague uses {x} all the time, and I'm too shy to ask.",
    "My brother says he works with {x}... what is that?", "Our professor brought up {x} without saying what it is.",
    "A paper I'm reading talks about {x}; what do they mean?", "A guy on a forum told me to look into {x}.",
    "Some blog post recommended {x}, but what is it?", "Someone at work said {x} and I was lost.",
    "The manual talks about {x} as if everyone knew it.",
    "The error message says something about {x}, please explain.", "The word is {x}.",
    "The next term on my list is {x}.", "There is this thing called {x}, right? What does it do?",
    "They keep saying {x} and I'm totally lost.", "We learned about {x} in class today but I was asleep.",
    "You said {x} earlier, could you explain that?", "You lost me at {x}.",
    "Yesterday I read the phrase '{x}' and could not make sense of it.", "Before we go on, what is {x}?",
    "For a beginner: what is {x}?", "In one line: {x}.", "In your own words, what is {x}?",
    "In everyday language, please: {x}.", "If I asked you about {x}, what would you answer?",
    "If you had to define {x} in ten words, how would you?", "Briefly, {x}.", "Enlighten me on {x}.",
    "give me the gist of {x}", "Walk me through {x}.", "Let me ask you about {x}.", "Let's discuss {x}.",
    "Just tell me what {x} is!", "Pardon my ignorance, but what is {x}?", "Stupid question maybe, but what is {x}?",
    "Maybe a silly one... what does {x} do?", "Honestly, no idea about {x}.",
    "No one would explain {x} to me, will you?", "Never understood {x}", "Tell me more about {x}.",
    "tell me what {x} does", "Trying to understand {x} - any help?", "Thanks! And what about {x}?",
    "Thank you, and now {x}?", "One more thing: what is {x}?", "Still confused about {x}.",
    "Looking for a plain explanation of {x}", "Question about {x}", "Regarding {x}: what is it?", "About {x}...",
    "As for {x}, what is it?",
)  # fmt: skip
"""Generic ways to ask, used in training with every fact."""

HELD_OUT_FRAMES = (
    "can you tell me what {x} actually is", "How would you define {x}?", "I don't really get {x}, can you help?",
    "What do people mean when they talk about {x}?", "what's {x} in simple terms?",
    "Please give me a short definition of {x}.", "I'm new to this. What exactly is {x}?",
    "A paper I'm reading mentions {x}, what is that?", "quick question, what is meant by {x}",
    "help me understand {x} please", "So what's the basic idea behind {x}?",
    "I've never really understood {x}, can you help?", "when people say {x}, what are they referring to?",
    "Give me a quick overview of {x}.", "i'm confused about {x}, can you clear it up?",
    "Is there an easy way to think about {x}?", "A paper I'm reading mentions {x}. What's that about?",
    "Could you walk me through the concept of {x}?", "what exactly is meant by {x}?",
    "I'm new to all this, so what's {x} about?", "one sentence answer please: what sort of thing is {x}",
    "My coworker brought up {x} today and I was lost.", "{x}... no clue what that is, any ideas?",
    "Can you explain {x} in simple terms?", "what do people mean by {x}?", "hey, quick question, what is {x}",
    "Explain {x} to me like I'm a beginner.", "I don't really understand {x}, can you help?",
    "Please give me a short explanation of {x}.", "not sure what {x} is, can you explain?",
)  # fmt: skip
"""Ways to ask that no fact is ever trained with."""


@cache
def read_facts() -> tuple[Fact, ...]:
    """Read all facts in the order of the file."""
    text = Path(__file__).with_name("facts.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("## ")]
    return tuple(_read_fact(lines[start : start + 4]) for start in range(0, len(lines), 4))


def _read_fact(lines: list[str]) -> Fact:
    marks = [line[:2] for line in lines]
    if marks != ["# ", "= ", "? ", "! "]:
        raise ValueError(f"A fact needs the lines #, =, ? and ! in this order, not {marks}: {lines[0]}")
    names, answer, wordings, held_out = (tuple(part.strip() for part in line[2:].split(" | ")) for line in lines)
    return Fact(names, answer[0], wordings, held_out)


def ask(frame: str, name: str) -> str:
    """Put a fact's name into a frame and begin with a capital letter."""
    question = frame.format(x=name)
    return question[0].upper() + question[1:]
