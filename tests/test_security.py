"""What comes from outside is checked before it is used: GGUF headers, AC entries, paths, code,
secrets, addresses.
"""

import ast
import json
import os
import re
import shutil
import struct
import subprocess
import sys

import pytest
from conftest import ROOT
from fuzzing import seeds

from sintra.core.canonical import sealed, unsealed
from sintra.core.errors import Infeasible, UserError
from sintra.core.stage import Context
from sintra.formats.checkpoint import remote_code
from sintra.formats.checkpoint.folder import check_folder, is_model_file
from sintra.formats.checkpoint.safetensors import read_safetensors_header
from sintra.formats.gguf import header as header_module
from sintra.stages.fetch import STAGE as FETCH
from sintra.store import entries
from sintra.store.store import Store
from sintra.study.pinning import Digests, pin_folder

SOURCES = [p for top in ("sintra", "models") for p in sorted((ROOT / top).rglob("*.py"))] + [
    ROOT / "dodo.py"
]
RUNS_CODE = ROOT / "sintra" / "probes" / "evaluation" / "program" / "child.py"  # in the jail


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(seeds.gguf()[0])
    return path


def patched(path, old, new, count=1):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, count))
    return path


def test_a_sound_header(gguf):
    found = header_module.read_gguf_header(gguf)
    assert [t.name for t in found.tensors] == ["token_embd.weight", "blk.0.attn_q.weight"]
    assert found.tensors[1].size == 32 * 32 * 2
    assert found.data_start % found.alignment == 0


def test_headers_of_real_files(tiny, tmp_path, toolchain):
    """What llama.cpp's converter and quantizer write passes."""
    from sintra.formats.runtime.quantizer import quantize

    whole = tmp_path / "whole.gguf"
    view = Store(toolchain).lay_out(
        next(o for r in Store(toolchain).read_entries() if (o := entries.read_outcome(r))),
        tmp_path / "tools",
    )
    env = {**os.environ, "PYTHONPATH": str(view)}
    command = [
        sys.executable,
        str(view / "convert_hf_to_gguf.py"),
        str(tiny),
        "--outfile",
        str(whole),
        "--outtype",
        "f16",
    ]
    subprocess.run(command, check=True, capture_output=True, env=env)
    quantize(whole, tmp_path / "q.gguf", 1, kind="Q4_K_M")
    for path in (whole, tmp_path / "q.gguf"):
        assert len(header_module.read_gguf_header(path).tensors) > 10


