"""Kubernetes: Deployment, Service, PersistentVolumeClaim, ConfigMap and a kustomization.yaml.

Requests and limits come from the memory that was measured; the model is checked by its SHA-256
before the server starts.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from sintra.core.errors import UserError
from sintra.integrations.exports.handover import (
    DeliveredModel,
    open_delivered,
    relative_path,
)
from sintra.integrations.exports.server import (
    MIB,
    PORT,
    USER,
    ServerSpec,
    dns_label,
    print_server_note,
    server_spec,
    start_limit_s,
)
from sintra.integrations.exports.templating import render_template
from sintra.store.files import link_or_copy
from sintra.store.store import Store

PERIOD_S = 10  # seconds between two probes
Manifest = dict[str, object]  # an object of Kubernetes, or a part of one, as in its YAML
Labels = dict[str, str]


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
    if name and name != dns_label(name):
        raise UserError(f"name={name} is no DNS label (RFC 1123): {dns_label(name)} would be one")
    winner = open_delivered(folder, store, "llama.cpp's server")
    server = server_spec(winner, context)
    name = name or server.name
    objects = kubernetes_objects(winner, server, name, image or server.image, url)
    out = winner.empty_folder("k8s")
    for file, manifest in {**objects, "kustomization.yaml": kustomization(list(objects))}.items():
        (out / file).write_text(yaml.safe_dump(manifest, sort_keys=False))
    link_or_copy(winner.gguf, out / "model.gguf")
    readme = render_template(
        "k8s.md", winner=winner, server=server, url=url, name=name, mib=MIB, port=PORT
    )
    (out / "README.md").write_text(readme)
    winner.print_goal_note()
    print_server_note(winner)
    path = relative_path(out)
    print(f"wrote {path}; where a cluster is: kubectl apply -k {path}")


def kustomization(files: list[str]) -> Manifest:
    """Return the kustomization that `kubectl apply -k` reads."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": files,
    }


def kubernetes_objects(
    winner: DeliveredModel, server: ServerSpec, name: str, image: str, url: str
) -> dict[str, Manifest]:
    """Return every object by the name of its file."""
    selector = {"app.kubernetes.io/name": name}
    labels = selector | {
        "app.kubernetes.io/version": winner.digest[:12],
        "app.kubernetes.io/component": "llama-server",
    }

    def with_head(api: str, kind: str, content: Manifest) -> Manifest:
        head = {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": labels}}
        return {**head, **content}

    config: Labels = {"MODEL_URL": url, "MODEL_SHA256": winner.digest}
    port: Manifest = {"name": "http", "port": PORT, "targetPort": "http"}
    service: Manifest = {"type": "ClusterIP", "selector": selector, "ports": [port]}
    deployment = deployment_spec(winner, server, name, image, selector, labels)
    return {
        "configmap.yaml": with_head("v1", "ConfigMap", {"data": config}),
        "persistentvolumeclaim.yaml": with_head(
            "v1", "PersistentVolumeClaim", {"spec": claim_spec(winner)}
        ),
        "deployment.yaml": with_head("apps/v1", "Deployment", {"spec": deployment}),
        "service.yaml": with_head("v1", "Service", {"spec": service}),
    }


def claim_spec(winner: DeliveredModel) -> Manifest:
    """Return the claim of a volume with room for two models and 64 MiB.

    While a new model arrives, the old one is still there.
    """
    mebibytes = -(-(2 * winner.size) // MIB) + 64
    requests = {"storage": f"{mebibytes}Mi"}
    return {"accessModes": ["ReadWriteOnce"], "resources": {"requests": requests}}


def deployment_spec(
    winner: DeliveredModel,
    server: ServerSpec,
    name: str,
    image: str,
    selector: Labels,
    labels: Labels,
) -> Manifest:
    """Return the deployment of one pod on a node of the device's architecture.

    The claim belongs to one node, so a new pod starts when the old one has ended.
    """
    template: Manifest = {
        "metadata": {"labels": labels, "annotations": pod_annotations(winner, server)},
        "spec": pod_spec(winner, server, name, image),
    }
    return {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": selector},
        "template": template,
    }


def pod_annotations(winner: DeliveredModel, server: ServerSpec) -> Labels:
    """Return where the model and the figures of its memory come from."""
    peak, extra = winner.measurements["ram_peak_bytes"], server.memory.kv_extra_bytes
    memory = f"{peak.value:.0f} bytes measured ({peak.protocol}), {extra} estimated"
    return {
        "sintra/study": winner.study,
        "sintra/sha256": winner.digest,
        "sintra/memory": memory,
    }


def pod_spec(winner: DeliveredModel, server: ServerSpec, name: str, image: str) -> Manifest:
    """Return the pod: an init container that waits for the model, then the server."""
    security = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "automountServiceAccountToken": False,
        "nodeSelector": {"kubernetes.io/arch": server.architecture, "kubernetes.io/os": "linux"},
        "securityContext": security,
        "initContainers": [init_container(name, image)],
        "containers": [server_container(winner, server, image)],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": name}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def init_container(name: str, image: str) -> Manifest:
    """Return the container that ends once /models/model.gguf has the right SHA-256."""
    return {
        "name": "model",
        "image": image,
        "command": ["/bin/sh", "-c", render_template("load.sh")],
        "envFrom": [{"configMapRef": {"name": name}}],
        "env": [{"name": "MODELS", "value": "/models"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": restricted_security_context(),
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    }


def server_container(winner: DeliveredModel, server: ServerSpec, image: str) -> Manifest:
    """Return the container of llama-server.

    Half its cores are requested, so that a node with other work can take it; nothing limits them.
    """
    health: Manifest = {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": PERIOD_S,
        "timeoutSeconds": 5,
    }
    limits = {"memory": f"{server.memory.limit // MIB}Mi"}
    if server.accelerator == "cuda":
        limits["nvidia.com/gpu"] = "1"
    return {
        "name": "server",
        "image": image,
        "args": server.arguments("/models/model.gguf"),
        "env": [{"name": "HOME", "value": "/tmp"}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": health | {"failureThreshold": -(-start_limit_s(winner.size) // PERIOD_S)},
        "readinessProbe": health | {"failureThreshold": 3},
        "livenessProbe": health | {"failureThreshold": 6},
        "resources": {
            "requests": {
                "cpu": f"{500 * server.threads}m",
                "memory": f"{server.memory.request // MIB}Mi",
            },
            "limits": limits,
        },
        "securityContext": restricted_security_context(),
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def restricted_security_context() -> Manifest:
    """Return a container's rights by the "restricted" pod security standard."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
