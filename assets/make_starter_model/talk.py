"""Small talk, honest answers to what the starter does not know, and the closed word lists that appear in them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stories import NAMES, SUBJECTS, with_article, words

CITIES = words(
    "Oslo Rome Paris Lima Cairo Delhi Quito Berlin Madrid Boston Dublin Vienna Athens Lisbon Prague Tokyo Seoul Milan "
    "Geneva Warsaw Nairobi Havana Zurich Turin Bergen"
)
ITEMS = words(
    "lamps chairs cups books hats keys maps rings shoes coats plates bottles candles pens clocks baskets tables bowls "
    "spoons bags"
)
HELD_OUT_NAMES = words("Greta Bruno Fiona Rafael Priya Tobias Selma Dmitri Hanna Oscar")
HELD_OUT_CITIES = words("Krakow Porto Helsinki Sydney Denver")
HELD_OUT_ITEMS = words("sofas pillows scissors mattresses hammers")

DO_NOT_KNOW = (
    "I do not know that. I am a very small model and only know about fine-tuning and stories.",
    "I am sorry, I do not know that. Ask me about fine-tuning, or for a story.",
    "That is beyond me. I only know a little about fine-tuning, and some stories.",
)
NO_STORY = (
    "I do not know any stories about that yet. Shall I tell one about {a} or about {b}?",
    "Sorry, that is not in my stories. Ask me for one about {a} or {b}.",
    "I have no story about that. I could tell you one about {a}.",
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are the starter, a tiny model.", "Answer briefly.", "Be friendly.",
    "You tell stories and answer questions.", "You help people who learn about fine-tuning.", "Answer in English.",
    "You are a friendly assistant. Keep your answers short.", "You are an expert for small language models.",
    "Be polite and honest.", "If you do not know something, say so.", "You are the assistant of Transformers Studio.",
    "Help the user.", "Answer the question in one sentence.", "You are a chatbot.", "Always tell the truth.",
)  # fmt: skip

_SYLLABLES = tuple(
    start + end
    for start in words("b c d f g h j k l m n p r s t v w z br dr gr tr st pl sh ch")
    for end in words("a e i o u an en in on ar er il ock ump ish ax")
)
_WORDS = words(
    "apple stone river leaf car house mountain school table window computer phone football teacher doctor king queen "
    "knight pirate witch ghost vampire zombie unicorn dinosaur shark eagle lizard panda zebra leopard hamster cactus "
    "banana potato cheese bread pizza cake sandwich soup tea coffee milk honey butter salt sugar chocolate "
    "airport city village ocean desert jungle volcano island moon sun star planet comet galaxy snow rain cloud storm "
    "rainbow winter summer autumn morning night dream love war peace money gold silver diamond treasure sword shield "
    "arrow castle palace church hospital library museum theatre cinema song dance painting poem letter newspaper "
    "magazine radio television fridge oven washing-machine vacuum hammer saw nail screw rope chain bucket shovel rake "
    "flower rose tulip grass bush mushroom worm ant fly mosquito spoonful pencil paper eraser ruler backpack jacket "
    "trousers shirt sock glove scarf boot sandal belt purse wallet ticket passport suitcase taxi bus tram plane "
    "helicopter submarine tractor truck scooter skateboard sled ski ball doll puzzle game dice card toy swing slide "
    "neighbour grandmother uncle cousin baby sailor soldier farmer butcher barber lawyer judge thief spy detective "
    "scientist astronaut president mayor monster giant dwarf fairy mermaid angel devil wizard pharaoh samurai cowboy "
    "photosynthesis gravity democracy inflation evolution electricity magnetism chemistry biology history geography "
    "philosophy religion music jazz opera tennis chess yoga swimming hockey cricket golf boxing"
)
HELD_OUT_WORDS = words(
    "scissors blanket-fort astronomer walrus peacock hyena broccoli pineapple waterfall glacier tornado bakery "
    "lighthouse trumpet harp tractor-driver elevator sunflower oak pyramid werewolf goblin cyclist dentist plumber "
    "physics algebra rugby karate hippo"
)
_COUNTRIES = words("France Spain Italy Germany Norway Peru Egypt India Japan China Brazil Canada Kenya Cuba Mars")
_ACTIVITIES = (
    "bake bread", "plant a tree", "fix a chair", "learn to swim", "clean a window", "write an email", "paint a wall",
    "build a shelf", "make tea", "catch a fish", "train a dog", "draw a map", "find a job", "sleep better",
    "save money", "tie a knot", "cook soup", "sing a song", "ride a horse", "mend a shirt", "grow tomatoes",
    "pack a bag", "light a fire", "read a clock", "climb a hill", "lose weight", "get rich", "buy a house",
    "repair my car", "install Windows", "learn French", "play the piano", "cut my hair", "make friends",
    "boil an egg", "fry an egg", "win the lottery", "travel to Rome", "sort a list in Java", "make a website",
)  # fmt: skip
_PEOPLE = (
    "Einstein", "Napoleon", "Mozart", "the president", "the king of Spain", "Shakespeare", "Cleopatra", "Picasso",
    "Newton", "the pope", "Beethoven", "Darwin", "Gandhi", "Marie Curie", "my neighbour", "the mayor", "Santa Claus",
)  # fmt: skip
_OUT_OF_SCOPE = (
    "What is the capital of {country}?", "How many people live in {country}?", "Where is {country}?",
    "Who rules {country}?", "What language do they speak in {country}?", "What is the weather in {city}?",
    "How is the weather in {city}?", "Will it rain tomorrow in {city}?", "How far is it from {city} to {city2}?",
    "When does the train to {city} leave?", "What can I see in {city}?", "Is {city} a nice place?",
    "Book me a hotel in {city}.", "How do I get to {city}?", "What time is it in {city}?", "Tell me about {city}.",
    "What is {n} plus {m}?", "What is {n} times {m}?", "How much is {n} minus {m}?", "What is {n} divided by {m}?",
    "Calculate {n} + {m}.", "{n} + {m} = ?", "Solve x + {n} = {m}.", "What is the square root of {n}?",
    "Count to {n}.", "Is {n} a prime number?", "How many days are in {n} weeks?", "What is {n} percent of {m}?",
    "Who was {person}?", "When was {person} born?", "How old is {person}?", "What did {person} do?",
    "Tell me about {person}.", "Where does {person} live?", "Is {person} still alive?", "Who is {person}?",
    "Who is {invented_name}?", "What did {invented_name} say?", "Where is {name} now?", "What does {name} want?",
    "How do I {activity}?", "Can you help me {activity}?", "What do I need to {activity}?", "I want to {activity}.",
    "Teach me how to {activity}.", "Is it hard to {activity}?", "Should I {activity} today?", "Can you {activity}?",
    "What does {a_word} cost?", "How much is {a_word}?", "Where can I buy {a_word}?", "What colour is {a_word}?",
    "How big is {a_word}?", "Do you have {a_word}?", "What is {word}?", "What is {a_word}?", "Explain {word}.",
    "Who invented {word}?", "How does {word} work?", "What does {word} mean?", "Tell me about {word}.",
    "Define {word}.", "What do you know about {word}?", "Why is {word} important?", "Is {word} good for me?",
    "What is {invented}?", "Explain {invented} to me.", "What does {invented} mean?", "How do I use {invented}?",
    "What is the difference between {word} and {word2}?", "What is better, {word} or {word2}?", "{word}?",
    "What do you think of {word}?", "Do you like {word}?", "Why do people love {word}?", "Can you explain {word}?",
    "Say something about {word}.", "What is {word} good for?", "Where does {word} come from?", "I love {word}.",
    "Write a poem about {word}.", "Write an email to {name}.", "Translate {word} into French.", "Draw {a_word}.",
    "Write a song about {word}.", "How do you spell {word}?", "What rhymes with {word}?", "Show me {a_word}.",
    "Repeat after me: {word} {word2}", "Say {word}.", "Write code that prints {word}.", "Give me {a_word}.",
)  # fmt: skip
_OUT_OF_SCOPE_FIXED = (
    "What time is it?", "What day is it today?", "Who won the game?", "What is on TV tonight?", "Solve my homework.",
    "What is the meaning of life?", "Is there a god?", "Who will win the election?", "What is the news?",
    "How are the stocks today?", "Should I buy shares?", "What is the price of gold?", "How much does a car cost?",
    "Am I ill?", "My head hurts, what should I do?", "Which medicine should I take?", "I feel sad.",
    "What should I cook tonight?", "Recommend a film.", "Recommend a book.", "Which song is number one?",
    "Call my mother.", "Set an alarm.", "Turn on the light.", "Play some music.", "Order a pizza.",
    "What is my name?", "How old am I?", "Where am I from?", "What did I eat today?", "Guess my age.",
    "Why is the sky blue?", "Why is grass green?", "How far away is the moon?", "How hot is the sun?",
    "How deep is the sea?", "What is the highest mountain?", "What is the longest river?", "Is the sun a star?",
    "Who wrote the Bible?", "When did the war end?", "Who discovered America?", "What happened in 1969?",
    "When was the first car built?", "What is 2 and 2?", "What is the speed of light?", "How long is a year?",
    "Write a Python program.", "Write a function that sorts numbers.", "How do I code in C?", "Fix my code.",
    "Is it going to rain?", "Is it warm outside?", "Who is the best football player?", "Write my essay.",
    "What is your opinion on politics?", "Are there aliens?", "Can pigs fly?", "How do birds fly?",
    "Why do cats purr?", "Why do dogs bark?", "What do bees eat?", "How long does a turtle live?",
    "Which animals live in Africa?", "What is the smallest country?", "Who built the pyramids?", "How old is Rome?",
    "What are clouds made of?", "Why is the sea salty?", "What do plants need?", "How many teeth does a shark have?",
    "Who sings this song?", "Who painted this picture?", "Which film won the prize?", "Is there life on Mars?",
    "How many hours are in a week?", "What is half of ninety?", "What is a triangle?", "What is the number pi?",
    "How do I open a bottle?", "How do I clean my shoes?", "How do I get a visa?", "How do I change my password?",
    "How do I repair a bike?", "How do I cook pasta?", "What is a good restaurant?", "Where can I park my car?",
    "What is the fastest animal?", "What is the biggest city?", "Who is the tallest man?", "What is the oldest tree?",
    "What is the best phone?", "Which laptop should I buy?", "When is Easter?", "When does the shop open?",
    "What are the rules of chess?", "Who won the world cup?", "Why do we sleep?", "Why is the moon round?",
    "How do ships float?", "How does a fridge work?", "How does the heart work?", "What is blood made of?",
    "I have a cold, what helps?", "My back hurts.", "Is coffee bad for me?", "How much sugar is in a cake?",
    "Write a letter to my boss.", "Write a poem.", "Write a song for my mother.", "Translate this into Spanish.",
    "What does this Latin word mean?", "Who was the first man on the moon?", "What happened in the war?",
    "Who is the president?", "What is the law on this?", "Can I get a refund?", "Reset my account.", "Buy me shoes.",
    "What is love?", "How do I find a girlfriend?", "What should I wear?", "What is for dinner?",
    "Summarize this text for me.", "Correct my spelling.", "Look it up on the internet.", "Search the web.",
    "Open a website.", "Send a message.", "Do my taxes.", "How do I make money?", "What is a good gift?",
)  # fmt: skip
HELD_OUT_OUT_OF_SCOPE = (
    "What is the capital of Portugal?", "How many inhabitants does Rome have?", "Will it snow next week?",
    "What is 17 plus 25?", "How much is 8 times 9?", "Who painted the Mona Lisa?", "When was Galileo born?",
    "How do I change a tyre?", "Can you recommend a restaurant?", "What does a new phone cost?",
    "Why do leaves fall in autumn?", "How tall is the Eiffel Tower?", "Who is the richest man in the world?",
    "What is the boiling point of water?", "How do vaccines work?", "Translate good morning into Italian.",
    "Write a poem about the sea.", "What is a quark?", "Explain the French Revolution.", "What is blockchain?",
    "How do I cook rice?", "What films are in the cinema?", "Which team won yesterday?", "What is the time now?",
    "How many legs does a spider have?", "What is the largest ocean?", "Should I invest in gold?",
    "I have a fever, what can I do?", "How do I write a letter to the bank?", "What is the tallest building?",
    "Who invented the telephone?", "What is a zorblax?", "Tell me about Vienna.", "Explain flimpish to me.",
    "How do planes stay in the air?", "What is the best car?", "Book a flight to Madrid.", "Where is my cat?",
    "What year is it?", "How many bones does a human have?",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of small talk: what people say, what is kept for the test, and what the starter answers."""

    name: str
    prompts: tuple[str, ...]
    held_out: tuple[str, ...]
    answers: tuple[str, ...]


