"""Kubernetes: Deployment, Service, PersistentVolumeClaim and ConfigMap, put together by a
kustomization.yaml.

Requests and limits come from the memory that was measured; the model is checked by its SHA-256
before the server starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sintra.core.errors import UserError
from sintra.integrations.exports.handover import Handover, near, opened, render
from sintra.integrations.exports.server import MIB, PORT, USER, Serving, serving, slug, starting_s
from sintra.store.files import link_or_copy
from sintra.store.store import Store

PERIOD_S = 10
Manifest = dict[str, Any]


def export(
    folder: Path, store: Store, url: str = "", image: str = "", name: str = "", context: str = ""
) -> None:
    """Write <folder>/k8s.

    url: where an init container downloads model.gguf from; without it, it waits until somebody has
    copied the file there. image: another image that has llama-server (a mirror of the release's, by
    digest); name: of all objects; context: tokens.
    """
    if url and not url.startswith(("https://", "http://")):
        raise UserError(f"url={url} isn't http(s)://...")
    if name and name != slug(name):
        raise UserError(f"name={name} is no DNS label (RFC 1123): {slug(name)} would be one")
    given = opened(folder, store, "llama.cpp's server")
    how = serving(given, context)
    objects = manifests(given, how, name or how.name, image or how.image, url)
    out = given.fresh("k8s")
    for file, made in objects.items():
        (out / file).write_text(yaml.safe_dump(made, sort_keys=False))
    (out / "kustomization.yaml").write_text(
        yaml.safe_dump(kustomization(list(objects)), sort_keys=False)
    )
    link_or_copy(given.model, out / "model.gguf")
    (out / "README.md").write_text(
        render("k8s.md", given=given, how=how, url=url, name=name or how.name, mib=MIB, port=PORT)
    )
    given.warn()
    print(f"wrote {near(out)}; where a cluster is: kubectl apply -k {near(out)}")


def kustomization(files: list[str]) -> Manifest:
    """What `kubectl apply -k` reads."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": files,
    }


def manifests(
    given: Handover, how: Serving, name: str, image: str, url: str
) -> dict[str, Manifest]:
    """File -> object."""
    labels = {"app.kubernetes.io/name": name}
    all_labels = labels | {
        "app.kubernetes.io/version": given.digest[:12],
        "app.kubernetes.io/component": "llama-server",
    }
    disk = -(-(2 * given.size) // MIB) + 64  # while a new model arrives, the old one is still there

    def made(api: str, kind: str, more: Manifest) -> Manifest:
        return {
            "apiVersion": api,
            "kind": kind,
            "metadata": {"name": name, "labels": all_labels},
        } | more

    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": f"{disk}Mi"}}}
    port = {"name": "http", "port": PORT, "targetPort": "http"}
    return {
        "configmap.yaml": made(
            "v1", "ConfigMap", {"data": {"MODEL_URL": url, "MODEL_SHA256": given.digest}}
        ),
        "persistentvolumeclaim.yaml": made("v1", "PersistentVolumeClaim", {"spec": claim}),
        "deployment.yaml": made(
            "apps/v1",
            "Deployment",
            {"spec": deployment(given, how, name, image, labels, all_labels)},
        ),
        "service.yaml": made(
            "v1", "Service", {"spec": {"type": "ClusterIP", "selector": labels, "ports": [port]}}
        ),
    }


def deployment(
    given: Handover, how: Serving, name: str, image: str, labels: Manifest, all_labels: Manifest
) -> Manifest:
    """One pod on a node of the device's architecture. The claim is of one node, so a new pod comes
    when the old has gone.
    """
    security = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod = {
        "automountServiceAccountToken": False,
        "nodeSelector": {"kubernetes.io/arch": how.architecture, "kubernetes.io/os": "linux"},
        "securityContext": security,
        "initContainers": [loader(name, image)],
        "containers": [server(given, how, image)],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": name}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    peak, more = given.measured["ram_peak_bytes"], how.memory.more
    notes = {
        "sintra/study": given.result["study"],
        "sintra/sha256": given.digest,
        "sintra/memory": (
            f"{peak['value']:.0f} bytes measured ({peak['protocol']}), {more} estimated"
        ),
    }
    template = {"metadata": {"labels": all_labels, "annotations": notes}, "spec": pod}
    return {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels},
        "template": template,
    }


def loader(name: str, image: str) -> Manifest:
    """The init container: leaves once /models/model.gguf has the right SHA-256."""
    return {
        "name": "model",
        "image": image,
        "command": ["/bin/sh", "-c", render("load.sh")],
        "envFrom": [{"configMapRef": {"name": name}}],
        "env": [{"name": "MODELS", "value": "/models"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": confined(),
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    }


def server(given: Handover, how: Serving, image: str) -> Manifest:
    """llama-server. Half its cores are requested, so that it finds a node that has other things to
    do; nothing limits it.
    """
    health = {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": PERIOD_S,
        "timeoutSeconds": 5,
    }
    limits = {"memory": f"{how.memory.limit // MIB}Mi"} | (
        {"nvidia.com/gpu": "1"} if how.accelerator == "cuda" else {}
    )
    return {
        "name": "server",
        "image": image,
        "args": how.arguments("/models/model.gguf"),
        "env": [{"name": "HOME", "value": "/tmp"}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": health | {"failureThreshold": -(-starting_s(given.size) // PERIOD_S)},
        "readinessProbe": health | {"failureThreshold": 3},
        "livenessProbe": health | {"failureThreshold": 6},
        "resources": {
            "requests": {
                "cpu": f"{500 * how.threads}m",
                "memory": f"{how.memory.request // MIB}Mi",
            },
            "limits": limits,
        },
        "securityContext": confined(),
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def confined() -> Manifest:
    """No more rights than it needs (the "restricted" pod security standard)."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
