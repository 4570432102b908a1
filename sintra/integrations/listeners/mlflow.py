"""MLflow: a study is a run, and the winner of one that met its goal a version of a registered
model.

Params are what was asked for; each measured variant is a step of the metrics; `winner/...` are the
winner's. Only the tracking, artifact and registry clients of mlflow-skinny are used
(https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html).
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sintra import __version__
from sintra.core.errors import UserError
from sintra.core.events import Event, Listener, Setting

FILES = (
    "result.json",
    "recipe.yaml",
    "rounds.json",
    "manifest.json",
    "report.html",
    "ab.html",
    "surgery.html",
)
NEEDED = ("mlflow", "sqlalchemy", "alembic", "sqlparse")
BATCH = 100  # MLflow takes 100 params in one request
LONGEST = 500  # characters of a param that every store takes
# What is printed is a complaint to the user, and mlflow's own telemetry is nobody's wish.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
ENDED = {"met": "FINISHED", "unmet": "FINISHED", "failed": "FAILED"}


def check(options: dict[str, Any]) -> None:
    """Packages, and an address without a password."""
    if missing := [n for n in NEEDED if importlib.util.find_spec(n) is None]:
        raise UserError(
            f"listeners has 'mlflow', and {missing[0]} isn't installed: pip install "
            "'sintra[mlflow]'"
        )
    if "@" in urlsplit(options["mlflow"]["uri"]).netloc:
        raise UserError(
            "mlflow.uri holds a password: use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested options as dotted names with texts."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif value not in (None, "", []):
            yield prefix + re.sub(r"[^\w./ -]", "_", key), str(value)[:LONGEST]


def metric(name: str) -> str:
    """A metric's name as every MLflow store takes it."""
    return re.sub(r"[^\w./ -]", ".", name)


class Tracker:
    """The runs of this process's studies."""

    def __init__(self, setting: Setting) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.setting, self.options = setting, setting.options["mlflow"]
        place = setting.root / "outputs" / "mlflow"
        self.local = not (self.options["uri"] or os.environ.get("MLFLOW_TRACKING_URI"))
        if self.local:
            place.mkdir(parents=True, exist_ok=True)
        uri = (
            self.options["uri"]
            or os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{place / 'mlflow.db'}"
        )
        self.client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.experiment = self.find_experiment(
            (place / "artifacts").as_uri() if self.local else None
        )
        self.runs: dict[str, str] = {}
        self.steps: dict[str, int] = {}

    def find_experiment(self, artifacts: str | None) -> str:
        """The experiment's id, made where there is none."""
        name = self.options["experiment"]
        known = self.client.get_experiment_by_name(name)
        return str(
            known.experiment_id
            if known
            else self.client.create_experiment(name, artifact_location=artifacts)
        )

    def hear(self, event: Event) -> None:
        """One event into the study's run."""
        if event.study not in self.runs:
            self.begin(event)
        run, at = self.runs[event.study], int(event.at * 1000)
        if event.kind == "round":
            self.client.set_tag(run, "sintra.rounds", str(event.data["number"]))
        elif event.kind == "candidate":
            self.candidate(event.study, event.data, at)
        elif event.kind in ENDED:
            self.end(event, run, at)

    def begin(self, event: Event) -> None:
        """The study's run: its own, if an earlier process has begun one, else a new one."""
        wanted = f"tags.`sintra.study` = '{event.study}'"
        known = self.client.search_runs([self.experiment], wanted, max_results=1)
        if known:
            run = known[0].info.run_id
            self.client.update_run(run, status="RUNNING")
        else:
            tags = {
                "mlflow.runName": event.study,
                "sintra.study": event.study,
                "sintra.version": __version__,
            }
            run = self.client.create_run(
                self.experiment, start_time=int(event.at * 1000), tags=tags
            ).info.run_id
            self.params(run, event.data)
        self.runs[event.study] = run
        self.steps[event.study] = len(self.client.get_metric_history(run, "round"))

    def params(self, run: str, data: dict[str, Any]) -> None:
        """What was asked for."""
        from mlflow.entities import Param

        every = [Param(k, v) for k, v in flat(data)]
        for start in range(0, len(every), BATCH):
            self.client.log_batch(run, params=every[start : start + BATCH])

    def candidate(self, study: str, row: dict[str, Any], at: int) -> None:
        """A measured variant as the next step of every metric."""
        self.steps[study] += 1
        numbers = {m["metric"]: m["value"] for m in row["measurements"]} | {
            "round": row["measured_in"]
        }
        self.metrics(self.runs[study], numbers, at, self.steps[study])

    def metrics(self, run: str, numbers: dict[str, float], at: int, step: int) -> None:
        """Numbers of one step."""
        from mlflow.entities import Metric

        self.client.log_batch(
            run, metrics=[Metric(metric(k), float(v), at, step) for k, v in numbers.items()]
        )

    def end(self, event: Event, run: str, at: int) -> None:
        """Winner, files, registered model, status."""
        self.client.set_tag(run, "sintra.status", event.data.get("status", event.kind))
        if event.data.get("reason"):
            self.client.set_tag(run, "sintra.reason", str(event.data["reason"])[:LONGEST])
        winner, folder = event.data.get("winner"), self.setting.folder(event.study)
        if winner:
            numbers = {f"winner/{m['metric']}": m["value"] for m in winner["measurements"]}
            self.metrics(run, numbers, at, self.steps[event.study])
            self.client.set_tag(run, "sintra.winner", winner["name"])
        if event.kind != "failed":
            for path in (folder / name for name in FILES):
                if path.is_file():
                    self.client.log_artifact(run, str(path))
            if event.kind == "met" and self.options["register"]:
                self.register(event, run, folder)
        self.client.set_terminated(run, ENDED[event.kind], int(event.at * 1000))
        del self.runs[event.study]

    def register(self, event: Event, run: str, folder: Path) -> None:
        """The winner's file as an artifact, and as a version of the model for its device, called
        champion.
        """
        from mlflow.exceptions import MlflowException

        winner, name = event.data["winner"], f"{event.data['model']}-{event.data['hardware']}"
        model = folder / winner["artifact"]["path"]
        (self.client.log_artifacts if model.is_dir() else self.client.log_artifact)(
            run, str(model), "model"
        )
        try:
            self.client.create_registered_model(name, tags={"sintra.version": __version__})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {
            "sintra.study": event.study,
            "sintra.winner": winner["name"],
            "sha256": winner["artifact"]["sha256"],
        }
        made = self.client.create_model_version(
            name, f"runs:/{run}/model", run_id=run, tags=tags, await_creation_for=0
        )
        self.client.set_registered_model_alias(name, "champion", made.version)

    def close(self) -> None:
        """Runs that have no end were stopped."""
        for run in self.runs.values():
            self.client.set_terminated(run, "KILLED")


LISTENER = Listener("mlflow", Tracker, check)
