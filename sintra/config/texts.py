"""Which texts a study is calibrated and judged on: files, or what the model writes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sintra.config.options import Config, ProbeConf, TextsConf
from sintra.core.errors import UserError

OWN = "own"  # in the place of a path: the model writes this text
WIKITEXT = "wikitext:"  # and a part of wikitext-2-raw, in the place of a path
STORIES = TextsConf(
    "stories",
    "models/texts/calibration.txt",
    "models/texts/search.txt",
    "models/texts/report.txt",
    "models/texts/far.txt",
)
SECOND = "models/texts/second.txt"  # prose and code by people
OWN_TEXTS = TextsConf(OWN, OWN, OWN, OWN, SECOND)
PUBLISHED = TextsConf("wikitext", f"{WIKITEXT}train", f"{WIKITEXT}valid", f"{WIKITEXT}test", SECOND)
BY_NAME = {texts.name: texts for texts in (STORIES, OWN_TEXTS, PUBLISHED)}
ROLES = ("calibration", "search", "report", "second")


@dataclass(frozen=True)
class Texts:
    """The texts of a study."""

    paths: Mapping[str, str]  # role -> a file, OWN, or WIKITEXT and a part
    temperature: float = 1.0  # of text that the model writes
    chat: float = 0.5  # share of conversations in it

    def own_params(self, role: str, probe: ProbeConf, seed: int) -> dict[str, object]:
        """Return what a text that the model writes depends on, beside the model."""
        return {
            "tokens": own_tokens(role, probe),
            "seed": seed * len(ROLES) + ROLES.index(role) + 1,
            "temperature": self.temperature,
            "chat": self.chat,
        }


def own_tokens(role: str, probe: ProbeConf) -> int:
    """Return how many tokens a text needs that the model writes."""
    if role != "calibration":
        return int(getattr(probe, f"{role}_tokens"))
    return max(probe.calibration_tokens, probe.refine_tokens or 0)


def texts_of(config: Config) -> Texts:
    """Return the texts that the options name. Raises UserError for a text that isn't named."""
    conf = config.texts
    name = config.model.texts if conf.name == "auto" else conf.name
    named = BY_NAME.get(name, OWN_TEXTS if conf.name == "auto" else TextsConf())
    paths = {role: getattr(conf, role) or getattr(named, role) for role in ROLES}
    if conf.second is None:
        del paths["second"]
    for role in ROLES[:-1]:
        if not paths[role]:
            raise UserError(f"texts.{role} isn't named: give a file, or texts.{role}=own")
    given = {role: path for role, path in paths.items() if path}
    return Texts(given, conf.temperature, conf.chat)


def judged_on_stories(config: Config, texts: Texts) -> bool:
    """Return whether a model is judged on the bundled models' text, and isn't one of these."""
    return texts.paths.get("report") == STORIES.report and config.model.texts != STORIES.name
