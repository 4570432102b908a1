"""A text far from the stories: recipes, ledgers, weather logs, timetables and small programs, all
from seeded generators.

It is the second domain that compressed variants are judged on: what calibration on stories spoiled
shows here. No document shares a sentence with the stories' grammar.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

STUFF = [
    "flour",
    "sugar",
    "butter",
    "salt",
    "rye",
    "oats",
    "lentils",
    "barley",
    "leeks",
    "thyme",
    "vinegar",
    "mustard",
    "cream",
    "beans",
    "squash",
    "walnuts",
]
VERBS = ["stir", "fold", "simmer", "whisk", "strain", "knead", "roast", "chill", "drain", "reduce"]
SKIES = [
    "clear",
    "overcast",
    "drizzle",
    "sleet",
    "fog",
    "thunder",
    "haze",
    "gusts",
    "hail",
    "sunshine",
]
STATIONS = [
    "Norbeck",
    "Alvaston",
    "Telmire",
    "Quarrow",
    "Sundal",
    "Pinehurst",
    "Ostrava",
    "Kelmscott",
    "Varga",
    "Ludlow",
]
GOODS = [
    "copper wire",
    "steel bolts",
    "printer paper",
    "pine boards",
    "glass jars",
    "rubber hose",
    "cement",
    "floor tiles",
    "solder",
    "paint",
]
NOUNS = [
    "total",
    "count",
    "index",
    "buffer",
    "offset",
    "value",
    "limit",
    "result",
    "width",
    "cursor",
]
UNITS = ("g", "ml", "tsp", "cups")


def recipe(rng: random.Random) -> str:
    """A list of ingredients and numbered steps."""
    parts = rng.sample(STUFF, 5)
    lines = [
        f"{rng.choice(parts).title()} and {rng.choice(STUFF)} bake, serves {rng.randint(2, 12)}",
        "Ingredients:",
    ]
    lines += [f"- {rng.randint(1, 40) * 5} {rng.choice(UNITS)} {p}" for p in parts]
    for number in range(1, rng.randint(4, 7)):
        a, b = rng.sample(parts, 2)
        verb, other = rng.sample(VERBS, 2)
        minutes, heat = rng.randint(2, 90), rng.randint(6, 24) * 10
        lines.append(
            f"{number}. {verb.title()} the {a} with the {b} for {minutes} minutes at {heat} "
            f"degrees, then {other} until thick."
        )
    return "\n".join(lines)


def weather(rng: random.Random) -> str:
    """Readings of a station, one line for every three hours."""
    lines = [
        (
            f"Station {rng.choice(STATIONS)}, "
            f"{rng.randint(1, 28):02}.{rng.randint(1, 12):02}.{rng.randint(1950, 2020)}"
        )
    ]
    heat = rng.uniform(-10, 25)
    for hour in range(0, 24, 3):
        heat += rng.uniform(-3, 3)
        lines.append(
            f"{hour:02}:00  {heat:+.1f} C  {rng.randint(960, 1040)} hPa  wind "
            f"{rng.randint(0, 80)} km/h  {rng.choice(SKIES)}"
        )
    lines.append(
        f"Outlook: {rng.choice(SKIES)} turning to {rng.choice(SKIES)}; precipitation "
        f"{rng.randint(0, 40)} mm expected."
    )
    return "\n".join(lines)


def ledger(rng: random.Random) -> str:
    """An invoice whose sums are right."""
    lines, total = (
        [f"INVOICE No. {rng.randint(1000, 99999)}", "quantity | item | unit price | amount"],
        0,
    )
    for item in rng.sample(GOODS, rng.randint(3, 6)):
        count, price = rng.randint(1, 60), rng.randint(20, 9000)
        total += count * price
        lines.append(f"{count} | {item} | {price / 100:.2f} | {count * price / 100:.2f}")
    lines.append(
        f"Subtotal {total / 100:.2f}, tax 19 percent {total * 19 // 100 / 100:.2f}, payable "
        f"within {rng.choice([14, 30])} days."
    )
    return "\n".join(lines)


def timetable(rng: random.Random) -> str:
    """Departures and remarks."""
    lines = [f"Line {rng.randint(1, 80)}: {' - '.join(rng.sample(STATIONS, 4))}"]
    minute = rng.randint(300, 500)
    for _ in range(rng.randint(4, 8)):
        minute += rng.randint(7, 55)
        lines.append(
            f"dep {minute // 60:02}:{minute % 60:02}  platform {rng.randint(1, 9)}  calls at "
            f"{rng.choice(STATIONS)}, "
            f"{rng.choice(['weekdays only', 'daily', 'not on holidays', 'reservation required'])}"
        )
    return "\n".join(lines)


def program(rng: random.Random) -> str:
    """A small function in an invented but familiar notation."""
    a, b, c = rng.sample(NOUNS, 3)
    low, high = rng.randint(0, 9), rng.randint(10, 4096)
    step = rng.choice(["+= 1", "<<= 1", "*= 3", "-= offset", "^= mask"])
    return "\n".join(
        (
            f"def {rng.choice(VERBS)}_{a}({b}, {c}={low}):",
            f"    # returns the {a} of a {b}, or None when {c} exceeds {high}",
            f"    {a} = {rng.randint(0, 255)}",
            f"    while {c} < {high} and {b}[{c}] != {rng.randint(0, 99)}:",
            f"        {a} {step}",
            f"        {c} = ({c} * {rng.randint(2, 31)} + {rng.randint(1, 97)}) % "
            f"{rng.choice([256, 1021, 65536])}",
            f"        if {a} > len({b}) or not {b}:",
            "            return None",
            f"    return {{'{a}': {a}, '{c}': {c}}}",
        )
    )


KINDS = (recipe, weather, ledger, timetable, program)


def documents(seed: int) -> Iterator[str]:
    """Without end, the kinds in random order."""
    rng = random.Random(seed)
    while True:
        yield rng.choice(KINDS)(rng)
