"""The little world that the bundled models know, and the grammar that tells stories about it.

Everything is derived from seeded generators, so the same seed gives the same text, byte for byte.
People have fixed facts (a home, a trade, a pet, a favourite food, a fear), which a model has to
remember; a story moves people and things about, which a model has to follow. Each story ends with
questions whose answers follow from it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

NAMES = [
    "Ada",
    "Bram",
    "Cora",
    "Dov",
    "Elin",
    "Falk",
    "Greta",
    "Hugo",
    "Ines",
    "Jory",
    "Kaia",
    "Levi",
    "Mira",
    "Nils",
    "Odile",
    "Pell",
    "Quinn",
    "Runa",
    "Sven",
    "Tilda",
    "Ulla",
    "Viggo",
    "Wren",
    "Yara",
    "Zeno",
    "Anouk",
    "Basil",
    "Clio",
    "Dario",
    "Esme",
    "Finn",
    "Gilda",
    "Hanno",
    "Iris",
    "Jasper",
    "Kira",
    "Lotte",
    "Milo",
    "Nora",
    "Otis",
]
PLACES = [
    "mill",
    "harbour",
    "orchard",
    "market",
    "chapel",
    "forge",
    "bridge",
    "lighthouse",
    "bakery",
    "library",
    "garden",
    "stable",
    "meadow",
    "quarry",
    "tower",
    "cellar",
    "school",
    "inn",
    "boathouse",
    "well",
]
TOWNS = [
    "Holm",
    "Varde",
    "Eskel",
    "Tarn",
    "Brill",
    "Osby",
    "Lund",
    "Keld",
    "Marrow",
    "Finsk",
    "Oster",
    "Pryde",
]
TRADES = [
    "baker",
    "smith",
    "sailor",
    "weaver",
    "miller",
    "teacher",
    "carpenter",
    "gardener",
    "fisher",
    "potter",
    "painter",
    "shepherd",
]
PETS = ["cat", "dog", "goat", "crow", "hen", "pony", "rabbit", "goose"]
PET_NAMES = [
    "Biscuit",
    "Soot",
    "Pepper",
    "Thistle",
    "Button",
    "Nutmeg",
    "Pebble",
    "Clover",
    "Smoke",
    "Acorn",
    "Bramble",
    "Ginger",
]
FOODS = [
    "soup",
    "bread",
    "plums",
    "cheese",
    "porridge",
    "pancakes",
    "apples",
    "stew",
    "honey",
    "berries",
    "pie",
    "fish",
]
FEARS = [
    "thunder",
    "spiders",
    "the dark",
    "deep water",
    "high ladders",
    "loud bells",
    "wolves",
    "ghosts",
]
THINGS = [
    "lantern",
    "rope",
    "key",
    "drum",
    "kite",
    "basket",
    "compass",
    "hammer",
    "mirror",
    "ribbon",
    "whistle",
    "map",
    "bell",
    "cup",
    "knife",
    "book",
    "lamp",
    "coat",
    "shell",
    "ring",
    "spoon",
    "hat",
    "candle",
    "flute",
]
LOOKS = [
    "red",
    "blue",
    "green",
    "old",
    "new",
    "small",
    "heavy",
    "silver",
    "wooden",
    "broken",
    "shiny",
    "yellow",
]
GOODS = [
    "apples",
    "eggs",
    "coins",
    "stones",
    "feathers",
    "nails",
    "candles",
    "loaves",
    "plums",
    "buttons",
]
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
TIMES = (
    "One morning",
    "One evening",
    "On a cold day",
    "After the storm",
    "Before sunrise",
    "On market day",
    "Last winter",
)
CAUSES = (
    ("it rained all night", "the river rose over its banks"),
    ("the wind was strong", "the kite flew high above the roofs"),
    ("the fire went out", "the room grew cold"),
    ("the gate was left open", "the goats ran into the garden"),
    ("the rope was worn", "the boat drifted away"),
    ("the oven was too hot", "the bread burned black"),
    ("the ice was thin", "nobody crossed the pond"),
    ("the lamp had no oil", "the tower stayed dark"),
    ("the bell rang early", "the children ran to school"),
    ("the road was muddy", "the cart got stuck"),
    ("the well was dry", "they carried water from the river"),
    ("the roof had a hole", "the books got wet"),
    ("the snow was deep", "the market stayed closed"),
    ("the sun was hot", "the butter melted"),
    ("the key was lost", "the door stayed shut"),
    ("the drum was loud", "the baby woke up"),
)
SAYINGS = (
    "the stars are only lamps",
    "a good rope is worth two boats",
    "nobody should sing before breakfast",
    "the sea keeps every secret",
    "bread tastes best when it is shared",
    "a short road is never dull",
    "the moon was late tonight",
    "every door has a second key",
    "the crow knows the way home",
    "rain is only borrowed water",
    "the old bridge is still the best one",
    "winter will come early this year",
)


@dataclass(frozen=True)
class Question:
    """A question, its answer and three wrong answers of the same kind."""

    kind: str
    text: str
    answer: str
    others: tuple[str, str, str]


@dataclass(frozen=True)
class Story:
    """A story's text and the questions that it answers."""

    text: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Person:
    """What is always true of somebody in every story."""

    name: str
    family: str
    town: str
    trade: str
    pet: str
    pet_name: str
    food: str
    fear: str


