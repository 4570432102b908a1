"""Chat templates that nobody meant: mutated ones are read as those of models are.

    python bench/fuzz_templates.py [--inputs 2000] [--seed 0]

Counts what may not be: an error that gets out, a reason of more than a line, a conversation put
together from the parts that isn't what the template makes of it. Templates that don't end are
killed and counted as slow; they are no fault. Last line: `inputs=... turns=... slow=... faults=0`;
exit code 1 where there are faults.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fuzzing.mutate import drawn, mutated  # noqa: E402

from sintra.formats.chat.turns import TemplateSource, read_template  # noqa: E402
from sintra.formats.gguf.chat_template import ChatFormat, ChatTemplate  # noqa: E402

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SEEDS = (
    CHATML,
    "{{ bos_token }}" + CHATML,
    "{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}" + CHATML,
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{{ eos_token }}{% elif m.content %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{% break %}{% endif %}{% endfor %}",
    "{% macro turn(m) %}{{ m.role | upper }}: {{ m['content'] | trim }}\n{% endmacro %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{{ turn(m) }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
)
WORDS = (
    *(b"{{", b"}}", b"{%", b"%}", b"{#", b"#}", b"-%}", b"{%-", b"messages", b"content"),
    *(b"loop.first", b"range(99999)", b"{% for i in range(99999) %}", b"{% endfor %}"),
    *(b"{% if true %}", b"{% endif %}", b"| tojson", b"| safe", b"bos_token", b"eos_token"),
    *(b"'a' * 99999999", b".__class__", b"{% break %}", b"{% continue %}", b"{% generation %}"),
    *(b"{% endgeneration %}", b"strftime_now('%c')", b"{% include 'x' %}", b"{{ 1 / 0 }}"),
    *(b"{% import 'x' as y %}", b"{% extends 'x' %}", b"\x1b[2J", b"\xe2\x80\xa8", b"\xff"),
)
BOS = ("<s>", "<|im_start|>", "")
TALKS = (("user",), ("system", "user"), ("user", "assistant", "user"))


def templates(count: int, seed: int) -> Iterator[str]:
    """Yield the seeds, then mutated ones, the same for a seed."""
    rng = random.Random(seed)
    yield from SEEDS
    for _ in range(count - len(SEEDS)):
        data = mutated(rng.choice(SEEDS).encode(), drawn(rng), WORDS)
        yield data.decode(errors="replace")


def fault(text: str, bos: str, adds_bos: bool) -> tuple[str, str]:
    """Return what became of a template (turns, none, slow), and what is wrong with that; "" for
    nothing.
    """
    reading = read_template(TemplateSource(text, bos, "</s>"), adds_bos)
    if reading.split.turns is None:
        sound = reading.reason and reading.reason.isprintable() and len(reading.reason) < 300
        kind = "slow" if "takes more than" in reading.reason else "none"
        return kind, "" if sound else f"no reason in a line: {reading.reason!r}"
    chat = ChatFormat(*reading.split, (), 512, reading.lead)
    for roles in TALKS:
        messages = [{"role": r, "content": f"word {i}"} for i, r in enumerate(roles)]
        whole = ChatTemplate(text, bos, "</s>").render(messages, opening=True)
        wanted = whole.removeprefix(bos) if adds_bos else whole
        if chat.text(messages) != wanted and "strftime" not in text:
            return "turns", f"{'+'.join(roles)}: {chat.text(messages)!r} instead of {wanted!r}"
    return "turns", ""


def main() -> int:
    """Read all templates; print the first faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = dict.fromkeys(("turns", "none", "slow"), 0)
    faults: list[str] = []
    for number, text in enumerate(templates(options.inputs, options.seed)):
        try:
            kind, wrong = fault(text, BOS[number % len(BOS)], number % 2 == 0)
            counts[kind] += 1
        except Exception:
            wrong = traceback.format_exc()
        if wrong:
            faults.append(wrong)
            if len(faults) <= 5:
                print(f"{wrong}\n  {text!r}", flush=True)
    print(
        f"inputs={options.inputs} turns={counts['turns']} slow={counts['slow']} "
        f"faults={len(faults)}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
