"""Every command of `doit` beside doit's own, in one table, and its tasks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from doit.task import Task

from sintra.build.run_state import Run
from sintra.cli.actions import function_task
from sintra.cli.command import Command, CommandInputs, Option
from sintra.cli.commands import exports
from sintra.study.workspace import Workspace

FORMAT = Option("format", "text", "text or json")

COMMANDS = (
    Command(
        "optimize",
        "Find the best variant of a model for a device (the main job)",
        "Build and measure variants until the goal holds: doit optimize hardware=NAME model=NAME "
        "goal.max_kld=0.02",
        "main",
        options=(
            Option("all", False, "show every variant that was measured, probes too", "show_all"),
        ),
        opens="study",
    ),
    Command(
        "sweep",
        "Optimize each combination of models, devices and limits",
        "A study for each combination: doit sweep model=a,b hardware=x,y goal.max_kld=0.01,0.05",
        "main",
        opens="studies",
    ),
    Command(
        "compare",
        "Optimize several models for a device and recommend one",
        "Several models for one device, and which to take: doit compare model=a,b hardware=NAME",
        "main",
        opens="studies",
    ),
    Command(
        "plan",
        "Show what the next run would do, without doing it",
        "The dry run: every step of the next run, hit or build, with sizes and times where known; "
        "changes nothing",
        "study",
        "sintra.cli.commands.plan:print_plan",
        ("workspace",),
        (FORMAT,),
        opens="study",
    ),
    Command(
        "check-model",
        "Show what a model is, before anything is built",
        "What a model is: architecture, sizes, tokenizer, template, ends of turns, windows, what "
        "is left out, and whether its GGUF is the same model",
        "study",
        "sintra.cli.commands.model:check",
        ("workspace",),
        (FORMAT,),
        opens="study",
    ),
    Command(
        "why",
        "Show which part of a step's key has changed",
        "Which part of a step's key has changed: doit why quantize:fable-Q4_K_M hardware=...",
        "study",
        "sintra.cli.commands.plan:explain_steps",
        ("workspace",),
        words="steps",
        opens="study",
    ),
    Command(
        "history",
        "Show, export or delete the results of all studies",
        "Every result of every study: show, export as CSV or JSON, forget",
        "study",
        "sintra.cli.commands.history:show_history",
        ("store",),
        (
            Option("format", "text", "text, json or csv (the latter two for export)"),
            Option("forget", "", "delete a study's results and what they taught, or `all`"),
            Option("calibration", False, "how well predictions agreed with measurements"),
        ),
    ),
    Command(
        "verify",
        "Check the files of the cache against their digests",
        "Rehash what has changed in the cache, or all (--full); what is damaged goes into "
        "quarantine and is rebuilt",
        "cache",
        "sintra.cli.commands.cache:verify_cache",
        ("root", "store"),
        (Option("full", False, "read everything again, outputs/ and what no step names included"),),
    ),
    Command(
        "gc",
        "Delete what no study needs from the cache",
        "Delete what no study needs; --older 30d and --max-size 20G let studies go that outputs/ "
        "and pins don't hold",
        "cache",
        "sintra.cli.commands.cache:collect_garbage",
        ("root", "store"),
        (
            Option("dry-run", False, "only say what would go", "dry_run"),
            Option("older", "", "studies not run for so long go too: 12h, 30d, 8w"),
            Option("max-size", "", "until what stays is smaller: 500M, 20G, 4GiB", "max_size"),
            Option("pin", "", "keep this study whatever its age and size"),
            Option("unpin", "", "no longer"),
        ),
    ),
    Command(
        "du",
        "Show what the cache is full of",
        "What the cache is full of, by stage and by model, shared and not",
        "cache",
        "sintra.cli.commands.cache:show_usage",
        ("store",),
        (FORMAT,),
    ),
    Command(
        "push",
        "Give results of this cache to the shared store",
        "Give what this cache has made to the shared store: doit push "
        "store.remote=s3://bucket/prefix",
        "cache",
        "sintra.cli.commands.share:push",
        ("workspace",),
        opens="study",
    ),
    Command(
        "pull",
        "Take results from the shared store",
        "Take from the shared store what it has of a study, or all that it has (--all)",
        "cache",
        "sintra.cli.commands.share:pull",
        ("workspace",),
        (Option("all", False, "everything that the shared store has", "everything"),),
        opens="study",
    ),
    Command(
        "doctor",
        "Say what is installed, and what mends what is missing",
        "What is installed and what this machine has: each ok, or with the one command that mends "
        "it; --online asks the network too",
        "program",
        "sintra.cli.commands.doctor:examine",
        ("root", "overrides"),
        (
            Option("online", False, "ask the hub and pip's index whether they can be reached"),
            FORMAT,
        ),
    ),
    Command(
        "options",
        "Explain options: doit options WORD",
        "What an option means: type, range, default, example, what it changes: doit options kld",
        "program",
        "sintra.cli.commands.options:show_options",
        ("root",),
        (FORMAT,),
        words="words",
    ),
    Command(
        "plugins",
        "List what is installed, and what can't be loaded",
        "Every stage, probe, planner, export, listener and device that is installed, and why one "
        "can't be loaded",
        "program",
        "sintra.cli.commands.plugins:show_plugins",
        (),
        (FORMAT,),
    ),
    Command(
        "mcp",
        "Serve this project to an assistant (extra: mcp)",
        "This project for an assistant, over the Model Context Protocol on stdin and stdout: "
        "read-only without --write (extra: mcp)",
        "program",
        "sintra.cli.commands.assistant:serve_assistant",
        ("root",),
        (Option("write", False, "with tools that start and stop studies"),),
    ),
    Command(
        "telemetry",
        "Show or change what is sent (off by default)",
        "Counts of ended studies, off until you turn it on: --on, --off, --show prints exactly "
        "what would be sent",
        "program",
        "sintra.integrations.listeners.telemetry:command",
        ("root",),
        (
            Option("on", False, "turn it on"),
            Option("off", False, "turn it off; what waits is dropped"),
            Option("show", False, "print exactly what would be sent"),
            Option("endpoint", "", "where it goes, with --on"),
        ),
    ),
    Command(
        "rollback",
        "Go back to the last good result",
        "Point outputs/latest to the last good result before the present one; it is validated "
        "first",
        "result",
        "sintra.results.latest:rollback",
        ("root", "store"),
    ),
    Command(
        "validate",
        "Check that a result is sound, loads and answers",
        "Whether a result is sound: its files have their SHA-256, its model loads and answers: "
        "doit validate STUDY",
        "result",
        "sintra.results.validation:print_findings",
        ("root", "store"),
        words="studies",
    ),
    Command(
        "reproduce",
        "Make a result again from nothing and compare it",
        "A result made again in an empty cache: the same bytes, or a KLD within its error: doit "
        "reproduce STUDY",
        "result",
        "sintra.results.reproduction:print_reproductions",
        ("root", "store"),
        words="studies",
    ),
    Command(
        "ab",
        "Compare answers of the original and the result",
        "The same prompts through the original and the winner, side by side: doit ab prompt='Once "
        "upon a time'",
        "page",
        "sintra.cli.commands.pages:compare_answers",
        ("root", "overrides"),
    ),
    Command(
        "explain",
        "Say what any GGUF is, and compare several",
        "Any GGUF: its types by block and by kind, sizes, bits, metadata, template; with model= "
        "the quality loss of each beside stock presets: doit explain a.gguf b.gguf model=FOLDER",
        "result",
        "sintra.cli.commands.gguf_file:explain_files",
        ("root", "overrides"),
        (FORMAT,),
        words="files",
        study_help=True,
    ),
    Command(
        "surgery",
        "Draw the result tensor by tensor",
        "The latest winner as a picture, tensor by tensor, beside a stock preset: "
        "outputs/<study>/surgery.html",
        "page",
        "sintra.cli.commands.pages:draw_tensors",
        ("root", "overrides"),
    ),
    Command(
        "report",
        "Write the report of a study again",
        "The report of a study (the latest unless one is named) again, as one page: "
        "outputs/<study>/report.html",
        "page",
        "sintra.cli.commands.pages:write_report",
        ("root", "overrides"),
        words="studies",
    ),
    Command(
        "dashboard",
        "Watch studies in a browser on this machine",
        "A web page on this machine: studies as they run, plots, comparison, an A/B box (extra: "
        "dashboard)",
        "page",
        "sintra.results.dashboard.serve:serve",
        ("root",),
        (
            Option(
                "host",
                "127.0.0.1",
                "the address to listen on; the printed token is needed on every one",
            ),
            Option("port", 8080, "0: any free one"),
        ),
    ),
    Command(
        "estimate",
        "Estimate speed and memory without building anything",
        "Speed and memory of a model on a device, or on all of them (--devices), without building "
        "anything",
        "device",
        "sintra.cli.commands.devices:show",
        ("root", "overrides"),
        (
            Option(
                "devices", False, "one type on every device that there is a profile of", "every"
            ),
            Option("type", "Q4_K_M", "the type for --devices", "type_"),
            FORMAT,
        ),
        study_help=True,
    ),
    Command(
        "detect",
        "Detect this machine and write its profile",
        "What this machine is: cores, ISA, memory and limits, bandwidth, GPUs; writes a profile "
        "(--out mine.yaml)",
        "device",
        "sintra.cli.commands.devices:detect",
        ("root", "overrides"),
        (
            Option("out", "", "where the profile goes; without it, where hardware=auto looks"),
            Option(
                "quick",
                False,
                "don't measure the bandwidth of a machine that a profile of ours stands for",
            ),
            FORMAT,
        ),
    ),
    Command(
        "thermal",
        "Simulate heat and sustained speed",
        "Heat over time, simulated: temperature, clock and tokens/s, burst and sustained; --log "
        "fits a logged run",
        "device",
        "sintra.cli.commands.thermal:show",
        ("root", "overrides"),
        (
            Option("minutes", 15.0, "how long"),
            Option("type", "Q4_K_M", "the model's type", "kind"),
            Option("cooled", False, "with the cooler that the profile knows of"),
            Option("log", "", "a CSV of seconds, celsius, watts: fits R and C to it"),
            Option("plot", "", "a PNG of the three over time (needs the bench extra)"),
            FORMAT,
        ),
        study_help=True,
    ),
    Command(
        "calibrate",
        "Refine a profile by measurements",
        "Refine a profile by measurements: a CSV (--csv), or what was measured here; its interval "
        "shrinks",
        "device",
        "sintra.cli.commands.devices:calibrate",
        ("root", "overrides"),
        (
            Option("csv", "", "a CSV of read_bytes, weights, layers, tg_tps"),
            Option("out", "", "where the profile goes"),
        ),
    ),
    Command(
        "docs",
        "Write docs/reference from the code",
        "Make the reference pages in docs/reference from the code and conf; with --site the whole "
        "site, in site/",
        "development",
        "sintra.cli.commands.development:make_docs",
        ("root",),
        (Option("site", False, "build the site with MkDocs too"),),
    ),
    Command(
        "check",
        "Run format, lint, types and tests",
        "What must hold before a change lands: format, lint, types, tests",
        "development",
        "sintra.cli.commands.development:check_tree",
        ("root",),
    ),
    Command(
        "_next",
        "Show the latest result and the commands",
        "What came out last, and every command by group",
        "hidden",
        "sintra.cli.manual:print_next",
        ("root",),
    ),
)


def command_params(name: str) -> list[dict[str, object]]:
    """Return the options of a command of the table as doit's tasks declare them."""
    options = next(command.options for command in COMMANDS if command.name == name)
    return [option.as_param() for option in options]