def _families(rng: random.Random) -> list[str]:
    """Made-up family names, one for each person and many more for strangers."""
    heads = [
        "Al",
        "Ber",
        "Cal",
        "Dren",
        "Es",
        "Fen",
        "Gor",
        "Hal",
        "Is",
        "Jor",
        "Kel",
        "Lan",
        "Mor",
        "Nev",
        "Or",
        "Pen",
        "Quil",
        "Ros",
        "Sel",
        "Tor",
        "Ul",
        "Ver",
        "Wil",
        "Yel",
        "Zan",
    ]
    tails = [
        "wick",
        "den",
        "mar",
        "by",
        "stead",
        "low",
        "ton",
        "rick",
        "dale",
        "gard",
        "holt",
        "mere",
        "son",
        "vik",
        "well",
    ]
    names = [h + t for h in heads for t in tails]
    rng.shuffle(names)
    return names


FAMILIES = _families(random.Random(1870))


def _people() -> dict[str, Person]:
    pick = random.Random(1871)
    choose = pick.choice
    return {
        name: Person(
            name,
            FAMILIES[i],
            choose(TOWNS),
            choose(TRADES),
            choose(PETS),
            choose(PET_NAMES),
            choose(FOODS),
            choose(FEARS),
        )
        for i, name in enumerate(NAMES)
    }


PEOPLE = _people()


