"""Docker and Kubernetes exports of a real winner, checked by the tools of their worlds, and their
scripts run as they stand.
"""

import dataclasses
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from sintra.core.errors import UserError
from sintra.integrations.exports import docker, k8s
from sintra.integrations.exports.handover import open_delivered
from sintra.integrations.exports.server import MIB, RELEASES, server_memory, server_spec
from sintra.store.store import Store

HADOLINT = Path(sys.executable).parent / "hadolint"
SERVER = """
import json, sys, urllib.request
from pathlib import Path
import xllamacpp
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
p = xllamacpp.CommonParams()
p.model.path = flags["--model"]
p.n_ctx, p.n_parallel = int(flags["--ctx-size"]), int(flags["--parallel"])
p.cpuparams.n_threads, p.hostnames, p.port = 1, ["127.0.0.1"], 0
p.cache_ram_mib, p.n_ctx_checkpoints = int(flags["--cache-ram"]), int(flags["--ctx-checkpoints"])
server = xllamacpp.Server(p)
messages = [{"role": "user", "content": "Nora had two plums. " * 8}]
body = json.dumps({"messages": messages, "max_tokens": 40}).encode()
url = server.listening_address + "/v1/chat/completions"
request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
for _ in range(3):
    answer = json.loads(urllib.request.urlopen(request).read())
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
said = answer["choices"][0]["message"]["content"]
print(json.dumps({"said": said, "peak": int(peak) * 1024}), flush=True)
"""


@pytest.fixture(scope="module")
def store(finished):
    return Store(finished.root / "cache")


@pytest.fixture(scope="module")
def folder(finished):
    return (finished.root / "outputs" / "latest").resolve()


@pytest.fixture(scope="module")
def winner(folder, store):
    return open_delivered(folder, store, "the test")


@pytest.fixture(scope="module")
def image(folder, store):
    docker.export(folder, store)
    return folder / "docker"


@pytest.fixture(scope="module")
def objects(folder, store):
    k8s.export(folder, store, url="http://127.0.0.1:9/model.gguf")
    return {p.stem: yaml.safe_load(p.read_text()) for p in (folder / "k8s").glob("*.yaml")}


def changed(winner, **device):
    """The same winner for another device."""
    result = winner.result | {"device": winner.result["device"] | device}
    return dataclasses.replace(winner, result=result)


def lint(path):
    return subprocess.run(
        [HADOLINT, "--no-color", path], capture_output=True, text=True, check=False
    )


def test_dockerfile_passes_hadolint_and_hadolint_can_fail(image, tmp_path):
    clean = lint(image / "Dockerfile")
    assert (clean.returncode, clean.stdout) == (0, ""), clean.stdout
    (tmp_path / "Dockerfile").write_text(
        (image / "Dockerfile").read_text().replace("server-v", "server-latest\nFROM x:latest\n# ")
    )
    assert lint(tmp_path / "Dockerfile").returncode != 0


def test_image_is_of_the_release_that_measured(image, winner):
    import llama_cpp

    library = next((Path(llama_cpp.__file__).parent / "lib").glob("libllama.so.*.*.*"))
    release = RELEASES[llama_cpp.__version__]
    assert library.name == f"libllama.so.{release.removeprefix('v')}"
    text = (image / "Dockerfile").read_text()
    assert f"ARG LLAMA_CPP=ghcr.io/ggml-org/llama.cpp:server-{release}\n" in text
    assert re.search(r"^USER 65532:65532$", text, re.M)
    assert "HEALTHCHECK" in text
    assert (image / ".dockerignore").read_text() == "*\n!model.gguf\n"


def test_the_build_step_refuses_another_model(image, tmp_path):
    text = (image / "Dockerfile").read_text()
    digest = re.search(r"^ARG MODEL_SHA256=(\w+)$", text, re.M)[1]
    step = re.search(r"^RUN (.+)$", text, re.M)[1].replace(
        "/models/model.gguf", str(tmp_path / "model.gguf")
    )
    shutil.copyfile(image / "model.gguf", tmp_path / "model.gguf")
    run = functools.partial(
        subprocess.run,
        ["bash", "-o", "pipefail", "-c", step],
        env={**os.environ, "MODEL_SHA256": digest},
    )
    assert run(capture_output=True).returncode == 0
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(99))
    assert run(capture_output=True).returncode != 0


