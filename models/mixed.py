"""Text of many kinds for calibration, beside the stories: letters, settings, markup, logs, sums,
entries, verse, other tongues.

A calibration text of one domain leaves directions of the layers' inputs unseen, and compensated
rounding moves its errors there (docs/benchmarks.md). No kind and no sentence stands in far.py,
whose domains are kept for judging.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

FIRST = (
    "Marta",
    "Owen",
    "Priya",
    "Lukas",
    "Chen",
    "Fatima",
    "Joao",
    "Ingrid",
    "Tomas",
    "Aiko",
    "Kwame",
    "Elena",
    "Yusuf",
)
LAST = (
    "Novak",
    "Okafor",
    "Lindqvist",
    "Moreau",
    "Tanaka",
    "Silva",
    "Hughes",
    "Petrov",
    "Garcia",
    "Kim",
    "Weber",
    "Rossi",
)
CITIES = (
    "Lisbon",
    "Nairobi",
    "Osaka",
    "Tallinn",
    "Quito",
    "Perth",
    "Chicago",
    "Leipzig",
    "Mumbai",
    "Bergen",
    "Toronto",
    "Cairo",
)
THINGS = (
    "bridge",
    "treaty",
    "engine",
    "harbour",
    "enzyme",
    "theorem",
    "comet",
    "orchestra",
    "glacier",
    "alphabet",
    "market",
    "virus",
    "satellite",
    "parliament",
    "volcano",
    "telescope",
    "currency",
    "railway",
)
QUALITIES = (
    "ancient",
    "narrow",
    "reliable",
    "obscure",
    "northern",
    "electric",
    "fragile",
    "public",
    "rapid",
    "temporary",
    "profitable",
    "circular",
    "dense",
    "voluntary",
    "coastal",
    "chemical",
)
ACTIONS = (
    "replaced",
    "described",
    "crossed",
    "financed",
    "discovered",
    "abandoned",
    "measured",
    "rebuilt",
    "translated",
    "exported",
    "regulated",
    "inspired",
)
KEYS = (
    "timeout",
    "retries",
    "verbose",
    "endpoint",
    "max_size",
    "user_id",
    "enabled",
    "color",
    "threshold",
    "region",
    "tags",
)
LEVELS = ("INFO", "WARN", "ERROR", "DEBUG", "TRACE")
TONGUES = {
    "de": (
        ("Der", "Die", "Das"),
        ("Zug", "Rechnung", "Fenster", "Regen", "Frage"),
        ("kommt", "bleibt", "wartet", "beginnt"),
        ("heute", "später", "im Winter", "ohne Grund", "am Fluss"),
    ),
    "fr": (
        ("Le", "La", "Un"),
        ("voisin", "maison", "musée", "réponse", "siècle"),
        ("arrive", "demeure", "change", "tombe"),
        ("demain", "à l'aube", "sans bruit", "près du port"),
    ),
    "es": (
        ("El", "La", "Una"),
        ("camino", "ventana", "lluvia", "pregunta", "niño"),
        ("llega", "espera", "sigue", "cae"),
        ("mañana", "en otoño", "sin prisa", "junto al mar"),
    ),
    "it": (
        ("Il", "La", "Una"),
        ("treno", "piazza", "luce", "lettera", "pane"),
        ("arriva", "resta", "cambia", "finisce"),
        ("domani", "in città", "senza fretta", "dopo cena"),
    ),
}
RHYMES = (
    ("light", "night", "sight", "bright"),
    ("stone", "alone", "bone", "unknown"),
    ("sea", "tree", "free", "memory"),
)


def person(rng: random.Random) -> str:
    """First and last name."""
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def thing(rng: random.Random) -> str:
    """An adjective and a noun."""
    return f"{rng.choice(QUALITIES)} {rng.choice(THINGS)}"


def letter(rng: random.Random) -> str:
    """A short business letter."""
    day = (
        f"{rng.randint(1, 28)} "
        f"{rng.choice(['January', 'April', 'June', 'September', 'November'])} "
        f"{rng.randint(1985, 2026)}"
    )
    return (
        f"{rng.choice(CITIES)}, {day}\n\nDear {rng.choice(['Ms', 'Mr', 'Dr'])} "
        f"{rng.choice(LAST)},\n\nThank you for your message about the {thing(rng)}. We have "
        f"{rng.choice(ACTIONS)} it {rng.choice(['twice', 'in part', 'as agreed'])}; please "
        f"{rng.choice(['confirm', 'reply', 'call us'])} before "
        f"{rng.choice(['Monday', 'Thursday', 'noon'])} at +{rng.randint(1, 99)} "
        f"{rng.randint(100, 999)} {rng.randint(1000, 9999)} or write to "
        f"{rng.choice(FIRST).lower()}@{rng.choice(CITIES).lower()}.example.\n\nYours sincerely,\n"
        f"{person(rng)}"
    )


def entry(rng: random.Random) -> str:
    """An encyclopedia's paragraph about nothing that exists."""
    year = rng.randint(1100, 2015)
    return (
        f"The {thing(rng)} of {rng.choice(CITIES)} ({year}-{year + rng.randint(2, 90)}) was "
        f"{rng.choice(ACTIONS)} by {person(rng)}. It is {rng.randint(2, 900)} "
        f"{rng.choice(['metres', 'kilograms', 'pages', 'years'])} "
        f"{rng.choice(['long', 'heavy', 'old'])}, and {rng.randint(2, 99)}% of its "
        f"{rng.choice(THINGS)}s were later "
        f'{rng.choice(ACTIONS)}; see also "{thing(rng)}" [{rng.randint(1, 60)}]. Although '
        f"{rng.choice(QUALITIES)}, "
        f"no {rng.choice(THINGS)} has been {rng.choice(ACTIONS)} since."
    )


