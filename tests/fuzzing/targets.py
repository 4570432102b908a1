"""Everything of ours that reads what others wrote: a target is one line in TARGETS.

A target has seeds (sound inputs), words (what edits put in), and `run(data, folder)`: it does with
the input what Sintra would, in a folder of its own, and raises nothing but the errors named.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sintra.core.canonical import canonical
from sintra.core.errors import Infeasible, UserError
from sintra.core.text import printable_line
from sintra.store.remote.objects import Unreachable
from sintra.store.remote.shared_entries import RemoteDataError

from . import odd, seeds
from .mutate import drawn, mutated

ROOT = Path(__file__).resolve().parent.parent.parent
TOKENIZER = b'{"model": {"vocab": {"a": 0}}}'
BOS = ("<s>", "<|im_start|>", "")  # of the chat templates' models
TALKS = (("user",), ("system", "user"), ("user", "assistant", "user"))


@dataclass(frozen=True)
class Target:
    """slow: inputs that take more than about a millisecond each; bench/fuzz.py gives these a
    smaller count of their own.
    """

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]
    allowed: tuple[type, ...] = (UserError,)
    slow: bool = False
    odd: Callable[[random.Random], bytes] | None = None  # draws inputs that edits don't come by

    def inputs(self, rng: random.Random) -> Iterator[bytes]:
        """Yield the seeds, then without end what is drawn, the same for a seed of `rng`."""
        found = self.seeds()
        yield from found
        while True:
            base = self.odd(rng) if self.odd and rng.random() < 0.8 else rng.choice(found)
            as_it_is = self.odd and rng.random() < 0.6
            yield base if as_it_is else mutated(base, drawn(rng), self.words)


def _file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _lines(data: bytes) -> list[str]:
    """Arguments as a process gets them: bytes without NUL, as Python decodes them."""
    return [os.fsdecode(x) for x in data.replace(b"\0", b"").split(b"\n")]


def overrides(data: bytes, folder: Path) -> None:
    """A command line, one override a line, as far as Hydra isn't needed: keys, groups, models,
    profiles, sweeps.
    """
    from sintra.config.compose import checked, overrides_of
    from sintra.study.sweep import has_several_values, single_overrides

    raw = overrides_of(_lines(data))
    checked(ROOT, [o for o in raw if not has_several_values(ROOT, o)])
    for override in [o for o in raw if has_several_values(ROOT, o)][:2]:
        single_overrides(ROOT, override)


def composed(data: bytes, folder: Path) -> None:
    """A command line through Hydra to a study."""
    from sintra.config.compose import compose, overrides_of
    from sintra.config.study import study_of

    raw = overrides_of(_lines(data))
    study_of(compose(ROOT, raw, folder / "cache"), raw)


def recipes(data: bytes, folder: Path) -> None:
    """planner.replay's file, as YAML and as JSON."""
    from sintra.planning.planners.replay import read_replay

    for name in ("recipe.yaml", "result.json"):
        read_replay(_file(data, folder, name))


def gguf(data: bytes, folder: Path) -> None:
    """A GGUF's header; what passes is read by gguf's reader too."""
    from sintra.formats.gguf.description import read_description
    from sintra.formats.gguf.imported import read_types
    from sintra.formats.gguf.layout import read_layout

    path = _file(data, folder, "model.gguf")
    for read in (read_description, read_types):
        with contextlib.suppress(UserError):
            read(path)
    read_layout(path)


def replies(data: bytes, folder: Path) -> None:
    """A language model's words, to edits of the solver's problem."""
    from sintra.planning.llm.edits import last_switches, parse_reply
    from sintra.planning.llm.replies import read_reply

    scope, schema = _scope()
    found, _ = read_reply(data.decode(errors="surrogateescape"), schema)
    if found is not None:
        good, bad, stop = parse_reply(found, scope)
        canonical([[e.action for e in good], bad, stop, last_switches(good)]).encode()