def test_compose_is_confined_and_has_the_measured_memory(image, winner):
    text = (image / "compose.yaml").read_text()
    PyCompose.from_yaml(text)
    with pytest.raises(ValueError, match="read_onl"):
        PyCompose.from_yaml(text.replace("read_only:", "read_onl:"))
    service = yaml.safe_load(text)["services"]["model"]
    assert service["platform"] == "linux/arm64"
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    measured = winner.measurements["ram_peak_bytes"].value
    reserved, limit = (
        int(service[k].removesuffix("m")) * MIB for k in ("mem_reservation", "mem_limit")
    )
    assert measured <= reserved < limit < 4 * measured


def test_the_server_itself_stays_below_the_limit(image, winner):
    """llama.cpp's server with the Dockerfile's arguments; it's a library of xllamacpp here, so its
    peak has a Python in it.
    """
    words = json.loads(re.search(r"^CMD (\[.+\])$", (image / "Dockerfile").read_text(), re.M)[1])
    words[words.index("--model") + 1] = str(image / "model.gguf")
    done = subprocess.run(
        [sys.executable, "-c", SERVER, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["said"].strip()
    assert said["peak"] < server_memory(winner, "").limit


def test_other_devices(winner):
    card = server_spec(changed(winner, backend="cuda", isa="x86_64 avx2"))
    assert (card.image.split(":")[1], card.architecture) == ("server-cuda-v0.5.0", "amd64")
    assert card.arguments("m")[-2:] == ["--n-gpu-layers", "999"]
    assert "nvidia" in PyCompose.from_yaml(json.dumps(docker.compose_file(winner, card))).to_yaml()
    deck = server_spec(changed(winner, backend="vulkan", isa="x86_64 avx2"))
    assert (
        "/dev/dri" in PyCompose.from_yaml(json.dumps(docker.compose_file(winner, deck))).to_yaml()
    )
    mac = server_spec(changed(winner, backend="metal", isa="arm64 i8mm"))
    assert mac.image.split(":")[1] == "server-v0.5.0"
    with pytest.raises(UserError, match="runs no containers"):
        server_spec(changed(winner, title="Snapdragon 8 Gen 3 phone 12 GB"))
    with pytest.raises(UserError, match=r"no image of llama.cpp for 'riscv64'"):
        server_spec(changed(winner, isa="riscv64"))
    recipe = winner.result["winner"]["recipe"] | {"kv": "q8_0"}
    small = dataclasses.replace(
        winner, result=winner.result | {"winner": winner.result["winner"] | {"recipe": recipe}}
    )
    assert " ".join(server_spec(small).arguments("m")).endswith(
        "--cache-type-k q8_0 --cache-type-v q8_0 --flash-attn on"
    )


def test_a_server_has_the_context_that_memory_was_measured_at(winner):
    """The model's own 512 tokens, whatever the windows of the texts were."""
    assert (winner.context, winner.window) == (512, 128)
    assert "--ctx-size 512" in " ".join(server_spec(winner).arguments("m"))
    assert "context 512" in winner.measurements["ram_peak_bytes"].protocol
    before = {k: v for k, v in winner.result.items() if k != "window"} | {"context": 256}
    assert dataclasses.replace(winner, result=before).window == 256


def test_a_larger_context_costs_memory_by_the_formula(winner):
    assert server_memory(winner, "").kv_extra_bytes == 0
    # keys and values, float16: 2 x 2 bytes x 4 blocks x 2 heads x 64 for each of 384 more tokens
    short = dataclasses.replace(winner, result=winner.result | {"context": 128})
    assert server_memory(short, "512").kv_extra_bytes == 2 * 2 * 4 * 2 * 64 * (512 - 128)
    for wrong in ("0", "many", "513"):
        with pytest.raises(UserError, match="not a number of tokens up to the 512"):
            server_memory(winner, wrong)
    bare = [m for m in winner.result["winner"]["measurements"] if m["metric"] != "ram_peak_bytes"]
    unmeasured = winner.result | {"winner": winner.result["winner"] | {"measurements": bare}}
    with pytest.raises(UserError, match="was not measured"):
        server_memory(dataclasses.replace(winner, result=unmeasured), "")


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_objects_hold_by_kubernetes_own_schemas(objects, version):
    for made in (o for o in objects.values() if o["kind"] != "Kustomization"):
        kubernetes_validate.validate(made, version, strict=True)
    wrong = json.loads(json.dumps(objects["deployment"]))
    wrong["spec"]["replicas"] = "one"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_objects_fit_one_another(objects, winner):
    assert objects["kustomization"]["resources"] == [
        "configmap.yaml",
        "persistentvolumeclaim.yaml",
        "deployment.yaml",
        "service.yaml",
    ]
    pod = objects["deployment"]["spec"]["template"]
    assert objects["service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (
        objects["deployment"]["spec"]["selector"]["matchLabels"].items()
        <= pod["metadata"]["labels"].items()
    )
    spec = pod["spec"]
    assert (
        spec["volumes"][0]["persistentVolumeClaim"]["claimName"]
        == objects["persistentvolumeclaim"]["metadata"]["name"]
    )
    assert (
        spec["initContainers"][0]["envFrom"][0]["configMapRef"]["name"]
        == objects["configmap"]["metadata"]["name"]
    )
    assert objects["configmap"]["data"]["MODEL_SHA256"] == winner.digest
    assert spec["nodeSelector"]["kubernetes.io/arch"] == "arm64"
    server, room = spec["containers"][0], server_memory(winner, "")
    assert server["resources"]["requests"]["memory"] == f"{room.request // MIB}Mi"
    assert server["resources"]["limits"] == {"memory": f"{room.limit // MIB}Mi"}
    assert {
        p: server[p]["httpGet"]["path"] for p in server if p.endswith("Probe")
    } == dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), "/health")
    assert server["args"] == server_spec(winner).arguments("/models/model.gguf")


