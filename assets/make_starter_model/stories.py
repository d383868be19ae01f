"""The stories: what they can be about, who appears in them, and the grammar that writes them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


ANIMALS = words(
    "fox cat dog bear owl rabbit mouse horse turtle frog duck wolf lion hen goat bee whale crab dragon hedgehog "
    "tiger monkey squirrel penguin elephant donkey sheep swan snail beaver otter parrot pig camel spider butterfly "
    "dolphin raven giraffe kangaroo"
)
OBJECTS = words(
    "lantern key boat kite clock map drum hat bell book ring mirror robot train balloon ladder violin compass wagon "
    "teapot bicycle umbrella guitar rocket candle coat crown cup flute spoon telescope basket broom blanket bridge "
    "piano camera pumpkin chair tree"
)
SUBJECTS = ANIMALS + OBJECTS
"""Every word the starter can tell a story about; the page offers them as examples."""

NAMES = words(
    "Mia Tom Lena Omar Ivy Max Nora Sam Zoe Finn Ada Leo Ruth Ben Kira Hugo Elsa Noah Tara Jack Lily Amir Rosa Paul "
    "Dana Igor Maya Otto Vera Carl Anna Luis Emma Theo Nina Karl Alma Yuri Jane Eric"
)
HEROES, HELPERS = NAMES[:22], NAMES[22:]
"""Apart, so that nobody is their own helper."""
ROLES = words("baker teacher fisher gardener miller painter sailor tailor cook farmer nurse smith")
THINGS = words("lamp stick rope cake letter basket scarf pear bottle pot pillow whistle shell feather shoe")
ADJECTIVES = words("small brave quiet kind clever curious old shy merry gentle proud tiny young lazy")
CHILD_ADJECTIVES = words("small brave quiet kind clever curious shy merry gentle proud")
HOMES = (
    "in a green valley", "by the sea", "at the edge of a forest", "in a little town", "on a high hill",
    "near a wide river", "beside a deep lake", "in a stone house", "in a village of ten houses", "under a tall oak",
)  # fmt: skip
PLACES = (
    "the old mill", "the dark wood", "the market", "the harbour", "the tall tower", "the wooden gate", "the cave",
    "the garden", "the blue mountain", "the old well", "the island", "the castle",
)  # fmt: skip
FEELINGS = ("happy", "glad", "proud", "calm", "full of joy", "thankful")
CLOSING_SHARE = 0.7
_GRAMMAR = Path(__file__).with_name("stories.txt")


@dataclass(frozen=True, slots=True)
class Plot:
    """One story line: a title, and for each sentence the alternatives to choose from."""

    kind: str
    title: str
    sentences: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Story:
    """A finished story with the cast it was written for."""

    text: str
    subject: str
    hero: str
    helper: str
    thing: str


def with_article(word: str) -> str:
    """Put `a` or `an` in front of a word."""
    return ("an " if word[0] in "aeiou" else "a ") + word


@cache
def read_grammar() -> tuple[dict[str, tuple[str, ...]], tuple[Plot, ...]]:
    """Read `stories.txt`: named lists of sentences, and the plots."""
    lists: dict[str, tuple[str, ...]] = {}
    plots = []
    for block in _GRAMMAR.read_text(encoding="utf-8").strip().split("\n\n"):
        head, *lines = block.splitlines()
        words = head.removeprefix("@ ").split(" ", 2)
        if words[0] == "plot":
            sentences = tuple(tuple(part.strip() for part in line.split(" | ")) for line in lines)
            plots.append(Plot(words[1], words[2], sentences))
        else:
            lists[" ".join(words)] = tuple(lines)
    return lists, tuple(plots)


def write_story(rng: random.Random, subject: str) -> Story:
    """Write one story about a subject.

    A model this small recognises words and hardly copies them, so nothing that must stay the same to the last sentence
    is drawn anew: the hero's name goes with the subject, and the helper, the place and the thing go with the plot.
    """
    lists, plots = read_grammar()
    kind = "animal" if subject in ANIMALS else "object"
    plot = rng.choice([plot for plot in plots if plot.kind == kind])
    cast = _cast(rng, subject, plots.index(plot))
    parts = [rng.choice(lists[f"{kind} opening"]), *(rng.choice(choices) for choices in plot.sentences)]
    if rng.random() < CLOSING_SHARE:
        parts.append(rng.choice(lists["closing"]))
    return Story(" ".join(parts).format(**cast), subject, cast["A"], cast["B"], cast["t"])


def _cast(rng: random.Random, subject: str, plot: int) -> dict[str, str]:
    others = [word for word in (ANIMALS if subject in ANIMALS else ROLES) if word != subject]
    things = [word for word in THINGS if word != subject]
    thing = things[plot % len(things)]
    adjective, home = rng.choice(ADJECTIVES), rng.choice(HOMES)
    return {
        "s": subject, "an_s": with_article(subject), "A": HEROES[SUBJECTS.index(subject) % len(HEROES)],
        "B": HELPERS[plot % len(HELPERS)], "o": others[3 * plot % len(others)],
        "t": thing, "an_t": with_article(thing), "p": PLACES[plot % len(PLACES)], "adj": adjective,
        "an_adj": with_article(adjective), "adj2": rng.choice(CHILD_ADJECTIVES), "home": home,
        "Home": home[0].upper() + home[1:], "feel": rng.choice(FEELINGS),
    }  # fmt: skip