def entries(data: bytes, folder: Path) -> None:
    """An AC entry: looked up, laid out, delivered, verified, collected."""
    from sintra.core.artifact import Artifact
    from sintra.results.outputs import link_models
    from sintra.store.maintenance import delete_unneeded, verify_blobs
    from sintra.store.store import Store

    key, store = "a" * 64, Store(folder / "cache")
    store.entry_path(key).parent.mkdir(parents=True, exist_ok=True)
    store.entry_path(key).write_bytes(data)
    _blob(store)
    found = store.lookup(key)
    if isinstance(found, Artifact):
        view, out = folder / "view", folder / "out"
        out.mkdir(exist_ok=True)
        store.lay_out(found, view)
        link_models(store, out, {"": found, "gptq": found})
        shutil.rmtree(view)
        shutil.rmtree(out)
    list(verify_blobs(store))
    delete_unneeded(store, set(), dry_run=True)


def pulled(data: bytes, folder: Path) -> None:
    """An entry of a shared store: believed only as far as it is checked, and laid out nowhere but
    in its folder.
    """
    from sintra.core.artifact import Artifact
    from sintra.core.canonical import sha256
    from sintra.store.remote.shared_entries import parse_shared_entry, shared_outcome

    found = shared_outcome(parse_shared_entry(data, sha256(canonical(seeds.ACTION)), None))
    if isinstance(found, Artifact):
        for file in found.files:
            assert (folder / file.path).resolve().is_relative_to(folder.resolve())


def listed(data: bytes, folder: Path) -> None:
    """What a shared folder holds, whatever its names: only keys of entries come out."""
    from sintra.store.remote.address import Address
    from sintra.store.remote.objects import ObjectStore

    place = folder / "shared" / "ac" / "ab"
    place.mkdir(parents=True, exist_ok=True)
    for name in data.split(b"\n")[:20]:
        plain = name.replace(b"/", b"_").replace(b"\0", b"_")[:200]
        if plain not in (b"", b".", b".."):
            Path(os.fsdecode(os.fsencode(place) + b"/" + plain)).touch()
    objects = ObjectStore(Address(f"file://{folder / 'shared'}", False))
    for key in list(objects.list_keys()):
        assert len(key) == 64
        assert set(key) <= set("0123456789abcdef")
    shutil.rmtree(folder / "shared")


def profiles(data: bytes, folder: Path) -> None:
    """hardware=FILE, as far as Hydra isn't needed."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from sintra.config.compose import _write_profile
    from sintra.config.options import HardwareConf

    path = _file(data, folder, "mine.yaml")
    _write_profile(folder, path)
    try:  # what Hydra does with it
        made = OmegaConf.load(next((folder / "hardware").glob("*.yaml")))
        OmegaConf.to_container(
            OmegaConf.merge(OmegaConf.structured(HardwareConf), made), resolve=True
        )
    except (OmegaConfBaseException, OverflowError) as error:
        raise UserError(str(error).splitlines()[0]) from None


def composed_profiles(data: bytes, folder: Path) -> None:
    """hardware=FILE through Hydra to a study: a line, or a sound device."""
    from sintra.config.checks import Origins, check_values
    from sintra.config.compose import compose
    from sintra.config.study import study_of

    raw = [f"hardware={_file(data, folder, 'mine.yaml')}", "model=fable_mini"]
    config = compose(ROOT, raw, folder / "cache")
    device = study_of(config, raw).hardware
    try:
        check_values(asdict(config), Origins(ROOT, (), {}))
    except UserError as error:
        raise AssertionError(f"unsound: {error}") from None
    assert "/" not in device.name
    assert device.title.isprintable()
    assert "${" not in device.title


def tasks(data: bytes, folder: Path) -> None:
    """A task's YAML and, by the same bytes, its data."""
    from sintra.config.tasks.files import check_data, read_task, task_files

    path = _file(data, folder, "mine.yaml")
    _file(data, folder, "rows.jsonl")
    read_task(path)
    task_files(path)
    check_data(path)


def safetensors(data: bytes, folder: Path) -> None:
    """The header of a checkpoint's file."""
    from sintra.formats.checkpoint.packed import read_tensors

    _file(data, folder, "model.safetensors")
    read_tensors(folder)


def folders(data: bytes, folder: Path) -> None:
    """A model's configuration and index."""
    from sintra.formats.checkpoint.folder import check_folder

    _file(seeds.safetensors()[0], folder, "model.safetensors")
    _file(TOKENIZER, folder, "tokenizer.json")
    for name in ("config.json", "tokenizer_config.json", "model.safetensors.index.json"):
        _file(data, folder, name)
    check_folder(folder, code=True)


def rounds(data: bytes, folder: Path) -> None:
    """A recorded round."""
    from sintra.study.round_files import read_round

    read_round(_file(data, folder, "round-01.json"))


