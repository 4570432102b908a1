"""What a task file may say, and that nothing of it is carried out outside of the sandbox."""

import itertools
import json

import pytest

from sintra.config.tasks import files as tasks
from sintra.config.tasks import templates
from sintra.config.tasks.templates import Template, TemplateError, find_all, render_rows
from sintra.core.errors import UserError
from sintra.core.rendering import worker

ROWS = [
    {"story": "Kaia left.", "ask": "Who left?", "is": "Kaia", "of": ["Kaia", "Nils"], "no": 0},
    {"story": "Nils came.", "ask": "Who came?", "is": "Nils", "of": ["Kaia", "Nils"], "no": 1},
]
OWN = "kind: answer\ndata: rows.jsonl\n"
NATIVE = (
    "task: x\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n"
    "test_split: test\ndoc_to_text: '{{ask}}'\ndoc_to_target: is\n"
)
ESCAPES = (
    "{{ cycler.__init__.__globals__.os.system(COMMAND) }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system(COMMAND) }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ lipsum.__globals__['os'].popen(COMMAND).read() }}",
    "{{ '{0.__class__}'.format(ask) }}",
)


# nine layers of lists that hold each other nine times: half a billion texts when written out
BOMB = (
    "[&a [x,x,x,x,x,x,x,x,x]"
    + "".join(f", &{to} [{','.join([f'*{of}'] * 9)}]" for of, to in itertools.pairwise("abcdefghi"))
    + "]"
)


@pytest.fixture
def checked(tmp_path):
    """Check a task file beside its rows: text -> split -> fields."""

    def check(text, rows=ROWS):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return tasks.read_fields(tasks.read_task(path), lambda n: tasks.data_file(path, n))

    return check


def refused(checked, text):
    with pytest.raises(UserError) as caught:
        checked(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_template_runs_no_code(tmp_path):
    """Neither where a row is filled in nor where Jinja folds constants."""
    for escape in ESCAPES:
        template = escape.replace("COMMAND", f"'touch {tmp_path}/ran'")
        with pytest.raises(TemplateError, match="SecurityError"):
            render_rows([Template("prompt", template, "text")], ROWS)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        f"{OWN}prompt: QUOTED\nanswer: is\n",
        f"{OWN}prompt: ask\nanswer: QUOTED\n",
        f"{NATIVE}description: QUOTED\n",
    ],
)
def test_wherever_it_stands(checked, text):
    assert "SecurityError" in refused(checked, text.replace("QUOTED", json.dumps(ESCAPES[2])))


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ ('a' * 50 + '!') | regex_replace('(a+)+$', '') }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_never_ends_is_ended(monkeypatch, template):
    monkeypatch.setattr(templates, "SECONDS", 1)
    with pytest.raises(TemplateError, match="takes more than 1 s of CPU time"):
        render_rows([Template("prompt", template, "text")], ROWS)


def test_a_template_has_so_much_memory_and_no_more(monkeypatch):
    monkeypatch.setattr(worker, "MEGABYTES", 256)
    with pytest.raises(TemplateError, match="MemoryError"):
        render_rows([Template("prompt", "{{ 'a' * 10 ** 10 }}", "text")], ROWS)


def test_templates_are_read_as_lm_eval_reads_them():
    from lm_eval.utils import apply_template

    kinds = {
        "text": ("{{story}}\n{{ask}} {{of}} {{no}}\n", lambda t: t),
        "number": ("{{no}}", int),
        "list": ("{{of}}", lambda t: ["Kaia", "Nils"]),
        "choices": ("{{of | reverse | list}}", lambda t: ["Nils", "Kaia"]),
        "target": ("[{{no}}]", lambda t: [int(t[1:-1])]),
    }
    asked = [Template(kind, text, kind) for kind, (text, _) in kinds.items()]
    for row, found in zip(ROWS, render_rows(asked, ROWS), strict=True):
        assert found == {k: read(apply_template(t, row)) for k, (t, read) in kinds.items()}