U32, U64, ARCH = struct.Struct("<I").pack, struct.Struct("<Q").pack, b"llama.block_count"
LIES = {
    "magic": (b"GGUF", b"GGML", "doesn't begin with GGUF"),
    "version": (b"GGUF" + U32(3), b"GGUF" + U32(1), "version 1"),
    "big-endian": (b"GGUF" + U32(3), b"GGUF" + struct.pack(">I", 3), "version 50331648"),
    "tensor count": (U32(3) + U64(2), U32(3) + U64(1 << 40), "tensors where"),
    "key count": (U32(3) + U64(2) + U64(8), U32(3) + U64(2) + U64(1 << 60), "metadata keys where"),
    "key length": (U64(17) + ARCH, U64(1 << 63) + ARCH, "a text of 9223372036854775808 bytes"),
    "key twice": (b"llama.context_length", b"general.architecture", "stands there twice"),
    "value type": (ARCH + U32(4), ARCH + U32(99), "unknown type 99"),
    "layers": (ARCH + U32(4) + U32(1), ARCH + U32(4) + U32(1 << 31), "block_count is 2147483648"),
    "a float for a count": (ARCH + U32(4), ARCH + U32(6), "not a whole number"),
    "scores": (b"scores" + U32(9) + U32(6) + U64(3), b"scores" + U32(9) + U32(6) + U64(2), "GGUF"),
    "list of lists": (b"scores" + U32(9) + U32(6), b"scores" + U32(9) + U32(9), "a list of type 9"),
    "list length": (
        b"tokens" + U32(9) + U32(8) + U64(3),
        b"tokens" + U32(9) + U32(8) + U64(1 << 61),
        "texts in tokenizer",
    ),
    "sides": (b"attn_q.weight" + U32(2), b"attn_q.weight" + U32(9), "has 9 sides"),
    "a side of nothing": (
        b"attn_q.weight" + U32(2) + U64(32),
        b"attn_q.weight" + U32(2) + U64(0),
        "a side of 0",
    ),
    "a huge side": (
        b"attn_q.weight" + U32(2) + U64(32),
        b"attn_q.weight" + U32(2) + U64(1 << 50),
        "a side of",
    ),
    "tensor type": (U64(32) + U64(32) + U32(1), U64(32) + U64(32) + U32(77), "unknown type 77"),
    "blocks": (U64(32) + U64(32) + U32(1), U64(32) + U64(32) + U32(12), "whole blocks of 256"),
    "a larger tensor": (U64(32) + U64(32) + U32(1), U64(32) + U64(64) + U32(1), "truncated?"),
    "alignment": (
        U64(32) + U64(32) + U32(1) + U64(384),
        U64(32) + U64(32) + U32(1) + U64(385),
        "isn't aligned",
    ),
    "overlap": (
        U64(32) + U64(32) + U32(1) + U64(384),
        U64(32) + U64(32) + U32(1) + U64(352),
        "lies over another",
    ),
    "offset": (
        U64(32) + U64(32) + U32(1) + U64(384),
        U64(32) + U64(32) + U32(1) + U64(1 << 62),
        "truncated?",
    ),
    "a name with an end": (b"blk.0.attn_q.weight", b"blk.0.attn\0q.weight", "not printable"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(gguf, lie):
    old, new, said = LIES[lie]
    with pytest.raises(header_module.Malformed, match=re.escape(said)) as caught:
        header_module.read_gguf_header(patched(gguf, old, new))
    assert "\n" not in str(caught.value)


def test_a_model_without_heads(gguf):
    """Found by bench/fuzz.py; state-space models say 0."""
    from sintra.formats.gguf.layout import read_layout

    key = b"llama.attention.head_count"
    assert (
        read_layout(patched(gguf, key + U32(4) + U32(2), key + U32(4) + U32(0)))["shape"]["heads"]
        == 0
    )


def test_llama_cpp_is_not_shown_what_is_refused(gguf):
    """Every way to llama.cpp and to gguf's reader goes through the check."""
    from sintra.formats.runtime.llama_cpp import LlamaModel
    from sintra.formats.runtime.quantizer import quantize

    patched(gguf, U64(32) + U64(32) + U32(1) + U64(384), U64(32) + U64(32) + U32(1) + U64(1 << 62))
    with pytest.raises(Infeasible, match="not a sound GGUF"):
        LlamaModel(gguf, 16, 1, vocab_only=True)
    with pytest.raises(Infeasible, match="not a sound GGUF"):
        quantize(gguf, gguf.with_suffix(".out"), 1)
    for name in (
        p for p in SOURCES if p.name not in ("header.py", "child.py")
    ):  # child.py is sent files by digest
        text = name.read_text()
        assert "GGUFReader" not in text, name
        assert (
            "llama_model_load_from_file" not in text or "header.read_gguf_header(path)" in text
        ), name


def test_a_users_own_gguf(gguf, tmp_path):
    """doit estimate model=FILE: one line, exit code 2."""
    patched(gguf, U32(3) + U64(2), U32(3) + U64(1 << 40))
    words = ("estimate", f"model={gguf}", "hardware=jetson_nano", f"store.path={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-m", "doit", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "tensors where" in done.stderr


def calls(path):
    """(dotted name, keyword arguments) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield (
                ast.unparse(node.func),
                {k.arg: ast.unparse(k.value) for k in node.keywords},
                node.lineno,
            )


def test_no_pickle_is_read():
    """By name, not by habit: modules, functions and switches that unpickle."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in named} & {
                "pickle",
                "cPickle",
                "dill",
                "cloudpickle",
                "joblib",
                "shelve",
                "marshal",
            }, path
        for name, keywords, line in calls(path):
            last, where = name.rpartition(".")[2], f"{path.name}:{line}"
            assert name not in ("torch.load", "pickle.load", "pickle.loads", "pd.read_pickle"), (
                where
            )
            assert keywords.get("allow_pickle", "False") == "False", where
            assert keywords.get("weights_only", "True") == "True", where
            assert name not in ("eval", "yaml.load", "yaml.unsafe_load", "os.system"), where
            assert name != "exec" or path == RUNS_CODE, where
            assert "shell" not in keywords, where
            if last == "from_pretrained" and path.is_relative_to(ROOT / "sintra"):
                assert "trust_remote_code" in keywords, where
                assert keywords["trust_remote_code"] in ("False", "trust"), where
            if (last == "from_pretrained" and "Model" in name) or (
                last == "from_pretrained" and name.startswith(("kind", "loader"))
            ):
                assert keywords.get("use_safetensors", "True") == "True", where


def test_servers_stay_on_loopback():
    for path in (
        p for p in SOURCES if p.name != "server.py"
    ):  # in a container, whose ports others publish
        text = path.read_text().replace('rpartition("::")', "")  # of a cgroup's line
        assert not re.search(r"0\.0\.0\.0|\"::\"|INADDR_ANY", text), path


def test_a_link_out_of_a_models_folder(tiny, tmp_path):
    model = shutil.copytree(tiny, tmp_path / "model")
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (model / "tokenizer.json").symlink_to(secret)
    with pytest.raises(UserError, match="leads out of its folder"):
        check_folder(model)
    (model / "tokenizer.json").unlink()
    (model / "chat_template.jinja").symlink_to(model / "config.json")
    assert "chat_template.jinja" in {p.name for p in check_folder(model).files}


def test_the_hubs_own_cache_links_to_its_blobs(tiny, tmp_path):
    repo = tmp_path / "models--owner--tiny"
    snapshot = repo / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    shutil.copytree(tiny, repo / "blobs")
    for path in (repo / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert [p.name for p in check_folder(snapshot).files] == [
        p.name for p in check_folder(tiny).files
    ]


@pytest.mark.parametrize("shard", ["../../etc/passwd", "/etc/passwd", "missing.safetensors"])
def test_an_index_cannot_name_files_elsewhere(tiny, tmp_path, shard):
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(UserError, match="lacks"):
        check_folder(model)


def test_a_tensor_without_a_name(tmp_path):
    """Found by bench/fuzz.py."""
    header = json.dumps({"": "x"}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match="nothing sensible of"):
        read_safetensors_header(path)


@pytest.mark.parametrize(
    "text", ["[]", '{"weight_map": 3}', '{"weight_map": {"x": 3}}', "[" * 100_000, "\xff"]
)
def test_an_odd_index(tiny, tmp_path, text):
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError):
        check_folder(model)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "",
        "a//b",
        "./a",
        "a\0b",
        "a\\b",
        "model/../../x",
        "x" * 300,
    ],
)
def test_paths_in_entries_stay_inside(path):
    row = {"path": path, "size": 1, "sha256": "0" * 64}
    assert entries.read_outcome({"files": [row]}) is None


