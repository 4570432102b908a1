"""Tasks: what may be named, who may run code, the numbers, and lm-eval's own word on the 16-bit
model.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from sintra.build.run import run_step
from sintra.config import compose
from sintra.config.study import study_of
from sintra.config.tasks import files as tasks
from sintra.core.errors import UserError
from sintra.probes.evaluation import build, compare
from sintra.probes.tasks import load_published
from sintra.study.workspace import open_workspace

ROWS = [
    {
        "story": "Kaia had two candles. Ines brought two more candles. Now Kaia had four candles.",
        "ask": "How many candles does Kaia have?",
        "is": "four",
    },
    {
        "story": "Sven had six plums. Jory brought three more plums. Now Sven had nine plums.",
        "ask": "How many plums does Sven have?",
        "is": "nine",
    },
]
PROMPT = 'prompt: "{{story}}\\nQuestion: {{ask}}\\nAnswer:"\n'


def write(folder, name, text, rows=ROWS):
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


@pytest.fixture(scope="module")
def ask(tmp_path_factory, toolchain):
    """Puts tasks to a bundled model in 16 bits: (model, task, ...) -> measurements by metric,
    items.
    """
    cache = tmp_path_factory.mktemp("tasks") / "cache"
    shutil.copytree(toolchain, cache)

    def asked(model, task, *more):
        workspace = open_workspace(
            ROOT, [f"model={model}", f"store.path={cache}", f"probe.tasks=[{task}]", *more]
        )
        step = workspace.graph().task(next(iter(workspace.tasks)), None, "all")
        for needed in step.all():
            run_step(needed, workspace.store)
        found = step.outcome(workspace.store)
        rows = workspace.store.read_json(found, "measurements.json")
        return {m["metric"]: m for m in rows}, workspace.store.read_json(found, "items.json")[
            "items"
        ]

    return asked


def test_lm_eval_through_transformers_finds_the_same(ask, tmp_path):
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "--model",
        "hf",
        "--model_args",
        "pretrained=models/fable,dtype=float32",
    ]
    command += [
        "--tasks",
        "fable",
        "--include_path",
        "models/tasks",
        "--device",
        "cpu",
        "--batch_size",
        "8",
        "--limit",
        "60",
    ]
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "data"),
        "HOME": str(tmp_path),
    }
    env = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **offline}
    done = subprocess.run(
        [*command, "--log_samples", "--output_path", str(tmp_path)],
        cwd=ROOT,
        env=env,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    (path,) = tmp_path.rglob("samples_fable_*.jsonl")
    theirs = sorted(
        (json.loads(line) for line in path.read_text().splitlines()), key=lambda r: r["doc_id"]
    )
    found, items = ask("fable", "fable")
    ours = items[:60]
    assert len(theirs) == 60
    assert sum(r["acc"] for r in theirs) == sum(score for _, score, _ in ours) > 30
    chosen = [max(range(4), key=lambda i, r=r: float(r["filtered_resps"][i][0])) for r in theirs]
    assert chosen == [answer for _, _, answer in ours]
    whole = [score for _, score, _ in items]
    assert found["task:fable:acc"]["value"] == sum(whole) / 500
    assert found["task:fable:acc"]["protocol"] == "lm-eval 0.4.13 over llama.cpp, all items"


def test_in_the_chat_template_questions_are_answered_otherwise_and_it_is_said(ask):
    found, items = ask("fable", "fable", "probe.task_chat=true")
    _, plain = ask("fable", "fable")
    assert (
        found["task:fable:acc"]["protocol"]
        == "lm-eval 0.4.13 over llama.cpp, all items, in the chat template"
    )
    assert len(items) == len(plain) == 500
    assert [i[2] for i in items] != [i[2] for i in plain]


@pytest.mark.parametrize("opening", [True, False])
def test_a_conversation_is_what_transformers_makes_of_it(ask, tmp_path, opening):
    """With the opening of an answer, or with its last message left open."""
    from gguf import GGUFWriter
    from transformers import AutoTokenizer

    from sintra.formats.gguf.chat_template import read_chat_template

    theirs = AutoTokenizer.from_pretrained(ROOT / "models" / "fable")
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_token_list(["<unk>", "<s>", "</s>"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(theirs.chat_template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    talk += [] if opening else [{"role": "assistant", "content": "The answer is"}]
    found = read_chat_template(tmp_path / "model.gguf").render(talk, opening)
    kinds = {"add_generation_prompt": opening, "continue_final_message": not opening}
    assert found == theirs.apply_chat_template(talk, tokenize=False, **kinds)
    assert found.endswith("<|assistant|>" if opening else "The answer is")


def test_a_model_without_chat_template_says_so(ask, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "plain")
    path = tmp_path / "plain" / "tokenizer_config.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"})
    )
    with pytest.raises(UserError, match="no chat template"):
        ask(str(tmp_path / "plain"), "fable", "probe.task_chat=true")


def test_every_kind_of_a_users_task(ask, tmp_path):
    from rouge_score.rouge_scorer import RougeScorer

    found, items = ask(
        "fable_mini",
        write(tmp_path, "say", f"kind: answer\ndata: rows.jsonl\nanswer: is\n{PROMPT}"),
    )
    said = [answer for _, _, answer in items]
    assert (
        found["task:say:acc"]["value"]
        == sum(s.strip(" .") == r["is"] for s, r in zip(said, ROWS, strict=True)) / 2
        == 1
    )
    found, items = ask(
        "fable_mini",
        write(
            tmp_path, "sum", f'kind: summary\ndata: rows.jsonl\nanswer: "{{{{is}}}} x"\n{PROMPT}'
        ),
    )
    scores = [
        RougeScorer(["rougeL"], use_stemmer=True).score(f"{r['is']} x", s)["rougeL"].fmeasure
        for r, (_, _, s) in zip(ROWS, items, strict=True)
    ]
    assert found["task:sum:rougeL"]["value"] == pytest.approx(sum(scores) / 2)
    assert 0 < scores[0] < 1
    text = f'kind: code\ndata: rows.jsonl\ntests: "{{{{story and 1}}}}"\nmax_tokens: 8\n{PROMPT}'
    found, _ = ask("fable_mini", write(tmp_path, "program", text), "probe.run_code=true")
    assert found["task:program:acc"]["value"] == 0, "a story is no program"
    assert found["task:program:acc"]["protocol"].endswith(", code run without any right")


def test_texts_and_answers_are_lm_evals_too(ask, toolchain, tmp_path, monkeypatch):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from sintra.formats.runtime.llama_cpp import open_model
    from sintra.probes.evaluation.lm import LlamaLM

    def asked(kind, *args):
        return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(args)]

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(toolchain, tmp_path / "cache")
    workspace = open_workspace(ROOT, ["model=fable", f"store.path={tmp_path / 'cache'}"])
    step = workspace.graph().convert()
    for needed in step.all():
        run_step(needed, workspace.store)
    sha = next(f.sha256 for f in step.outcome(workspace.store).files if f.path == "model.gguf")
    text = (ROOT / "models" / "texts" / "report.txt").read_text()[:1500]
    stories = [r["story"] for r in ROWS]
    options = {"until": ["\n"], "do_sample": False, "max_gen_toks": 16}
    for size in (64, 512):
        theirs = HFLM(
            pretrained=str(ROOT / "models" / "fable"),
            dtype="float32",
            device="cpu",
            max_length=size,
            batch_size=1,
        )
        with open_model(workspace.store.blob_path(sha), size, 1) as model:
            ours = LlamaLM(model)
            for kind, args in (
                ("loglikelihood_rolling", [(text,), ("Nora",)]),
                ("loglikelihood", [(text, " Nora"), ("", "Nora had"), (text, " Nora had")]),
            ):
                want, got = (getattr(lm, kind)(asked(kind, *args)) for lm in (theirs, ours))
                first = [x if isinstance(x, float) else x[0] for x in want]
                assert [x if isinstance(x, float) else x[0] for x in got] == pytest.approx(
                    first, rel=1e-3, abs=0.01
                )
            if size > 64:
                args = [(s, options) for s in stories]
                want, got = (
                    lm.generate_until(asked("generate_until", *args)) for lm in (theirs, ours)
                )
                assert got == want


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a", "needs `kind`"),
        ("kind: chioce\ndata: rows.jsonl", "did you mean 'choice'"),
        ("kind: answer\ndata: rows.jsonl\nprompt: story", "needs 'answer'"),
        ("kind: answer\ndata: gone.jsonl\nprompt: story\nanswer: is", "no data file 'gone.jsonl'"),
        ("kind: answer\ndata: rows.jsonl\nprompts: story\nanswer: is", "did you mean 'prompt'"),
        ("kind: code\ndata: rows.jsonl\nprompt: story\ntests: is", "probe.run_code=true"),
        ("kind: answer\ndata: ../rows.jsonl\nprompt: story\nanswer: is", "below the file's own"),
        ("kind: answer\ndata: rows.jsonl\nprompt: story\nanswer: is\nmax_tokens: many", "number"),
        ("task: x\ndoc_to_text: !function utils.f", "!function"),
        ("task: x\ninclude: other.yaml", "include"),
        ("kind: [", "is not YAML"),
    ],
)
def test_mistakes_in_a_task(tmp_path, text, says):
    path = write(tmp_path, "mine", text)
    with pytest.raises(UserError) as caught:
        open_workspace(ROOT, [f"store.path={tmp_path / 'cache'}", f"probe.tasks=[{path}]"])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            "metric_list: [{metric: FOLDER/evil.py, hf_evaluate: true, aggregation: mean}]",
            "of the hub",
        ),
        ("metric_list: [{metric: FOLDER/evil.py}]", "of the hub"),
        ("metric_list: [{metric: exact_match, hf_evaluate: true}]", "of the hub"),
        ("process_results: !function needs.score", "the package 'evaluate'"),
        ("unsafe_code: true", "kind code instead"),
    ],
)
def test_a_published_task_brings_no_code_of_the_hub(tmp_path, more, says):
    """lm-eval's own tasks: their metrics are lm-eval's, and code is run in the jail or not."""
    from lm_eval.tasks import TaskManager

    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "needs.py").write_text("import evaluate\nscore = evaluate.load\n")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (tmp_path / "published.yaml").write_text(
        f"task: published\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: "
        f"{tmp_path}/rows.jsonl}}, cache_dir: {tmp_path}/data}}\ntest_split: test\n"
        f"doc_to_text: ask\ndoc_to_target: is\n{more.replace('FOLDER', str(tmp_path))}\n"
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.raises(UserError, match=says):
        load_published(manager, "published")
    assert not (tmp_path / "ran").exists()


def test_mistakes_in_rows(tmp_path, project):
    path = write(tmp_path, "mine", f"kind: answer\ndata: rows.jsonl\nanswer: right\n{PROMPT}")
    done = project.doit("optimize", "hardware=laptop", f"probe.tasks=[{path}]")
    assert done.returncode == 2
    assert "rows.jsonl, row 1 has no 'right'" in done.stderr
    assert project.built(done) == []
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(UserError, match="line 2: not a JSON object"):
        tasks.read_rows(tmp_path / "rows.jsonl")


def test_without_lm_eval(tmp_path, monkeypatch):
    import importlib.util

    path = write(tmp_path, "mine", f"kind: answer\ndata: rows.jsonl\nanswer: is\n{PROMPT}")
    workspace = open_workspace(ROOT, [f"store.path={tmp_path / 'cache'}", f"probe.tasks=[{path}]"])
    tasks.check_tasks(workspace.tasks.values())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*\[tasks\]"):
        tasks.check_tasks(workspace.tasks.values())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["goal.min_task_retention=0.98"], "needs tasks: add probe.tasks"),
        (
            ["goal.min_task_retention=98", "probe.tasks=[fable]"],
            "isn't a share of the baseline's score above 0, up to 1; 98 percent would be 0.98",
        ),
    ],
)
def test_mistakes_in_a_goal(overrides, says):
    with pytest.raises(UserError, match=says):
        study_of(compose.compose(ROOT, overrides), [])


def test_a_limit_for_every_task(tmp_path):
    raw = ["goal.min_task_retention=0.98", "probe.tasks=[fable,arc_easy]", f"store.path={tmp_path}"]
    workspace = open_workspace(ROOT, raw)
    limits = {c.metric: (c.op, c.limit) for c in workspace.study.goal.constraints}
    assert limits["task:fable:retention"] == limits["task:arc_easy:retention"] == (">=", 0.98)
    assert (workspace.tasks["fable"].kind, workspace.tasks["arc_easy"]) == ("task", None)
    graph = workspace.graph()
    from sintra.core.recipe import Recipe

    half, whole = (graph.variant(Recipe("Q4_K_M"), level).tasks for level in ("search", "report"))
    assert [s.params["part"] for s in (*half, *whole)] == ["half", "half", "all", "all"]
    assert graph.variant(Recipe("Q4_K_M"), "screen").tasks == ()
    loose = replace(workspace.study, goal=replace(workspace.study.goal, constraints=()))
    graph.study = loose
    assert graph.variant(Recipe("Q8_0"), "search").tasks == (), (
        "without a limit only finalists are asked"
    )


def test_a_changed_question_is_another_task(tmp_path):
    path = write(tmp_path, "mine", f"kind: answer\ndata: rows.jsonl\nanswer: is\n{PROMPT}")
    raw = [f"store.path={tmp_path / 'cache'}", f"probe.tasks=[{path}]"]
    one = open_workspace(ROOT, raw).study.id
    assert open_workspace(ROOT, raw).study.id == one
    write(tmp_path, "mine", path.read_text(), [*ROWS, ROWS[0]])
    assert open_workspace(ROOT, raw).study.id != one


def scored(scores, answers=None):
    items = tuple(
        (str(i), float(s), a)
        for i, (s, a) in enumerate(zip(scores, answers or scores, strict=True))
    )
    return compare.TaskResult("acc", sum(scores) / len(scores), True, items)


def test_numbers_against_the_baseline():
    base = scored([1] * 12 + [0] * 2 + [1] * 60 + [0] * 26)
    own = scored(
        [0] * 10 + [1] * 2 + [1] * 2 + [1] * 60 + [0] * 26, [9] * 3 + [0] * 7 + [1] * 64 + [0] * 26
    )
    found = {m.metric: m for m in compare.task_measurements("t", own, base, 0, "")}
    assert found["task:t:acc"].value == 0.64
    assert found["task:t:acc"].stderr == pytest.approx((0.64 * 0.36 / 99) ** 0.5)
    assert found["task:t:baseline_acc"].value == 0.72
    assert found["task:t:retention"].value == pytest.approx(64 / 72)
    assert 0.02 < found["task:t:retention"].stderr < 0.08
    assert found["task:t:flips"].value == 0.12
    assert found["task:t:agreement"].value == 0.88
    assert found["task:t:mcnemar_p"].value == pytest.approx(2 * (1 + 12 + 66) / 2**12), (
        "10 and 2 of 12, two-sided"
    )
    assert compare.mcnemar(0, 0) == 1


def test_less_may_be_better():
    base, own = (
        compare.TaskResult("word_perplexity", v, False, (("0", None, None),)) for v in (10.0, 12.5)
    )
    found = {m.metric: m.value for m in compare.task_measurements("t", own, base, 0, "")}
    assert found == {
        "task:t:word_perplexity": 12.5,
        "task:t:baseline_word_perplexity": 10.0,
        "task:t:retention": 0.8,
    }


def test_a_scorer_runs_what_the_model_wrote():
    fields = {"doc_to_text": "def f(x):\n", "doc_to_target": "assert f(2) == 4"}
    assert build.score_code(fields, ["    return x * x\n"]) == {"acc": 1.0}
    assert build.score_code(fields, ["    return x\n"]) == {"acc": 0.0}


def test_an_answer_may_have_several_forms():
    fields = {"doc_to_target": ["the mill", "Mill"]}
    assert [
        build.score_exactly(fields, [said])["acc"] for said in (" mill.", "The mill", "a mill")
    ] == [1, 1, 0]