def test_a_pattern_is_lm_evals_filter_with_a_limit(monkeypatch):
    from lm_eval.filters.extraction import RegexFilter

    pattern, texts = r"#### (\d+)|is (\w+)", ["it is four", "#### 12 #### 13", "nothing"]
    theirs = RegexFilter(pattern, -1, "none").apply([[t] for t in texts], [])
    assert [[found] for found in find_all(pattern, texts, -1, "none")] == theirs
    monkeypatch.setattr(templates, "SECONDS", 1)
    with pytest.raises(TemplateError, match="CPU time"):
        find_all("(a+)+$", ["a" * 50 + "!"], 0, "none")
    with pytest.raises(TemplateError, match="not a regular expression"):
        find_all("(", ["a"], 0, "none")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("metric_list: [{metric: evil.py, hf_evaluate: true}]", "hf_evaluate runs a file"),
        ("metric_list: [{metric: ./evil.py}]", "known are: bleu, chrf, exact_match, ter"),
        ("metric_list: [{metric: acc}]", "isn't a metric of generate_until"),
        ("metric_list: [{metric: exact_match, aggregation: evil}]", "is 'mean'"),
        ("metric_list: [{metric: exact_match, regexes_to_ignore: ['(a+)+$']}]", "no key"),
        ("unsafe_code: true", "no key 'unsafe_code'"),
        ("use_prompt: 'promptsource:x'", "no key 'use_prompt'"),
        ("process_results: evil.f", "no key 'process_results'"),
        ("custom_dataset: evil.f", "no key 'custom_dataset'"),
        ("dataset_path: pandas", "dataset_path: json"),
        ("dataset_path: ./evil.py", "dataset_path: json"),
        ("dataset_kwargs: {trust_remote_code: true}", "and nothing else"),
        ("dataset_kwargs: {data_files: {test: /etc/passwd}}", "below the file's own folder"),
        ("test_split: other", "no split is called 'other'"),
        ("output_type: evil", "output_type"),
        ("output_type: multiple_choice", "needs doc_to_choice"),
        ("num_fewshot: many", "num_fewshot is a whole number"),
        ("filter_list: [{name: a, filter: [{function: evil}]}]", "known are: lowercase"),
        ("filter_list: [{name: a, filter: [{function: regex, x: 1}]}]", "no key 'x'"),
        ("generation_kwargs: {evil: 1}", "no key 'evil'"),
        ("doc_to_text: '{% if'", "not a Jinja template"),
        ("doc_to_text: '{{asked}}'", "row 1 has no 'asked': did you mean 'ask'?"),
        ("fewshot_config: {sampler: evil}", "no key 'fewshot_config'"),
        (f"num_fewshot: {BOMB}", "num_fewshot is a whole number"),
        (f"doc_to_target: {BOMB}", "doc_to_target is a text"),
        (f"kind: {BOMB}", "no kind is called"),
        ('"\\e[2J": 1', "no key"),
    ],
)
def test_of_lm_evals_format_what_is_listed(checked, more, says):
    key = more.partition(":")[0]
    kept = "".join(f"{x}\n" for x in NATIVE.splitlines() if not x.startswith(f"{key}:"))
    assert says in refused(checked, f"{kept}{more}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{OWN}prompt: '{{{{ask}}}}'\nanswer: right\n", "row 1 has no 'right'"),
        (f"{OWN}prompt: '{{{{ask.x.y}}}}'\nanswer: is\n", "row 1: prompt: "),
        (
            "kind: choice\ndata: rows.jsonl\nprompt: ask\nchoices: is\nanswer: 'no'\n",
            "not a list of two choices",
        ),
        (
            "kind: choice\ndata: rows.jsonl\nprompt: ask\nchoices: [a]\nanswer: no2\n",
            "has no 'no2'",
        ),
        (
            "kind: choice\ndata: rows.jsonl\nprompt: ask\nchoices: [a]\nanswer: 'no'\n",
            "row 2: there",
        ),
    ],
)
def test_a_row_that_does_not_fit(checked, text, says):
    assert says in refused(checked, text)


def test_lm_evals_own_code_gets_no_template(checked, tmp_path):
    """The task is built, answers are asked for by row, filters and metrics are lm-eval's."""
    from sintra.probes.evaluation.build import RegexFilter, build_task

    text = (
        f"{NATIVE}description: 'Answer {{{{no}}}}. '\n"
        "filter_list: [{name: a, filter: [{function: regex, regex_pattern: (K.*)}, "
        "{function: take_first}]}]\nmetric_list: [{metric: exact_match, ignore_case: true}]\n"
    )
    checked(text)
    (tmp_path / "task.yaml").write_text(text)
    task = build_task(tmp_path, "x", False)
    (first, second) = task.eval_docs
    assert task.fewshot_context(second, 0) == "Answer 1. Who came?"
    assert task.doc_to_target(first) == "Kaia"
    assert task.process_results(first, ["KAIA"]) == {"exact_match": 1.0}
    assert RegexFilter("(K.*)").apply([["x Ka"], ["no"]], []) == [["Ka"], ["[invalid]"]]
    given = json.dumps(task.dump_config(), default=str)
    assert "{{" not in given
    assert "(K" not in json.dumps(task.eval_docs.to_dict())
