"""Sound inputs for every target, and the words that edits put into them."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path

from . import odd

ROOT = Path(__file__).resolve().parent.parent.parent

JSON = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"null",
    b"true",
    b"NaN",
    b"1e999",
    b"-1",
    b"\\ud800",
    b"\\u0000",
    b"{}" * 8,
    b"[" * 300,
    b'"../../x"',
    b'"/etc/passwd"',
    b"\xff",
    b"9" * 5000,
)
YAML = (
    *JSON,
    b"!!python/object/apply:os.system ['true']",
    b"&a",
    b"*a",
    b"<<: *a",
    b"- ",
    b": ",
    b"? ",
    b"|\n",
    b"!!binary ",
    b"---\n",
    b"\t",
    b"0x",
    b".inf",
    b"2001-01-01",
    b"!function x.y",
    b"&a [*a,*a]",
    b"\xe2\x80\xa8",
)
HYDRA = (
    b"+",
    b"~",
    b"=",
    b",",
    b"[",
    b"]",
    b"${oc.env:HOME}",
    b"${",
    b"}",
    b"'",
    b'"',
    b"\\",
    b"@",
    b"../",
    b"/etc/passwd",
    b"glob(",
    b")",
    b"range(1,9999999999,1)",
    b"range(0,1,0)",
    b"choice(",
    b"sort(",
    b"hydra.run.dir=/tmp/x",
    b"model=",
    b"hardware=",
    b"planner=",
    b"\n",
    b"null",
    b"nan",
    b"1e999",
    b"\xff",
    b"\x00",
    b"goal.",
    b"--",
    b"a" * 300,
    b"interval(0,1)",
    b"hydra/launcher=x",
)
GGUF = (
    b"GGUF",
    b"general.architecture",
    b"general.alignment",
    b"llama.block_count",
    b"tokenizer.ggml.tokens",
    b"tokenizer.ggml.scores",
    *(struct.pack("<I", n) for n in range(13)),
    struct.pack("<Q", 1 << 62),
    struct.pack("<Q", 2),
    b"\xff" * 8,
    b"\0" * 8,
)

HEADERS = (
    b"host: ",
    b"origin: ",
    b"cookie: ",
    b"127.0.0.1",
    b"[::1]",
    b"localhost",
    b"evil.example",
    b"http://",
    b"null",
    b"[",
    b"]",
    b"@",
    b":",
    b"//",
    b"\\",
    b"?token=",
    b"a-long-word",
    b"sintra-8080=",
    b"%0d%0a",
    b"\r\n",
    b"\xff",
    b"\xd9\xa1",
    b";" * 9,
    b"9" * 5000,
)


def overrides() -> list[bytes]:
    lines = [
        "hardware=jetson_nano",
        "model=fable",
        "goal.max_kld=0.02",
        "planner.types=[Q8_0,Q4_K_M]",
        "model=owner/name@main",
        "hardware=./mine.yaml",
        "seed=range(1,4)",
        "goal.max_kld=0.01,0.05",
        "hardware=glob(jet*)",
        "probe=quick",
        "texts.second=null",
        "planner.base_url='http://127.0.0.1:1/v1'",
        "store.path=cache",
        "planner.replay=x.json",
    ]
    return ["\n".join(lines[i : i + 3]).encode() for i in range(len(lines) - 2)]


def recipes() -> list[bytes]:
    recipe = {
        "type": "Q4_K_M",
        "importance": True,
        "drop": [3],
        "tensors": [["blk\\.0\\..*", "Q8_0"], [".*", "Q4_K"]],
        "rounding": "compensated",
        "kv": "f16",
    }
    given = {
        "round": 1,
        "stop": None,
        "proposals": [{"recipe": recipe, "why": "x", "author": "y", "level": "search"}],
    }
    return [
        f"# a study\nrecipes:\n- {json.dumps(recipe)}\n".encode(),
        json.dumps([given]).encode(),
        json.dumps({"candidates": [{"recipe": recipe}]}).encode(),
        b"recipes:\n- type: Q8_0\n  drop: [1, 2]\n",
    ]


@cache
def gguf() -> list[bytes]:
    import tempfile

    import numpy as np
    from gguf import GGUFWriter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_block_count(1)
        writer.add_embedding_length(32)
        writer.add_head_count(2)
        writer.add_context_length(64)
        writer.add_token_list(["a", "b", "c"])
        writer.add_token_scores([0.0, 1.0, 2.0])
        writer.add_token_types([1, 1, 1])
        writer.add_tensor("token_embd.weight", np.zeros((3, 32), np.float32))
        writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return [path.read_bytes()]


def replies() -> list[bytes]:
    edit = {
        "action": "pin",
        "tensors": "ffn_down",
        "first": 0,
        "last": 3,
        "value": "Q4_K",
        "reason": "x",
        "confidence": 0.5,
    }
    whole = json.dumps(
        {"edits": [edit, edit | {"action": "drop", "first": 1, "last": 1}], "stop": ""}
    )
    return [
        whole.encode(),
        f"<think>so</think> Here it is:\n```json\n{whole}\n```\n".encode(),
        b'{"edits": [], "stop": "enough"}',
    ]


def entries() -> list[bytes]:
    from sintra.store.entries import format_entry

    key, blob = "a" * 64, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    files = [
        {"path": p, "size": 5, "sha256": blob}
        for p in ("model.gguf", "model/config.json", "a/b.txt")
    ]
    whole = {"key": key, "step": "s:x", "stage": "s", "action": {"params": {}}, "files": files}
    failure = {"key": key, "failure": {"kind": "refused", "message": "no", "log": ""}}
    return [
        format_entry(whole).encode(),
        json.dumps(whole).encode(),
        json.dumps(failure).encode(),
        format_entry(failure).encode(),
    ]


ACTION = {"stage": "s", "version": 1, "params": {}, "inputs": {}, "tools": {}}


def pulled() -> list[bytes]:
    from sintra.core.canonical import canonical, sha256

    key = sha256(canonical(ACTION))
    files = [
        {"path": p, "size": 5, "sha256": "2cf2" * 16} for p in ("model.gguf", "model/config.json")
    ]
    about = {
        "key": key,
        "action": ACTION,
        "stage": "s",
        "step": "s:x",
        "wall_s": 1.5,
        "made": "2026-11-25T00:00:00Z",
    }
    failure = {"kind": "refused", "message": "no", "log": ""}
    return [canonical(about | more).encode() for more in ({"files": files}, {"failure": failure})]


def listed() -> list[bytes]:
    key = b"ab" + b"0" * 62
    return [key + b".json\n" + key[:-1] + b"g.json", b"..\n.x\n" + key + b".json.tmp"]


def profiles() -> list[bytes]:
    names = ("laptop", "jetson_nano", "raspberry_pi_5", "rtx_3060")
    return [(ROOT / "conf" / "hardware" / f"{n}.yaml").read_bytes() for n in names]


def tasks() -> list[bytes]:
    own = (
        b"kind: choice\ndata: rows.jsonl\nprompt: '{{story}} Question: {{question}}'\nchoices: "
        b"options\nanswer: right\n"
    )
    native = (
        b"task: x\ndataset_path: json\ndataset_kwargs:\n  data_files: "
        b"{test: rows.jsonl}\ntest_split: test\noutput_type: generate_until\n"
        b"doc_to_text: '{{question}}'\ndoc_to_target: right\nmetric_list:\n- metric: exact_match\n"
        b"filter_list:\n- name: a\n  filter:\n  - function: regex\n    regex_pattern: '(a)'\n"
    )
    return [
        own,
        native,
        (ROOT / "models" / "tasks" / "fable.yaml").read_bytes(),
        b'{"story": "a", "question": "b", "options": ["c", "d"], "right": "c"}\n',
    ]


def safetensors() -> list[bytes]:
    half, single = {"dtype": "F16", "shape": [2, 3]}, {"dtype": "F32", "shape": [1]}
    tensors = {
        "a.weight": half | {"data_offsets": [0, 12]},
        "b": single | {"data_offsets": [12, 16]},
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    return [struct.pack("<Q", len(header)) + header + bytes(16)]


def folders() -> list[bytes]:
    index = {"weight_map": {"a": "model.safetensors", "b": "../x.safetensors"}}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4,
        "auto_map": {"AutoConfig": "own.Config"},
        "weight_map": {"a": "model.safetensors"},
    }
    return [json.dumps(index).encode(), json.dumps(config).encode()]


def locks() -> list[bytes]:
    """Locks of environments."""
    return [b'{"torch": "2.13.0+cpu", "gptqmodel": "7.6.0"}', b'{"a-b": "1!2.0rc1.post2.dev3"}']


def rounds() -> list[bytes]:
    from sintra.core.canonical import sealed

    recipe = {
        "type": "Q4_K_M",
        "importance": True,
        "drop": [],
        "tensors": [],
        "rounding": "compensated",
        "kv": "f16",
    }
    proposal = {
        "recipe": recipe,
        "why": "x",
        "author": "y",
        "level": "search",
        "predicted": {"kld_mean": 0.1},
        "confidence": None,
    }
    text = json.dumps({"round": 1, "stop": None, "proposals": [proposal]}, indent=1)
    return [sealed(text).encode(), text.encode()]


def requests() -> list[bytes]:
    own = (
        b"host: 127.0.0.1:8080\norigin: http://127.0.0.1:8080\ncookie: a=b; sintra-8080=a-long-word"
    )
    return [
        b"/study/x?y=z\n" + own,
        b"/?token=a-long-word\nhost: [::1]:8080",
        b"/\nhost: localhost:8080\norigin: http://evil.example",
    ]


def answers() -> list[bytes]:
    progress = {"t": 1.5, "phase": "load", "rss": 1 << 20, "celsius": 50.5, "mhz": None}
    runtime = {"kind": "llama-cpp-python", "version": "1", "path": ""}
    texts = {"board": "", "cpu": "x", "architecture": "aarch64", "mode": "", "runtime": runtime}
    machine = texts | {"cores": 4, "memory": 1 << 30, "limit": None}
    run = {
        **{"phase": "load", "rss": 1, "peak": 1, "system": 0, "celsius": None, "mhz": None},
        **{"throttled": [], "swapped": 0, "oom_kills": 0, "seconds": 1.5, "code": 0},
        **{"late": False, "log": "", "rows": [{"metric": "pp_tps", "rates": [1.5]}]},
    }
    rows = (progress, {"say": "waits"}, {"end": machine}, {"end": run})
    return ["\n".join(map(json.dumps, rows)).encode()]


def templates() -> list[bytes]:
    row = b'\n{"story": "a", "options": ["c", "d"], "n": 3}'
    return [
        b"{{story}} Question: {{options[0]}}" + row,
        b"{% for o in options %}{{ loop.index }}: {{ o | upper }}{% endfor %}" + row,
        b"story" + row,
    ]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chats() -> list[bytes]:
    """Chat templates, most of which are put apart."""
    texts = (
        CHATML,
        "{{ bos_token }}" + CHATML,
        "{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}" + CHATML,
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{{ eos_token }}{% elif m.content %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{% break %}{% endif %}{% endfor %}",
        "{% macro turn(m) %}{{ m.role | upper }}: {{ m['content'] | trim }}\n{% endmacro %}"
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ turn(m) }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    )
    return [text.encode() for text in texts]


def configs() -> list[bytes]:
    """A sound config.json."""
    return [json.dumps(odd.SOUND).encode()]


JINJA = (
    *(b"{{", b"}}", b"{%", b"%}", b"{#", b"#}", b"-%}", b"{%-", b"messages", b"content"),
    *(b"loop.first", b"range(99999)", b"{% for i in range(99999) %}", b"{% endfor %}"),
    *(b"{% if true %}", b"{% endif %}", b"| tojson", b"| safe", b"bos_token", b"eos_token"),
    *(b"'a' * 99999999", b".__class__", b"{% break %}", b"{% continue %}", b"{% generation %}"),
    *(b"{% endgeneration %}", b"strftime_now('%c')", b"{% include 'x' %}", b"{{ 1 / 0 }}"),
    *(b"{% import 'x' as y %}", b"{% extends 'x' %}", b"\x1b[2J", b"\xe2\x80\xa8", b"\xff"),
)