@pytest.fixture
def web(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    found = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/model.gguf"
    found.shutdown()


def load(objects, models, **env):
    """The init container's own command."""
    command = objects["deployment"]["spec"]["template"]["spec"]["initContainers"][0]["command"]
    return subprocess.Popen(
        command,
        env={**os.environ, "MODELS": str(models), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl isn't here; the image has it")
def test_the_init_container_downloads_and_checks(objects, winner, web, tmp_path):
    good = load(objects, tmp_path, MODEL_URL=web, MODEL_SHA256=winner.digest)
    assert good.wait(60) == 0, good.stderr.read()
    assert hashlib.sha256((tmp_path / "model.gguf").read_bytes()).hexdigest() == winner.digest
    again = load(objects, tmp_path, MODEL_URL="http://127.0.0.1:9/", MODEL_SHA256=winner.digest)
    assert again.wait(60) == 0, "a model that is there isn't fetched again"
    (tmp_path / "model.gguf").unlink()
    wrong = load(objects, tmp_path, MODEL_URL=web, MODEL_SHA256="0" * 64)
    assert wrong.wait(60) == 1
    assert "another SHA-256" in wrong.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_the_init_container_waits_for_a_copy(objects, winner, tmp_path):
    waiting = load(objects, tmp_path, MODEL_URL="", MODEL_SHA256=winner.digest)
    assert "waiting for" in waiting.stdout.readline()
    (tmp_path / "model.gguf").write_bytes(
        winner.gguf.read_bytes()[:-1]
    )  # a copy that isn't whole yet
    time.sleep(0.1)
    assert waiting.poll() is None
    shutil.copyfile(winner.gguf, tmp_path / "model.gguf")
    assert waiting.wait(60) == 0


def test_mistakes_are_one_line(finished, folder, store):
    done = finished.doit("export_k8s", "imag=x")
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (
        2,
        "sintra: `doit export_k8s` has no option 'imag': did you mean 'image'?",
    )
    done = finished.doit("export_docker", "--study", "gone")
    assert done.returncode == 2
    assert "outputs/gone holds no result" in done.stderr
    with pytest.raises(UserError, match="isn't http"):
        k8s.export(folder, store, url="ftp://x")
    with pytest.raises(UserError, match="no DNS label"):
        k8s.export(folder, store, name="My Model")
    assert "export_k8s" in finished.doit("list").stdout
