"""MLflow: a study is a run, and a winner that met its goal a version of a registered model.

Params are what was asked for; each measured variant is a step of the metrics; `winner/...` are the
winner's. Only the tracking, artifact and registry clients of mlflow-skinny are used
(https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html).
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict
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
)  # of outputs/<study>, logged as artifacts
PACKAGES = ("mlflow", "sqlalchemy", "alembic", "sqlparse")  # of the extra
BATCH = 100  # MLflow takes 100 params in one request
LONGEST = 500  # characters of a param that every store takes
# What is printed is a complaint to the user, and mlflow's own telemetry is nobody's wish.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
RUN_STATUS = {"met": "FINISHED", "unmet": "FINISHED", "failed": "FAILED"}  # kind of event -> status


class MlflowOptions(TypedDict):
    """The options mlflow.* of a study."""

    uri: str  # of the tracking server; "" for MLFLOW_TRACKING_URI, else SQLite in outputs/mlflow
    experiment: str  # its name
    register: bool  # whether winners go into the registry


def check_mlflow(options: Mapping[str, Any]) -> None:
    """Check that the packages are installed and the address has no password. Raises UserError."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"listeners has 'mlflow', and {missing[0]} isn't installed: pip install "
            "'sintra[mlflow]'"
        )
    if "@" in urlsplit(options["mlflow"]["uri"]).netloc:
        raise UserError(
            "mlflow.uri holds a password: use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def flatten_options(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested options as dotted names with texts."""
    for key, value in options.items():
        if isinstance(value, dict):
            yield from flatten_options(value, f"{prefix}{key}.")
        elif value not in (None, "", []):
            yield prefix + re.sub(r"[^\w./ -]", "_", key), str(value)[:LONGEST]


def metric_name(name: str) -> str:
    """Write a metric's name as every MLflow store takes it."""
    return re.sub(r"[^\w./ -]", ".", name)


class MlflowListener:
    """The runs of this process's studies in MLflow."""

    def __init__(self, setting: Setting) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # an optional package, which reads QUIET

        self.setting = setting
        self.options: MlflowOptions = setting.options["mlflow"]
        uri = self.options["uri"] or os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = None
        if not uri:
            folder = setting.root / "outputs" / "mlflow"
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder / 'mlflow.db'}"
            artifacts = (folder / "artifacts").as_uri()
        self.client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.experiment = self.experiment_id(artifacts)
        self.runs: dict[str, str] = {}  # study -> id of its open run
        self.steps: dict[str, int] = {}  # study -> variants so far

    def experiment_id(self, artifacts: str | None) -> str:
        """Return the experiment's id; create it where there is none.

        artifacts: address of its artifacts, None for the server's own choice.
        """
        name = self.options["experiment"]
        if experiment := self.client.get_experiment_by_name(name):
            return str(experiment.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def hear(self, event: Event) -> None:
        """Write an event into the study's run."""
        if event.study not in self.runs:
            self.open_run(event)
        run, at = self.runs[event.study], int(event.at * 1000)
        if event.kind == "round":
            self.client.set_tag(run, "sintra.rounds", str(event.data["number"]))
        elif event.kind == "candidate":
            self.log_candidate(event.study, event.data, at)
        elif event.kind in RUN_STATUS:
            self.end_run(event, run, at)

    def open_run(self, event: Event) -> None:
        """Open the study's run: the one that an earlier process has begun, else a new one."""
        query = f"tags.`sintra.study` = '{event.study}'"
        runs = self.client.search_runs([self.experiment], query, max_results=1)
        if runs:
            run = runs[0].info.run_id
            self.client.update_run(run, status="RUNNING")
        else:
            run = self.create_run(event)
        self.runs[event.study] = run
        self.steps[event.study] = len(self.client.get_metric_history(run, "round"))

    def create_run(self, event: Event) -> str:
        """Create a study's run with its params, and return its id."""
        tags = {
            "mlflow.runName": event.study,
            "sintra.study": event.study,
            "sintra.version": __version__,
        }
        run = self.client.create_run(self.experiment, start_time=int(event.at * 1000), tags=tags)
        self.log_params(run.info.run_id, event.data)
        return str(run.info.run_id)

    def log_params(self, run: str, data: Mapping[str, Any]) -> None:
        """Log what was asked for as params."""
        from mlflow.entities import Param  # an optional package

        params = [Param(name, value) for name, value in flatten_options(data)]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(run, params=params[start : start + BATCH])

    def log_candidate(self, study: str, row: Mapping[str, Any], at: int) -> None:
        """Log a measured variant as the next step of every metric. at: ms since the epoch."""
        self.steps[study] += 1
        numbers = {m["metric"]: m["value"] for m in row["measurements"]}
        numbers["round"] = row["measured_in"]
        self.log_metrics(self.runs[study], numbers, at, self.steps[study])

    def log_metrics(self, run: str, numbers: Mapping[str, float], at: int, step: int) -> None:
        """Log the numbers of one step. at: ms since the epoch."""
        from mlflow.entities import Metric  # an optional package

        metrics = [Metric(metric_name(k), float(v), at, step) for k, v in numbers.items()]
        self.client.log_batch(run, metrics=metrics)

    def end_run(self, event: Event, run: str, at: int) -> None:
        """Log winner and files, register the model, and end the run. at: ms since the epoch."""
        self.client.set_tag(run, "sintra.status", event.data.get("status", event.kind))
        if event.data.get("reason"):
            self.client.set_tag(run, "sintra.reason", str(event.data["reason"])[:LONGEST])
        if winner := event.data.get("winner"):
            numbers = {f"winner/{m['metric']}": m["value"] for m in winner["measurements"]}
            self.log_metrics(run, numbers, at, self.steps[event.study])
            self.client.set_tag(run, "sintra.winner", winner["name"])
        if event.kind != "failed":
            folder = self.setting.folder(event.study)
            for path in (folder / name for name in FILES):
                if path.is_file():
                    self.client.log_artifact(run, str(path))
            if event.kind == "met" and self.options["register"]:
                self.register_model(event, run, folder)
        self.client.set_terminated(run, RUN_STATUS[event.kind], at)
        del self.runs[event.study]

    def register_model(self, event: Event, run: str, folder: Path) -> None:
        """Log the winner's file, and register it as a version of the model for its device.

        The version gets the alias champion.
        """
        from mlflow.exceptions import MlflowException  # an optional package

        winner, name = event.data["winner"], f"{event.data['model']}-{event.data['hardware']}"
        model = folder / winner["artifact"]["path"]
        log = self.client.log_artifacts if model.is_dir() else self.client.log_artifact
        log(run, str(model), "model")
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
        version = self.client.create_model_version(
            name, f"runs:/{run}/model", run_id=run, tags=tags, await_creation_for=0
        )
        self.client.set_registered_model_alias(name, "champion", version.version)

    def close(self) -> None:
        """Mark runs without an end as killed."""
        for run in self.runs.values():
            self.client.set_terminated(run, "KILLED")


LISTENER = Listener("mlflow", MlflowListener, check_mlflow)