@pytest.mark.parametrize(
    "row",
    [
        {"sha256": "../../../etc"},
        {"sha256": "A" * 64},
        {"size": -1},
        {"size": 1.0},
        {"size": True},
        {"more": 1},
    ],
)
def test_malformed_files_in_entries(row):
    assert (
        entries.read_outcome({"files": [{"path": "f", "size": 1, "sha256": "0" * 64} | row]})
        is None
    )


def test_every_flipped_bit_of_an_entry_is_noticed():
    text = entries.format_entry(
        {"key": "a" * 64, "files": [{"path": "f", "size": 1, "sha256": "0" * 64}], "step": "s:x"}
    ).encode()
    parsed = entries.parse_entry(text, "a" * 64)
    assert parsed is not None
    whole, outcome = parsed
    for at in range(len(text)):
        for bit in range(8):
            other = bytearray(text)
            other[at] ^= 1 << bit
            found = entries.parse_entry(bytes(other), "a" * 64)
            assert found is None or ({k: found[0].get(k) for k in whole}, found[1]) == (
                whole,
                outcome,
            ), "nothing of what it says may be another"


def test_sealed_text_is_plain_json():
    text = sealed(json.dumps({"b": 1, "a": "x"}, indent=1))
    assert set(json.loads(text)) == {"sum", "a", "b"}
    assert unsealed(text.encode()) == {"b": 1, "a": "x"}
    assert unsealed(b'{"b": 1}') == {"b": 1}, "what was written before there were sums"
    with pytest.raises(ValueError, match="members"):
        sealed("{}")


def test_an_entry_of_another_key_is_a_miss(tmp_path):
    store = Store(tmp_path)
    path = store.entry_path("b" * 64)
    path.parent.mkdir(parents=True)
    path.write_text(entries.format_entry({"key": "a" * 64, "files": []}))
    assert store.lookup("b" * 64) is None