def settings(rng: random.Random) -> str:
    """A JSON object."""
    values = (
        lambda: rng.randint(0, 5000),
        lambda: rng.random() < 0.5,
        lambda: thing(rng),
        lambda: round(rng.random(), 3),
        lambda: [rng.choice(CITIES) for _ in range(3)],
        lambda: None,
    )
    return json.dumps(
        {k: rng.choice(values)() for k in rng.sample(KEYS, 5)}, indent=rng.choice([None, 2])
    )


def markup(rng: random.Random) -> str:
    """A piece of HTML."""
    rows = "\n".join(
        f'  <li class="{rng.choice(KEYS)}"><a href="/{t.replace(" ", "-")}">{t.title()}</a></li>'
        for t in (thing(rng) for _ in range(3))
    )
    head = f'<h2 id="s{rng.randint(1, 99)}">{thing(rng).title()}</h2>'
    return f"{head}\n<ul>\n{rows}\n</ul>\n<p>&copy; {rng.randint(1999, 2026)}</p>"


def log(rng: random.Random) -> str:
    """A server's log."""
    clock = rng.randint(0, 80000)
    rows = []
    for _ in range(rng.randint(3, 6)):
        clock += rng.randint(1, 400)
        rows.append(
            f"[{clock // 3600:02}:{clock // 60 % 60:02}:{clock % 60:02}.{rng.randint(0, 999):03}] "
            f"{rng.choice(LEVELS)} worker-{rng.randint(1, 16)}: "
            f"{rng.choice(KEYS)}={rng.randint(0, 9999)} ({rng.choice(ACTIONS)} in "
            f"{rng.randint(1, 900)} ms)"
        )
    return "\n".join(rows)


def sums(rng: random.Random) -> str:
    """Arithmetic that is right."""
    rows = []
    for _ in range(rng.randint(4, 8)):
        a, b = rng.randint(2, 999), rng.randint(2, 99)
        rows.append(
            rng.choice(
                [
                    f"{a} + {b} = {a + b}",
                    f"{a} x {b} = {a * b}",
                    f"{a} - {b} = {a - b}",
                    f"{a} / {b} = {a / b:.2f}",
                ]
            )
        )
    return "\n".join(rows)


def verse(rng: random.Random) -> str:
    """Four lines that rhyme."""
    ends = rng.sample(rng.choice(RHYMES), 4)
    return "\n".join(
        f"The {thing(rng)} {rng.choice(['sleeps beside', 'forgets', 'returns to'])} the {end},"
        for end in ends
    )


def tongue(rng: random.Random) -> str:
    """Sentences of another language."""
    article, noun, verb, rest = rng.choice(list(TONGUES.values()))
    return " ".join(
        f"{rng.choice(article)} {rng.choice(noun)} {rng.choice(verb)} {rng.choice(rest)}."
        for _ in range(rng.randint(3, 7))
    )


KINDS = (letter, entry, entry, settings, markup, log, sums, verse, tongue)


def documents(seed: int) -> Iterator[str]:
    """Without end, the kinds in random order."""
    rng = random.Random(seed)
    while True:
        yield rng.choice(KINDS)(rng)