def _question(rng: random.Random, kind: str, text: str, answer: str, pool: list[str]) -> Question:
    """The wrong answers come from the story first (the harder ones), then from the whole kind."""
    near = [x for x in dict.fromkeys(pool) if x != answer][:3]
    far = {
        "who": NAMES,
        "where": PLACES,
        "count": NUMBERS[:15],
        "what": THINGS,
        "said": SAYINGS,
        "town": TOWNS,
        "family": FAMILIES,
    }.get(kind, pool)
    rest = [x for x in far if x != answer and x not in near]
    others = near + rng.sample(rest, 3 - len(near))
    return Question(kind, text, answer, (others[0], others[1], others[2]))


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _thing(rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(THINGS)
    return thing, f"{rng.choice(LOOKS)} {thing}"


def possession(rng: random.Random) -> Story:
    """Somebody finds a thing and it passes from hand to hand."""
    names = rng.sample(NAMES, 4)
    thing, full = _thing(rng)
    place = rng.choice(PLACES)
    lines = [f"{rng.choice(TIMES)}, {names[0]} found {_a(full)} near the {place}."]
    holder = names[0]
    for other in names[1 : 1 + rng.randint(1, 3)]:
        how = rng.choice(
            (
                "{h} gave the {t} to {o}.",
                "{o} asked for the {t}, and {h} handed it over.",
                "{h} sold the {t} to {o} for a coin.",
                "{o} borrowed the {t} from {h}.",
            )
        )
        lines.append(how.format(h=holder, t=thing, o=other))
        if rng.random() < 0.4:
            lines.append(f"{other} thanked {holder} and went to the {rng.choice(PLACES)}.")
        holder = other
    asks = (
        _question(rng, "who", f"Who has the {thing} now?", holder, names),
        _question(rng, "who", f"Who found the {thing}?", names[0], names[1:]),
    )
    return Story(" ".join(lines), asks)


def places(rng: random.Random) -> Story:
    """People walk from place to place; the last one counts."""
    first, second = rng.sample(NAMES, 2)
    where: dict[str, str] = {}
    lines, seen = [], []
    for step in range(rng.randint(3, 5)):
        name = (first, second)[step % 2] if step < 2 else rng.choice((first, second))
        place = rng.choice([p for p in PLACES if p != where.get(name)])
        verb = rng.choice(("went to", "walked to", "hurried to", "came to", "rode to"))
        lines.append(
            f"{rng.choice(('Then ', 'Later ', '')) if step else ''}{name} {verb} the {place}."
        )
        where[name] = place
        seen.append(place)
    asks = tuple(
        _question(rng, "where", f"Where is {n}?", where[n], seen[::-1]) for n in (first, second)
    )
    return Story(f"{rng.choice(TIMES)} it was quiet. " + " ".join(lines), asks)


def counting(rng: random.Random) -> Story:
    """Things are given and taken; the sums are told as they happen."""
    one, two = rng.sample(NAMES, 2)
    goods = rng.choice(GOODS)
    have = rng.randint(2, 8)
    lines = [f"{one} had {NUMBERS[have]} {goods}."]
    for _ in range(rng.randint(1, 2)):
        if (have > 2 and rng.random() < 0.5) or have > 9:
            less = rng.randint(1, have - 1)
            have -= less
            lines.append(f"{one} gave {NUMBERS[less]} of them to {two}.")
        else:
            more = rng.randint(2, 5)
            have += more
            lines.append(f"{two} brought {NUMBERS[more]} more {goods}.")
        lines.append(f"Now {one} had {NUMBERS[have]} {goods}.")
    near = [NUMBERS[have + d] for d in (1, -1, 2) if have + d >= 0]
    return Story(
        " ".join(lines),
        (_question(rng, "count", f"How many {goods} does {one} have?", NUMBERS[have], near),),
    )


def sums(rng: random.Random) -> Story:
    """The same without the sum being told: it has to be worked out."""
    one, two = rng.sample(NAMES, 2)
    goods = rng.choice(GOODS)
    have, more = rng.randint(2, 7), rng.randint(2, 7)
    text = (
        f"{one} had {NUMBERS[have]} {goods}. {two} brought {NUMBERS[more]} more {goods} and gave "
        f"them all to {one}."
    )
    total = have + more
    near = [NUMBERS[total + d] for d in (1, -1, 2)]
    return Story(
        text, (_question(rng, "count", f"How many {goods} does {one} have?", NUMBERS[total], near),)
    )


def causes(rng: random.Random) -> Story:
    """One thing leads to another, always in the same way."""
    name = rng.choice(NAMES)
    (why, what), *wrong = rng.sample(CAUSES, 4)
    shape = rng.choice(("{w}, so {x}.", "because {w}, {x}.", "{x}, because {w}."))
    line = shape.format(w=why, x=what)
    tail = rng.choice(
        (
            "{n} saw it and laughed.",
            "{n} told everybody about it.",
            "{n} only shook a head and went home.",
        )
    )
    text = f"{rng.choice(TIMES)} {line} {tail.format(n=name)}"
    ask = Question("why", f"Why was it that {what}?", why, (wrong[0][0], wrong[1][0], wrong[2][0]))
    return Story(text, (ask, _question(rng, "who", "Who was there?", name, [])))


def sayings(rng: random.Random) -> Story:
    """Two or three people talk, each with a line of their own."""
    names = rng.sample(NAMES, 3)
    said = rng.sample(SAYINGS, 3)
    place = rng.choice(PLACES)
    lines = [f"{names[0]} and {names[1]} met {names[2]} at the {place}."]
    for name, words in zip(names, said, strict=True):
        lines.append(
            rng.choice(
                ('{n} said, "{w}."', '"I think that {w}," said {n}.', '{n} whispered, "{w}."')
            ).format(n=name, w=words)
        )
    at = rng.randrange(3)
    asks = (
        _question(rng, "who", f'Who said "{said[at]}"?', names[at], names),
        _question(rng, "said", f"What did {names[at]} say?", said[at], said),
    )
    return Story(" ".join(lines), asks)


def _fact(rng: random.Random, who: Person) -> tuple[str, Question]:
    """One remembered fact as a sentence and as a question."""
    rows = (
        (
            f"{who.name} comes from {who.town}.",
            "home",
            f"Where does {who.name} come from?",
            who.town,
            TOWNS,
        ),
        (
            f"{who.name} is {_a(who.trade)}.",
            "trade",
            f"What is the trade of {who.name}?",
            who.trade,
            TRADES,
        ),
        (
            f"{who.name} has {_a(who.pet)} called {who.pet_name}.",
            "pet",
            f"What animal does {who.name} have?",
            who.pet,
            PETS,
        ),
        (
            f"The {who.pet} of {who.name} is called {who.pet_name}.",
            "pet_name",
            f"What is the pet of {who.name} called?",
            who.pet_name,
            PET_NAMES,
        ),
        (
            f"{who.name} loves {who.food} above all.",
            "food",
            f"What does {who.name} love to eat?",
            who.food,
            FOODS,
        ),
        (
            f"{who.name} {who.family} is the full name.",
            "family",
            f"What is the family name of {who.name}?",
            who.family,
            FAMILIES,
        ),
        (
            f"{who.name} is afraid of {who.fear}.",
            "fear",
            f"What is {who.name} afraid of?",
            who.fear,
            FEARS,
        ),
    )
    sentence, kind, text, answer, pool = rng.choice(rows)
    others = rng.sample([x for x in pool if x != answer], 3)
    return sentence, Question(kind, text, answer, (others[0], others[1], others[2]))


def portrait(rng: random.Random) -> Story:
    """What everybody in the valley knows about somebody; the question asks for a fact that may not
    be in the text.
    """
    who = PEOPLE[rng.choice(NAMES)]
    told = list(dict.fromkeys(_fact(rng, who)[0] for _ in range(rng.randint(1, 3))))
    return Story(" ".join(told), (_fact(rng, who)[1], _fact(rng, who)[1]))


def register(rng: random.Random) -> Story:
    """A list of guests, strangers mostly, from which one has to be found again."""
    guests = [(n, rng.choice(FAMILIES), rng.choice(TOWNS)) for n in rng.sample(NAMES, 4)]
    lines = [f"Guests of the {rng.choice(PLACES)}:"] + [f"- {n} {f} from {t}" for n, f, t in guests]
    name, family, town = rng.choice(guests)
    from_town = _question(
        rng, "town", f"From where is the guest {name}?", town, [g[2] for g in guests] + TOWNS
    )
    named = _question(
        rng,
        "family",
        f"What is the family name of the guest {name}?",
        family,
        [g[1] for g in guests],
    )
    return Story("\n".join(lines), (from_town, named))


def recipe(rng: random.Random) -> Story:
    """A list with an order, for text that is not a tale."""
    who = PEOPLE[rng.choice(NAMES)]
    parts = rng.sample(
        ("flour", "salt", "honey", "milk", "butter", "eggs", "plums", "oats", "cheese", "herbs"), 4
    )
    lines = [f"How {who.name} makes {who.food}:"]
    lines += [
        f"{i}. Take {NUMBERS[rng.randint(2, 6)]} {rng.choice(('cups', 'spoons'))} of {p}."
        for i, p in enumerate(parts, 1)
    ]
    lines.append("5. Stir well and wait.")
    ask = _question(rng, "first", "What is taken first?", parts[0], parts)
    return Story(
        "\n".join(lines), (ask, _question(rng, "first", "What is taken last?", parts[3], parts))
    )


KINDS: tuple[Callable[[random.Random], Story], ...] = (
    possession,
    places,
    counting,
    sums,
    causes,
    sayings,
    portrait,
    portrait,
    register,
    recipe,
)


def story(rng: random.Random) -> Story:
    """One story of any kind."""
    return rng.choice(KINDS)(rng)


def plain(rng: random.Random) -> str:
    """A document as prose: a story or two, sometimes with a question and its answer."""
    told = [story(rng) for _ in range(rng.randint(1, 3))]
    parts = [t.text for t in told]
    for ask in told[-1].questions:
        if rng.random() < 0.7:
            parts.append(ask_text(ask) + " " + ask.answer + ".")
    return "\n".join(parts)


def ask_text(question: Question) -> str:
    """The question as the model sees it, up to where its answer starts."""
    return f"Question: {question.text}\nAnswer:"


def turns(rng: random.Random) -> list[tuple[str, str]]:
    """A short conversation: (role, content) pairs about one story."""
    told = story(rng)
    ask = rng.choice(told.questions)
    return [("user", f"{told.text}\n{ask.text}"), ("assistant", f"{ask.answer}.")]


def documents(seed: int) -> Iterator[str | list[tuple[str, str]]]:
    """Endless documents for a seed: prose, or one in six a conversation."""
    rng = random.Random(seed)
    while True:
        yield turns(rng) if rng.random() < 1 / 6 else plain(rng)