def others_rounds(data: bytes, folder: Path) -> None:
    """A round that somebody else has planned: refused, or with names that can be written down."""
    from sintra.core.recipe import variant_slug
    from sintra.study.round_checks import check_round

    try:
        planned = check_round(json.loads(data), 1)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return
    for proposal in planned.proposals:
        assert "/" not in variant_slug(proposal.recipe)
        assert proposal.why.isprintable()


def locks(data: bytes, folder: Path) -> None:
    """The lock of an environment, which becomes arguments of pip."""
    from sintra.formats.runtime.environments import checked_lock

    try:
        lock = json.loads(data)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(UserError):
        for name, version in checked_lock("gptq", lock).items():
            assert not name.startswith("-")
            assert not set(f"{name}{version}") & set(" @;/\\=<>~,\n")


def requests(data: bytes, folder: Path) -> None:
    """A request to the dashboard: an address and a header a line. Nothing passes without the token,
    nor from or for another host.
    """
    from sintra.results.dashboard.access import AccessGuard

    address, *lines = data.split(b"\n")
    path, _, query = address.partition(b"?")
    headers = [(k.lower(), v.strip()) for k, _, v in (line.partition(b":") for line in lines)]
    answered: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answered.append("let in")

    async def send(message: Any) -> None:
        answered.append(message)

    for kind in ("http", "websocket"):
        scope = {
            "type": kind,
            "path": path.decode(errors="surrogateescape"),
            "query_string": query,
            "headers": headers,
        }
        answered.clear()
        with contextlib.suppress(StopIteration):
            AccessGuard(app, "a-long-word", True)(scope, None, send).send(None)
        assert answered
        if answered[0] == "let in":
            assert b"a-long-word" in data
            assert b"evil" not in dict(headers)[b"host"]
            origin = dict(headers).get(b"origin", b"http://" + dict(headers)[b"host"])
            assert origin.partition(b"://")[2] == dict(headers)[b"host"]
        elif answered[0].get("status") == 303:
            location = dict(answered[0]["headers"])[b"location"]
            assert re.fullmatch(rb"/|/[!-.0-\[\]-~][!-~]*", location)


def answers(data: bytes, folder: Path) -> None:
    """Lines of a board's, to what is shown of them and to the answer that is taken."""
    from sintra.hardware.boards.answers import is_answer, progress_text, read_row

    for line in data.decode(errors="replace").splitlines():
        row = read_row(line)
        assert printable_line(progress_text(row)) == progress_text(row)
        if "end" in row:
            is_answer("machine", row["end"])
            is_answer("speed", row["end"])


def templates(data: bytes, folder: Path) -> None:
    """A task's template and, in the lines below it, its rows."""
    from sintra.config.tasks.files import check_data

    template, _, rows = data.partition(b"\n")
    task = {"kind": "answer", "data": "rows.jsonl", "answer": "n"}
    task["prompt"] = template.decode(errors="replace")
    _file(rows, folder, "rows.jsonl")
    check_data(_file(json.dumps(task).encode(), folder, "mine.yaml"))


def planned(data: bytes, folder: Path) -> None:
    """A model's folder with this config.json as far as a plan reads it: pin, facts of
    `check-model`, expected sizes, `estimate`.
    """
    from sintra.formats.checkpoint.facts import folder_facts
    from sintra.formats.checkpoint.folder import check_folder
    from sintra.hardware.estimate.architecture import read_architecture, shape_of_preset
    from sintra.planning.bounds import folder_shape
    from sintra.study.pinning import Digests, pin_folder

    config = _file(data, folder, "config.json")
    _file(seeds.safetensors()[0], folder, "model.safetensors")
    _file(TOKENIZER, folder, "tokenizer.json")
    pin_folder(folder, Digests(folder / "digests"), convert="f16")
    for text in vars(folder_facts(folder, check_folder(folder))).values():
        assert not isinstance(text, str) or text.isprintable()
    assert folder_shape(folder, 4.5, 1).weight_bytes >= 0
    with contextlib.suppress(UserError):  # an architecture without estimates
        assert shape_of_preset(read_architecture(config), "Q4_K_M").weight_bytes > 0