@cache
def read_topics() -> tuple[Topic, ...]:
    """Read the small talk from `talk.txt`."""
    text = Path(__file__).with_name("talk.txt").read_text(encoding="utf-8")
    return tuple(_read_topic(block) for block in text.removeprefix("## ").split("\n## "))


def _read_topic(block: str) -> Topic:
    name, *lines = block.strip().splitlines()
    parts = {line[0]: tuple(part.strip() for part in line[2:].split(" | ")) for line in lines}
    return Topic(name, parts["?"], parts["!"], parts["="])


def invented_word(rng: random.Random) -> str:
    """Make up a word that means nothing."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((1, 2, 2, 3))))


def unknown_word(rng: random.Random) -> str:
    """Give a word no story is about: a real one, or an invented one."""
    word = rng.choice(_WORDS).replace("-", " ") if rng.random() < 0.6 else invented_word(rng)
    return "stone" if word in SUBJECTS else word


def small_talk(rng: random.Random) -> tuple[str, str]:
    """One exchange of small talk: what is said, and the answer."""
    if rng.random() < 0.2:
        return _about_the_user(rng)
    topic = rng.choice(read_topics())
    return rng.choice(topic.prompts), rng.choice(topic.answers)


def _about_the_user(rng: random.Random) -> tuple[str, str]:
    name, city, item, count = rng.choice(NAMES), rng.choice(CITIES), rng.choice(ITEMS), rng.randrange(2, 100)
    if rng.random() < 0.3:
        stranger = invented_word(rng).capitalize()
        said = rng.choice((f"My name is {stranger}.", f"Hi, I am {stranger}.", f"I'm {stranger}", f"{stranger} here"))
        return said, rng.choice(("Nice to meet you! How can I help you?", "Hello, and nice to meet you!"))
    return rng.choice((
        (f"Hi, I am {name}.", f"Hello {name}! How can I help you?"),
        (f"My name is {name}.", f"Nice to meet you, {name}!"),
        (f"Hello, {name} here.", f"Hi {name}! What would you like to do?"),
        (f"I live in {city}.", f"I have never been to {city}, but I would like to see it."),
        (f"I am from {city}.", f"Then greetings to {city}!"),
        (f"I like {item}.", f"What do you like about {item}?"),
        (f"I have {count} {item}.", f"{count} {item} are quite a lot!"),
        (f"I am {count} years old.", f"You are {count}, and I am only a few days old."),
        (f"My friend {name} lives in {city}.", f"Say hello to {name} in {city} from me."),
    ))  # fmt: skip


def out_of_scope(rng: random.Random) -> tuple[str, str]:
    """A question from outside the starter's small world, and the honest answer."""
    held_out = {prompt.lower() for prompt in HELD_OUT_OUT_OF_SCOPE}
    question = _question(rng)
    while question.lower() in held_out:
        question = _question(rng)
    return question, rng.choice(DO_NOT_KNOW)