OWN = """
import pathlib
pathlib.Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tiny, tmp_path):
    """A model that brings Python code, which leaves a mark when it runs."""
    model = shutil.copytree(tiny, tmp_path / "own")
    config = json.loads((model / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "code.OwnConfig", "AutoModelForCausalLM": "code.OwnModel"},
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "code.py").write_text(OWN.format(mark=str(tmp_path / "mark")))
    return model, tmp_path / "mark"


def fetched(model, out, code):
    digests = Digests(out / "digests.json")
    (out / "out").mkdir(parents=True)
    pin = pin_folder(model, digests, code)
    params = {"kind": "folder", "digest": pin.digest} | ({"code": True} if code else {})
    FETCH.run(Context(params, {}, out / "out", {"from": str(model)}, out / "keep", 1))
    return out / "out", pin.digest


LOAD = """
import sys
from pathlib import Path
from sintra.formats.runtime.blocks import BlockModel
print(type(BlockModel(Path(sys.argv[1])).net).__name__)
"""


def test_a_models_own_code_runs_only_when_the_user_says_so(own, tmp_path):
    model, mark = own
    plain, one = fetched(model, tmp_path / "plain", False)
    trusted, two = fetched(model, tmp_path / "trusted", True)
    assert one != two, "part of the key"
    assert not (plain / "code.py").exists()
    assert (remote_code.has_permission(plain), remote_code.has_permission(trusted)) == (False, True)
    env = os.environ | {"HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(plain)], capture_output=True, text=True, env=env
    )
    assert done.returncode != 0
    assert "model.trust_remote_code=true runs it" in done.stderr
    assert not mark.exists()
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(trusted)], capture_output=True, text=True, env=env
    )
    assert done.stdout.strip() == "OwnModel", done.stderr
    assert mark.exists()
    assert not list(tmp_path.glob("home/**/code.py")), "unpacked in a folder of the process's own"


def test_the_word_cannot_come_with_a_model(own, tmp_path):
    model, _ = own
    remote_code.write_permission(model)
    plain, _ = fetched(model, tmp_path / "plain", False)
    assert not remote_code.has_permission(plain)
    assert not is_model_file(remote_code.PERMISSION_NAME)
    assert not is_model_file(remote_code.PERMISSION_NAME, code=True)


def test_code_of_another_repository_is_never_taken(own, tmp_path):
    model, _ = own
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"auto_map": {"AutoConfig": "evil/other--code.OwnConfig"}})
    )
    with pytest.raises(UserError, match="code of another repository"):
        check_folder(model, code=True)


def test_the_result_says_that_code_was_trusted(project, own):
    model, mark = own
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"model_type": "llama"})
    )  # a class that transformers has too
    args = (
        "optimize",
        "hardware=jetson_nano",
        f"model={model}",
        "probe=quick",
        "model.check=false",
        "planner=ladder",
        "planner.types=[Q8_0]",
        "planner.rounding=nearest",
        "max_rounds=1",
        "goal.max_kld=9",
    )
    plain = project.doit(*args)
    assert plain.returncode == 0, plain.stderr
    assert "trust_remote_code" not in project.result()
    assert not mark.exists()
    done = project.doit(*args, "model.trust_remote_code=true")
    assert done.returncode == 0, done.stderr
    assert project.result()["trust_remote_code"] is True
    assert "with Python code of its own (model.trust_remote_code=true)" in done.stdout
    refused = project.doit(*args, "model.trust_remote_code=true", "formats=[gguf,gptq]")
    assert refused.returncode == 2
    assert "goes with formats=[gguf] only" in refused.stderr


SECRETS = (  # variables of ours and of libraries that hold keys, and addresses that may
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "SINTRA_LLM_KEY"),
    *("SINTRA_STORE_KEY", "SINTRA_DASHBOARD_TOKEN", "SINTRA_WEBHOOK_SECRET"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("WANDB_API_KEY", "LANGSMITH_API_KEY", "GITHUB_TOKEN", "GH_TOKEN", "RAY_AUTH_TOKEN"),
    *("PIP_PASSWORD", "NETRC", "KUBECONFIG", "DOCKER_AUTH_CONFIG", "OLLAMA_API_KEY"),
)
ADDRESSES = ("SINTRA_APPRISE_URLS", "SINTRA_WEBHOOK_URL", "PIP_EXTRA_INDEX_URL")
OFFLINE_EXPORTS = ("export_docker", "export_k8s", "export_space", "export_hub")


def test_secrets_are_written_nowhere(project, tiny):
    """A key in the environment is in no file of a study and its exports, and is never printed."""
    secret = "hf_SECRETsecretSECRETsecret"
    keys = dict.fromkeys(SECRETS, secret)
    keys |= dict.fromkeys(ADDRESSES, f"json://me:{secret}@127.0.0.1:9/{secret}")
    args = (
        "optimize",
        "hardware=jetson_nano",
        f"model={tiny}",
        "probe=quick",
        "model.check=false",
        "planner=ladder",
        "planner.types=[Q8_0]",
    )
    done = project.doit(*args, "planner.rounding=nearest", "max_rounds=1", **keys)
    assert done.returncode in (0, 1), done.stderr
    assert secret not in done.stdout + done.stderr
    for command in OFFLINE_EXPORTS:
        done = project.doit(command, **keys)
        assert done.returncode == 0, done.stderr
        assert secret not in done.stdout + done.stderr
    for path in project.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert secret.encode() not in path.read_bytes(), path


def test_options_do_not_read_the_environment(project):
    done = project.doit(
        "plan",
        "hardware=jetson_nano",
        "planner.base_url=${oc.env:OPENAI_API_KEY}",
        OPENAI_API_KEY="sk-x",
    )
    assert done.returncode == 2
    assert "the environment isn't read by options" in done.stderr


def test_the_tests_that_the_page_names_exist():
    """docs/security.md says of each danger which test shows that it is stopped."""
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 30
    for path, name in named:
        text = (ROOT / path).read_text()
        assert not name or f"def {name}(" in text, (path, name)