def chats(data: bytes, folder: Path) -> None:
    """A chat template: no plain turns, in a line, or conversations that are the template's own."""
    from sintra.formats.chat.turns import read_template
    from sintra.formats.gguf.chat_template import ChatFormat, ChatTemplate

    template = ChatTemplate(data.decode(errors="replace"), BOS[len(data) % len(BOS)], "</s>")
    adds_bos = len(data) % 2 == 0
    reading = read_template(template, adds_bos)
    if reading.split.turns is None:
        assert 0 < len(reading.reason) < 300
        assert printable_line(reading.reason) == reading.reason
        raise UserError(reading.reason)
    chat = ChatFormat(*reading.split, (), 512, reading.lead)
    for roles in TALKS:
        messages = [{"role": r, "content": f"word {i}"} for i, r in enumerate(roles)]
        whole = template.render(messages, opening=True)
        wanted = whole.removeprefix(template.bos) if adds_bos else whole
        assert chat.text(messages) == wanted or "strftime" in template.text, roles


@cache
def _scope() -> tuple[Any, dict[str, Any]]:
    from sintra.formats.gguf.sizes import Matrix
    from sintra.planning.llm.edits import Scope, schema

    kinds = ("attn_q", "ffn_down")
    made = [
        Matrix(f"blk.{block}.{kind}.weight", 256, 256, kind, block)
        for block in range(4)
        for kind in kinds
    ]
    scope = Scope(tuple(made), ("Q2_K", "Q4_K", "Q8_0"), 4)
    return scope, schema(scope)


def _blob(store: Any) -> None:
    data = b"hello"
    path = store.blob_path("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


TARGETS: dict[str, Target] = {
    "config overrides": Target(overrides, seeds.overrides, seeds.HYDRA),
    "overrides to a study": Target(composed, seeds.overrides, seeds.HYDRA, slow=True),
    "recipe YAML": Target(recipes, seeds.recipes, seeds.YAML, slow=True),
    "GGUF header": Target(gguf, seeds.gguf, seeds.GGUF, (Infeasible, ValueError, KeyError)),
    "LLM replies": Target(replies, seeds.replies, seeds.JSON),
    "AC entries": Target(
        entries, seeds.entries, (*seeds.JSON, b"model/../../x", b"model/", b"a" * 64, b'"size": -1')
    ),
    "remote entries": Target(
        pulled,
        seeds.pulled,
        (*seeds.JSON, b"model/../../x", b"a" * 64, b'"hmac": ""'),
        (RemoteDataError,),
    ),
    "remote listings": Target(
        listed, seeds.listed, (b"../x", b"\\", b".json", b"a" * 64), (Unreachable,), slow=True
    ),
    "hardware profiles": Target(profiles, seeds.profiles, seeds.YAML, slow=True),
    "profiles to a study": Target(
        composed_profiles, seeds.profiles, seeds.YAML, slow=True, odd=odd.odd_profile
    ),
    "model plans": Target(planned, seeds.configs, seeds.JSON, slow=True, odd=odd.odd_config),
    "chat templates": Target(chats, seeds.chats, seeds.JINJA, slow=True),
    "tasks YAML": Target(
        tasks,
        seeds.tasks,
        (*seeds.YAML, b"{{", b"}}", b"{%", b"kind: ", b"task: ", b"data: "),
        slow=True,
    ),
    "safetensors header": Target(
        safetensors, seeds.safetensors, (*seeds.JSON, b'"data_offsets":', b'"shape":', b"\0" * 8)
    ),
    "model folder": Target(
        folders, seeds.folders, (*seeds.JSON, b"evil/x--own.Config", b'"auto_map"', b'"weight_map"')
    ),
    "recorded rounds": Target(rounds, seeds.rounds, seeds.JSON),
    "rounds of others": Target(others_rounds, seeds.rounds, seeds.JSON),
    "locks": Target(locks, seeds.locks, seeds.JSON),
    "Host and Origin": Target(requests, seeds.requests, seeds.HEADERS, ()),
    "board answers": Target(
        answers,
        seeds.answers,
        (*seeds.JSON, b'"end": ', b'"say": ', b'"rates": [', b"\x1b[31m"),
        (),
        slow=True,
    ),
    "task templates": Target(
        templates,
        seeds.templates,
        (*seeds.JSON, b"{{", b"}}", b"{%", b"%}", b"().__class__", b"range(9**9)", b"| upper"),
        slow=True,
    ),
}