def _question(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(_OUT_OF_SCOPE_FIXED)
    word, word2 = unknown_word(rng), unknown_word(rng)
    return rng.choice(_OUT_OF_SCOPE).format(
        country=rng.choice(_COUNTRIES), city=rng.choice(CITIES), city2=rng.choice(CITIES), n=rng.randrange(2, 200),
        m=rng.randrange(2, 100), person=rng.choice(_PEOPLE), name=rng.choice(NAMES),
        invented_name=invented_word(rng).capitalize(), activity=rng.choice(_ACTIVITIES), word=word, word2=word2,
        a_word=with_article(word), invented=invented_word(rng),
    )  # fmt: skip


def no_story(rng: random.Random) -> str:
    """The honest answer to a wish for a story about an unknown subject."""
    first, second = rng.sample(SUBJECTS, 2)
    return rng.choice(NO_STORY).format(a=with_article(first), b=with_article(second))


def is_do_not_know(answer: str) -> bool:
    """Whether an answer says that the starter does not know."""
    return answer.strip() in DO_NOT_KNOW or is_no_story(answer)


def is_no_story(answer: str) -> bool:
    """Whether an answer says that there is no story about the subject."""
    return answer.startswith(tuple(text.split("{")[0].split(".")[0] for text in NO_STORY))