def command_summary(name: str) -> str:
    """Return what a command of the table does, in a line of a list."""
    return next(command.summary for command in COMMANDS if command.name == name)


def is_clone(root: Path) -> bool:
    """Return whether a folder is a clone of Sintra, where the commands for contributors make
    sense.
    """
    return (root / "sintra" / "cli").is_dir()


@functools.cache
def all_commands() -> tuple[Command, ...]:
    """Return the commands of the table, then the exports as commands."""
    return COMMANDS + tuple(exports.export_command(name) for name in exports.command_names())


def command_tasks(
    root: Path, overrides: list[str], workspace: Workspace | None, run: Run
) -> Iterator[Task]:
    """Return the tasks of the commands that can be run; some need a study."""
    inputs = CommandInputs(root, overrides, workspace)
    for command in all_commands():
        if command.group == "development" and not is_clone(root):
            continue
        if command.function and (workspace or "workspace" not in command.inputs):
            yield command_task(command, inputs, run)


def command_task(command: Command, inputs: CommandInputs, run: Run) -> Task:
    """Return a command as a task that always runs."""
    return function_task(
        command.name,
        lambda **options: inputs.call(command, options),
        run,
        doc=command.summary,
        params=[option.as_param() for option in command.options],
        pos_arg=command.words or None,
    )
