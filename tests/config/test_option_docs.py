"""Every option has one row of its own: complete, true and readable."""

from dataclasses import is_dataclass, replace

import pytest
import yaml
from conftest import ROOT

from sintra.cli.commands.options import format_option, show_options
from sintra.config import compose, option_docs
from sintra.config.options import CompressConf, Config, DeviceConf, ExecutorConf, HardwareConf
from sintra.config.ranges import range_of
from sintra.config.study import identity_of, study_of
from sintra.core.errors import UserError


@pytest.fixture(scope="module")
def docs():
    return option_docs.option_docs(ROOT)


def keyed(docs):
    """Options with a value of their own, without presets and the limits of stages."""
    return [d for d in docs if d.type != "preset" and d.name != option_docs.STAGE_LIMIT]


def parsed(doc):
    value = yaml.safe_load(doc.example.partition("=")[2])
    return tuple(value) if isinstance(value, list) else value


def test_every_option_has_a_row_and_every_row_its_option(monkeypatch, tmp_path):
    table = option_docs.TABLE.read_text()
    for text, fault in (
        (table.replace("goal.max_kld,", "goal.max_klx,"), "lacks the option goal.max_kld"),
        (table + "goal.new,run,,goal.new=1,New.\n", "row for the unknown option goal.new"),
    ):
        path = tmp_path / "option_docs.csv"
        path.write_text(text)
        monkeypatch.setattr(option_docs, "TABLE", path)
        with pytest.raises(UserError, match=fault):
            option_docs.option_docs(ROOT)


def test_no_two_options_have_the_same_text(docs):
    meanings = [d.meaning for d in docs]
    assert len(docs) > 140
    assert sorted(meanings) == sorted(set(meanings))


def test_meanings_are_sentences(docs):
    for doc in docs:
        assert doc.meaning[0].isupper(), doc.name
        assert doc.meaning.endswith("."), doc.name
        assert len(doc.meaning) < 130, doc.name
        assert max(len(s.split()) for s in doc.meaning.split(". ")) <= 22, doc.name
        assert doc.changes in option_docs.CHANGES, doc.name


def test_examples_are_other_values_of_the_right_type_and_range(docs):
    kinds = {
        "integer": int,
        "number": int | float,
        "true or false": bool,
        "list": tuple,
        "list of integers": tuple,
    }
    kinds |= {"mapping": dict, "text": object}
    for doc in keyed(docs):
        assert doc.example.startswith(f"{doc.name}="), doc.name
        value = parsed(doc)
        assert isinstance(value, kinds[doc.type.removesuffix(" or null")]) or value is None, (
            doc.name
        )
        assert option_docs.format_value(value) != doc.default, doc.name
        if (allowed := range_of(doc.name)) and isinstance(value, int | float):
            assert value in allowed, doc.name


def test_every_number_has_a_range_or_a_list_of_values(docs):
    assert [
        d.name for d in docs if d.type.startswith(("integer", "number")) and not d.allowed
    ] == []


# What makes an option count at all: others are beside the point without a board or a cluster.
AT_WORK = {
    "device": {"device": DeviceConf(name="ssh", host="pi")},
    "executor": {"executor": ExecutorConf(name="slurm", partition="all")},
    "compress": {"formats": ("gguf", "gptq_native"), "compress": CompressConf()},
}
# Pinned by their content instead, or a preset of what is pinned.
PINNED = ("model.source", "model.revision", "model.requantize", "model.texts", "texts.")


def with_value(node, key, value):
    """A copy of options with another value of a dotted key."""
    first, _, rest = key.partition(".")
    inner = getattr(node, first)
    return replace(node, **{first: with_value(inner, rest, value) if rest else value})


def test_what_a_new_value_changes_is_true(docs):
    """Of options that are no pinned content: another study or not, as the row says."""
    plain = with_value(option_docs.defaults(ROOT), "probe.tasks", ("fable",))
    plain = replace(plain, hardware=HardwareConf(name="mine"))
    for doc in keyed(docs):
        if doc.name.startswith(PINNED) or doc.name == "extra":  # extra needs a plugin
            continue
        config = replace(plain, **AT_WORK.get(doc.group or doc.name, {}))
        if doc.name == "hardware.runtimes":  # counts where other formats than GGUF are made
            config = replace(config, formats=("gguf", "gptq_native"))
        if doc.name == "executor.partition":
            config = with_value(config, doc.name, "other")
        before, after = (
            study_of(c, []) for c in (config, with_value(config, doc.name, parsed(doc)))
        )
        same = (identity_of(before), before.base) == (identity_of(after), after.base)
        assert same == (doc.changes == "run"), doc.name


def test_all_of_it_fits_a_terminal(docs):
    for doc in docs:
        assert max(map(len, format_option(doc).splitlines())) <= 80, doc.name


def test_the_options_of_a_word_are_printed_as_on_the_page(docs, capsys):
    show_options(ROOT, ["max_KLD"], "text")
    said = " ".join(capsys.readouterr().out.split())
    rows = [d for d in docs if d.name.startswith("goal.max_kld")]
    assert len(rows) == 2
    for doc in rows:
        assert doc.meaning in said
        assert doc.example in said
    assert "goal.min_tg_tps" not in said
    show_options(ROOT, ["goal.max_kld", "99.9th"], "json")
    assert '"name": "goal.max_kld_p999"' in capsys.readouterr().out


def test_a_word_of_no_option_is_a_line():
    with pytest.raises(UserError, match=r"no option has 'goal.max_klt' .* 'goal.max_kld'"):
        show_options(ROOT, ["goal.max_klt"], "text")
    with pytest.raises(UserError, match="`doit options` lists them all"):
        show_options(ROOT, ["xyzzy"], "text")


def test_fields_of_all_kinds_have_words():
    assert is_dataclass(Config)
    for annotation in compose.option_types().values():
        assert option_docs.type_words(annotation)
