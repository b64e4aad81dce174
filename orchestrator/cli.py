"""The command line: the only place that prints, and that turns errors into exit codes."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.exit_codes import ExitCode, InfrastructureError, InputError, Interrupted
from orchestrator.given_paths import NO_PATH, given_folder
from orchestrator.home import prepare_home
from orchestrator.redaction import redacted
from orchestrator.terminal import is_unicode, print_what_can_be_shown
from results.lock import LockError
from search_spaces.catalog import STUDIES
from search_spaces.space import Study

app = typer.Typer(
    name="orchestrator",
    help="Personalization studies of language models, run on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Prepare or make dialogues.", no_args_is_help=True)
app.add_typer(data_app, name="data")

out = Console()
err = Console(stderr=True)

StudyName = Annotated[str, typer.Option("--study", help=f"One of: {', '.join(STUDIES)}.")]
Place = Annotated[
    str,
    typer.Option("--workspace", help="Folder, or s3://BUCKET/FOLDER, that is read and written."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="synthetic, edgewise:FOLDER, jsonl:FILE, hub:NAME or a path."),
]
Model = Annotated[
    str | None, typer.Option("--model", help="embedded, a folder, or a hub id as owner/name.")
]
Users = Annotated[
    int | None, typer.Option("--users", help="The first N users by id; of synthetic data: make N.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse data of which one user has above 10 %.")
]
SkipBadRows = Annotated[
    int | None, typer.Option("--skip-bad-rows", help="Leave out up to N rows that are unusable.")
]
Searched = Annotated[
    str | None,
    typer.Option("--search", help="Choose settings on validation: grid, random, optuna."),
]
Samples = Annotated[
    int | None, typer.Option("--samples", help="Configs that a search tries for each arm (8).")
]
Seeds = Annotated[str | None, typer.Option("--seeds", help="As 0 or 0,1,2.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML (or Python) file with settings.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="One setting as name=value; may be repeated.")
]
GpuFraction = Annotated[
    float | None, typer.Option("--gpu-fraction", help="Share of a GPU for each trial.")
]
PerGpuHour = Annotated[
    float | None, typer.Option("--price-per-gpu-hour", min=0, help="For the plan's cost.")
]
PerHour = Annotated[
    float | None, typer.Option("--price-per-hour", min=0, help="Of one node, for the plan's cost.")
]
Probe = Annotated[
    bool, typer.Option(help="Measure this machine for some seconds to plan the time.")
]
GpusPerGlobalTrial = Annotated[
    int, typer.Option("--gpus-per-global-trial", min=1, help="Train shared adapters on so many.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    print_what_can_be_shown()
    prepare_home()
    try:
        result = app(list(arguments) if arguments is not None else None, standalone_mode=False)
        return int(result or 0)
    except typer.Exit as error:
        return int(error.exit_code)
    except (Interrupted, KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (InfrastructureError, LockError) as error:
        return _refuse(str(error), code=ExitCode.INFRASTRUCTURE)
    except SystemExit:
        # Rich ends so where nobody reads what it prints any more (`status | head`).
        return ExitCode.INFRASTRUCTURE
    except Exception as error:
        # The parser's own errors (of click, which typer may carry inside) know their message.
        if hasattr(error, "format_message"):
            return _refuse(str(error.format_message()))
        if _is_ours(error):
            return _refuse(str(error))
        if isinstance(error, OSError) and error.errno in NO_PATH:
            return _refuse(f"{str(error.filename)[:80]!r} is no path: {error.strerror}")
        if isinstance(error, OSError):
            return _refuse(_disk_words(error), code=ExitCode.INFRASTRUCTURE)
        # Not Python's own exit code, which is that of failed trials.
        return _refuse(f"unexpected\n{traceback.format_exc()}", code=ExitCode.INFRASTRUCTURE)


def _is_ours(error: Exception) -> bool:
    """Whether a room raised it about its input, with a message for people."""
    from data.schema import DataError
    from results.record import RecordError
    from tasks.config import TaskError

    return isinstance(error, (InputError, DataError, TaskError, RecordError))


def _disk_words(error: OSError) -> str:
    """What the system says of which file, and what to do."""
    place = "" if error.filename is None else f"{error.filename}: "
    return (
        f"{place}{error.strerror or error}. Make the place readable and writable and make room, "
        "or give another (--workspace, --into, --out); the same command then goes on from here"
    )


def _refuse(message: str, *, code: ExitCode = ExitCode.BAD_INPUT) -> int:
    err.print(
        f"Error: {redacted(message)}", style="red", markup=False, highlight=False, soft_wrap=True
    )
    return code


def _interrupted() -> int:
    # --fresh would throw away what is saved.
    words = [word for word in sys.argv[1:] if word != "--fresh"]
    command = shlex.join(["python", "-m", "orchestrator", *words])
    err.print("Stopped. Finished cells are saved; go on with:", highlight=False)
    err.print(f"  {redacted(command)}", markup=False, highlight=False, soft_wrap=True)
    return ExitCode.INTERRUPTED


def find_study(name: str) -> Study:
    """The study of a name.

    Raises:
        InputError: unknown; with what was probably meant.
    """
    if name in STUDIES:
        return STUDIES[name]
    near = get_close_matches(name, STUDIES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown study {name!r}.{hint} There are: {', '.join(STUDIES)}")


def _request(
    study: str,
    workspace: str,
    *,
    data: str | None = None,
    model: str | None = None,
    users: int | None = None,
    strict: bool = False,
    skip_bad_rows: int | None = None,
    seeds: str | None = None,
    embeddings: str | None = None,
    search: str | None = None,
    samples: int | None = None,
    config: Path | None = None,
    sets: Sequence[str] | None = None,
    gpu_fraction: float | None = None,
    address: str | None = None,
    **more: Any,
) -> Any:
    """A checked request out of a command's options; asks the cluster at ``address`` what it has."""
    from orchestrator.cluster import cluster_nodes
    from orchestrator.layers import resolve_settings
    from orchestrator.placement import deciding_node, this_machine
    from orchestrator.stored_workspace import workspace_at
    from orchestrator.study import Request

    flags: dict[str, Any] = {"data.source": data, "model.name": model, "data.users": users}
    flags |= {"data.strict": strict or None, "data.skip_bad_rows": skip_bad_rows}
    flags |= {"data.embeddings": embeddings, "search.method": search, "search.samples": samples}
    if seeds is not None:
        flags["seeds"] = _numbers(seeds)
    chosen = find_study(study)
    place = workspace_at(workspace)
    nodes = () if address is None else cluster_nodes(address)
    machine = this_machine() if address is None else deciding_node(nodes)
    settings = resolve_settings(
        chosen,
        config=config,
        options=sets or (),
        flags={name: value for name, value in flags.items() if value is not None},
        device=machine.device,
    )
    if samples is not None and settings.search.method == "none":
        raise InputError("--samples says how long a search is; give --search grid|random|optuna")
    return Request(
        study=chosen,
        settings=settings,
        workspace=place,
        machine=machine,
        gpu_fraction=gpu_fraction,
        address=address,
        nodes=nodes,
        **more,
    )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--seeds {text!r}: whole numbers with commas are wanted, as 0,1,2"
        ) from None


@app.command()
def run(
    study: StudyName = "per_persona",
    workspace: Place = ".",
    data: Data = None,
    model: Model = None,
    users: Users = None,
    strict: Strict = False,
    skip_bad_rows: SkipBadRows = None,
    seeds: Seeds = None,
    search: Searched = None,
    samples: Samples = None,
    config: ConfigFile = None,
    sets: Sets = None,
    local: Annotated[bool, typer.Option("--local", help="Ray on this machine (default).")] = False,
    address: Annotated[
        str | None, typer.Option("--address", help="A running Ray: auto or HOST:PORT.")
    ] = None,
    gpu_fraction: GpuFraction = None,
    gpus_per_global_trial: GpusPerGlobalTrial = 1,
    dashboard: Annotated[bool, typer.Option(help="Serve the Ray dashboard on 127.0.0.1.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what is here first.")] = False,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Repeat what failed, and nothing else.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    per_gpu_hour: PerGpuHour = None,
    per_hour: PerHour = None,
    probe: Probe = True,
    as_json: AsJson = False,
) -> int:
    """Run a study to its report; finished parts are found and not done again.

    Example: python -m orchestrator run --study per_persona --set personal.lora.epochs=2
    """
    if local and address:
        raise InputError("--local and --address exclude each other; give one of them")
    if fresh and only_failed:
        raise InputError("--fresh throws away what --only-failed would repeat; give one of them")
    request = _request(
        study, workspace, data=data, model=model, users=users, strict=strict,
        skip_bad_rows=skip_bad_rows, seeds=seeds, search=search, samples=samples, config=config,
        sets=sets, gpu_fraction=gpu_fraction, fresh=fresh, only_failed=only_failed,
        gpus_per_global_trial=gpus_per_global_trial,
        address=address, dashboard=dashboard,
    )  # fmt: skip
    if dry_run:
        return _show_plan(
            request, as_json=as_json, per_gpu_hour=per_gpu_hour, per_hour=per_hour, probe=probe
        )
    if as_json or per_gpu_hour is not None or per_hour is not None:
        raise InputError("--json and prices are for the plan: give --dry-run too, or use `plan`")
    from orchestrator.signals import StopSignal
    from orchestrator.study import run_study
    from orchestrator.sweeping import Screen

    screen = Screen(say=_say, watch=_watch)
    with StopSignal().installed() as stop:
        outcome = run_study(request, screen=screen, stop=stop)
    _show_outcome(outcome, request.workspace)
    return int(outcome.exit_code)


@contextmanager
def _watch(tally: Any, board: Any) -> Iterator[Any]:
    from orchestrator.progress import SweepDisplay

    with SweepDisplay(out, tally, board) as display:
        yield display


def _say(text: str) -> None:
    """A line: whole where it is piped to, and in whole words in a terminal.

    A path that is longer than the terminal is left to it, so that it can be copied.
    """
    told = redacted(text)
    whole = not out.is_terminal or max(map(len, told.split()), default=0) > out.width
    out.print(told, markup=False, highlight=False, soft_wrap=whole)


def _print_json(text: str) -> None:
    """A document: its text is whole in any encoding."""
    out.print_json(text, ensure_ascii=not is_unicode(out.file))


def _show_outcome(outcome: Any, workspace: Any) -> None:
    from orchestrator.sweep_view import duration

    for line in outcome.summary.warnings:
        _say(f"Warning: {line}.")
    if outcome.summary.rows:
        out.print(summary_table(outcome.summary.rows))
    for line in outcome.summary.findings:
        _say(f"Persona prediction. {line}")
    ran = f"{outcome.ran} cells run, {outcome.reused} found done"
    out.print(f"{ran}; {duration(outcome.seconds)}", highlight=False)
    for line in outcome.failures[:10]:
        err.print(
            f"failed: {redacted(line)}", style="red", markup=False, highlight=False, soft_wrap=True
        )
    if len(outcome.failures) > 10:
        err.print(f"… and {len(outcome.failures) - 10} more", style="red")
    if outcome.summary.report:
        path = workspace.root / outcome.summary.report
        sent = "" if workspace.storage is None else f", also in {workspace.storage}"
        _say(f"Report: {path}{sent}")


def summary_table(rows: Sequence[Any]) -> Table:
    """Arms × macro ROUGE-L, lift with interval, users helped and hurt; 80 columns are enough."""
    counts = {row.users for row in rows}
    users = f", n = {counts.pop()} users" if len(counts) == 1 else ""
    compared = any(row.lift is not None for row in rows)
    lift = ", lift over the baseline" if compared else ""
    title = f"Macro ROUGE-L on test items{lift}{users}"
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        min_width=None if compared else len(title),
    )
    table.add_column("arm", overflow="fold", min_width=20)
    widths = {"ROUGE-L": 7}
    if compared:
        widths |= {"lift": 6, "95 % interval": 15, "helped": 6, "hurt": 4}
    if not users:
        widths["users"] = 5
    for name, width in widths.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        cells = _summary_cells(row)[: 5 if compared else 1]
        table.add_row(row.arm, *(cells if users else [*cells, str(row.users)]))
    return table


def _summary_cells(row: Any) -> list[str]:
    return [
        "n/a" if row.macro is None else f"{row.macro:.3f}",
        "" if row.lift is None else f"{row.lift:+.3f}",
        "" if row.low is None else f"{row.low:+.3f} … {row.high:+.3f}",
        "" if row.helped is None else str(row.helped),
        "" if row.hurt is None else str(row.hurt),
    ]


@app.command()
def plan(
    study: StudyName = "per_persona",
    workspace: Place = ".",
    data: Data = None,
    model: Model = None,
    users: Users = None,
    strict: Strict = False,
    skip_bad_rows: SkipBadRows = None,
    seeds: Seeds = None,
    search: Searched = None,
    samples: Samples = None,
    config: ConfigFile = None,
    sets: Sets = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Of the Ray that is to run it: auto, HOST:PORT.")
    ] = None,
    gpu_fraction: GpuFraction = None,
    gpus_per_global_trial: GpusPerGlobalTrial = 1,
    per_gpu_hour: PerGpuHour = None,
    per_hour: PerHour = None,
    probe: Probe = True,
    as_json: AsJson = False,
) -> int:
    """Show what a run would do, how long it takes and what it costs; writes nothing.

    With --address the cluster is asked what it has, and measured for some seconds.

    Example: python -m orchestrator plan --study per_persona --users 100 --price-per-hour 0.5
    """
    request = _request(
        study, workspace, data=data, model=model, users=users, strict=strict,
        skip_bad_rows=skip_bad_rows, seeds=seeds, search=search, samples=samples, config=config,
        sets=sets, gpu_fraction=gpu_fraction, address=address,
        gpus_per_global_trial=gpus_per_global_trial,
    )  # fmt: skip
    return _show_plan(
        request, as_json=as_json, per_gpu_hour=per_gpu_hour, per_hour=per_hour, probe=probe
    )


def _show_plan(
    request: Any,
    *,
    as_json: bool,
    per_gpu_hour: float | None,
    per_hour: float | None,
    probe: bool,
) -> int:
    from orchestrator.estimate import Prices
    from orchestrator.outlook import look_ahead
    from orchestrator.stored_workspace import refresh
    from orchestrator.sweep_view import duration, plan_table

    prices = Prices(per_gpu_hour, per_hour)
    refresh(request.workspace)
    outlook = look_ahead(request, prices=prices, probe=probe)
    if as_json:
        _print_json(json.dumps(outlook.as_json(), allow_nan=False))
        return ExitCode.DONE
    title = f"Plan of study {request.study.name}"
    out.print(plan_table(outlook.rows, title=title))
    lines = list(outlook.notes)
    if outlook.estimate is not None:
        text = f"about {duration(outlook.estimate.total_seconds)}"
        lines.insert(0, text + ("" if outlook.cost is None else f", cost {outlook.cost:.2f}"))
    for line in lines:
        # A terminal gets whole words; where it is piped to, a line stays one.
        out.print(line, markup=False, highlight=False, soft_wrap=not out.is_terminal)
    return ExitCode.DONE


@app.command()
def report(study: StudyName = "per_persona", workspace: Place = ".") -> int:
    """Make tables, statistics, figures and report again from the ledger; runs no cell.

    Example: python -m orchestrator report --study per_persona --workspace runs/first
    """
    from orchestrator.again import report_again
    from orchestrator.stored_workspace import workspace_at

    place = workspace_at(workspace)
    outcome = report_again(find_study(study), place)
    _show_outcome(outcome, place)
    return int(outcome.exit_code)


@app.command()
def compare(
    baseline: Annotated[Path, typer.Option("--baseline", help="CSV file, one row per user.")],
    arm: Annotated[Path, typer.Option("--arm", help="CSV file with the same columns.")],
    id_column: Annotated[str, typer.Option("--id", help="Column that names the user.")],
    metrics: Annotated[
        list[str], typer.Option("--metrics", help="Columns to compare, the primary one first.")
    ],
    into: Annotated[Path, typer.Option("--out", help="Folder for tables, report and figures.")],
    more_metrics: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    lower_is_better: Annotated[
        list[str] | None, typer.Option(help="A metric of which less is better; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The arm's name; else the file's.")] = None,
    margin: Annotated[
        float, typer.Option(min=0, help="Equivalence margin of the first metric; 0: none.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of resamples and permutations.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Of users, for the intervals.")] = 10_000,
) -> int:
    """Compare two per-user score tables made anywhere: paired statistics and figures.

    Example: python -m orchestrator compare --baseline base.csv --arm lora.csv --id user
             --metrics rouge_l nll --lower-is-better nll --out comparison

    \b
    A table has a header and a row per user; an empty cell is a user without a score:
    user,rouge_l,nll
    ann,0.41,1.93
    """
    from orchestrator.comparing import comparison_table
    from results.two_tables import TwoTables, compare_tables, left_out_lines, write_comparison

    request = TwoTables(
        baseline=baseline, arm=arm, id_column=id_column, metrics=[*metrics, *(more_metrics or ())],
        lower_is_better=lower_is_better or (), name=name, margin=margin or float("nan"), seed=seed,
        resamples=resamples,
    )  # fmt: skip
    if into.exists() and not into.is_dir():
        raise InputError(f"--out {into} is a file; a folder is needed")
    compared = compare_tables(request)
    command = shlex.join(["python", "-m", "orchestrator", *sys.argv[1:]])
    write_comparison(request, compared, into, command=command)
    out.print(comparison_table(compared.analysis))
    for line in left_out_lines(request, compared):
        out.print(line, markup=False, highlight=False)
    out.print(f"Report: {into / 'comparison.md'}", markup=False, highlight=False, soft_wrap=True)
    return ExitCode.DONE


@app.command()
def export(
    into: Annotated[Path, typer.Option("--into", help="Folder to make, one folder in it an arm.")],
    study: StudyName = "per_persona",
    workspace: Place = ".",
    arm: Annotated[list[str] | None, typer.Option("--arm", help="Only this one.")] = None,
    user: Annotated[list[str] | None, typer.Option("--user", help="Only this one.")] = None,
    stacked: Annotated[
        bool, typer.Option("--stacked", help="One file an arm instead of a PEFT folder each.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --into.")] = False,
) -> int:
    """Write adapters as PEFT folders or one stacked file, each arm with a model card.

    Example: python -m orchestrator export --into adapters --arm lora_per_user --user user_7
    """
    from orchestrator.again import export_again
    from orchestrator.exporting import Wanted
    from orchestrator.stored_workspace import workspace_at

    wanted = Wanted(into=into, arms=arm, users=user, stacked=stacked, overwrite=overwrite)
    written = export_again(find_study(study), workspace_at(workspace), wanted)
    told = "1 adapter" if written == 1 else f"{written} adapters"
    out.print(f"{told} in {into}", markup=False, highlight=False)
    return ExitCode.DONE


@app.command()
def status(
    workspace: Place = ".",
    watch: Annotated[bool, typer.Option("--watch", help="Until the run has ended.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show how the last or running study of a workspace stands; needs no Ray, writes nothing.

    With --watch --json: one document a line, whenever something has changed.

    Example: python -m orchestrator status --workspace runs/first --watch
    """
    from orchestrator.status_view import (
        known_status,
        status_json,
        status_view,
        watch_json,
        watch_status,
    )
    from orchestrator.stored_workspace import workspace_at

    place = workspace_at(workspace)
    if watch and as_json:
        watch_json(place, typer.echo)
    elif watch:
        watch_status(place, out)
    elif as_json:
        _print_json(status_json(known_status(place)))
    else:
        out.print(status_view(known_status(place)))
    return ExitCode.DONE


@app.command()
def validate(workspace: Place = ".") -> int:
    """Check that a workspace's data and records are whole; broken records go to quarantine/.

    Ends with one line per stage of the last report: passed, not passed or not run, and its number.

    Example: python -m orchestrator validate --workspace runs/first
    """
    from orchestrator.checks import validate_workspace
    from orchestrator.stored_workspace import refresh, workspace_at

    place = workspace_at(workspace)
    refresh(place)
    checks = validate_workspace(place.root)
    return ExitCode.DONE if _show_checks(checks) else ExitCode.FAILED_TRIALS


@app.command()
def doctor(
    workspace: Place = ".",
    address: Annotated[
        str | None, typer.Option("--address", help="Also: do the nodes of this Ray share storage?")
    ] = None,
) -> int:
    """Check this machine: Python, packages, GPUs, memory, disk, hub cache, who can reach Ray.

    Example: python -m orchestrator doctor --workspace /mnt/study --address auto
    """
    from orchestrator.checks import examine_machine
    from orchestrator.stored_workspace import workspace_at

    checks = examine_machine(workspace_at(workspace), address=address)
    return ExitCode.DONE if _show_checks(checks) else ExitCode.INFRASTRUCTURE


@app.command("cluster-check")
def cluster_check(
    file: Annotated[Path, typer.Argument(help="For `ray up`, or a RayJob of KubeRay.")],
) -> int:
    """Check a cluster file before it costs anything: Ray's schema, and who can reach what.

    Asks no cloud. Looks for an exposed dashboard, a missing token, shares of resources in node
    types, versions that are not pinned, missing shared storage, and secrets.

    Example: python -m orchestrator cluster-check cluster.yaml
    """
    from orchestrator.cluster_check import check_cluster_file

    problems = check_cluster_file(file)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(f"{file} has {len(problems)} problems:\n{listed}")
    _say(f"{file}: good")
    return ExitCode.DONE


def _show_checks(checks: Sequence[Any]) -> bool:
    """Show them; whether none failed."""
    table = Table()
    for name in ("", "check", "found"):
        table.add_column(name)
    for check in checks:
        mark = {"ok": "[green]ok[/]", "warning": "[yellow]note[/]", "failed": "[red]bad[/]"}
        table.add_row(mark[check.state], escape(check.name), escape(check.found))
    out.print(table)
    return all(check.state != "failed" for check in checks)


@app.command("build-model")
def build_model_command(
    into: Annotated[
        Path | None, typer.Option("--into", help="Folder; by default the shipped model's own.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="End the training by then.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of dialogues and training.")] = 0,
) -> int:
    """Train the embedded base model from nothing, on neutral synthetic users.

    Example: python -m orchestrator build-model --into my-model --minutes 10
    """
    from orchestrator.building import build_embedded

    if into is not None:
        given_folder(str(into), option="--into")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise InputError(f"--minutes {minutes:g}: a number above 0 is wanted")
    out.print("Making the neutral dialogues and training …", highlight=False)
    provenance = build_embedded(into, minutes=minutes, seed=seed)
    _print_json(provenance.model_dump_json())
    return ExitCode.DONE


@app.command("config-schema")
def config_schema() -> int:
    """Print the JSON schema of --config files, for editors.

    Example: python -m orchestrator config-schema > settings.schema.json
    """
    from orchestrator.settings import settings_schema

    _print_json(json.dumps(settings_schema()))
    return ExitCode.DONE


@data_app.command("prepare")
def data_prepare(
    workspace: Place = ".",
    data: Data = None,
    users: Users = None,
    strict: Strict = False,
    skip_bad_rows: SkipBadRows = None,
    config: ConfigFile = None,
    sets: Sets = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Make clusters with sentence embeddings too.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace prepared data.")] = False,
) -> int:
    """Clean, split and shard dialogues with Ray Data; the first step of `run`.

    \b
    Example: python -m orchestrator data prepare --data edgewise:../EdgeWisePersona
             python -m orchestrator data prepare --data chats.jsonl --skip-bad-rows 3

    \b
    A line of chats.jsonl is a session:
    {"persona_id": "ann", "session_id": 0, "timestamp": "2026-01-31T08:00:00",
     "messages": [{"role": "user", "text": "Good morning"},
                  {"role": "assistant", "text": "Good morning, Ann"}]}
    """
    from orchestrator.left_out import prepared_summary
    from orchestrator.signals import StopSignal
    from orchestrator.study import prepare_only
    from orchestrator.sweeping import Screen

    request = _request(
        "baseline", workspace, data=data, users=users, strict=strict, skip_bad_rows=skip_bad_rows,
        config=config, sets=sets, fresh=fresh, embeddings="always" if embed else None,
    )  # fmt: skip
    screen = Screen(say=_say, watch=_watch)
    with StopSignal().installed() as stop:
        prepared = prepare_only(request, screen=screen, stop=stop)
    for line in prepared_summary(prepared):
        _say(line)
    return ExitCode.DONE


@data_app.command("synthesize")
def data_synthesize(
    into: Annotated[Path, typer.Option("--into", help="Folder for the three files.")],
    users: Annotated[int, typer.Option("--users", min=1, help="Users to make.")] = 24,
    sessions: Annotated[int, typer.Option("--sessions", min=1, help="Of each user.")] = 50,
    signal: Annotated[
        float, typer.Option("--signal", min=0, max=1, help="How personal: 0 not at all, 1 fully.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the population.")] = 0,
) -> int:
    """Write synthetic dialogues in the format of EdgeWisePersona.

    Example: python -m orchestrator data synthesize --into households --users 200 --signal 0.5
    """
    from data.synthetic import write_synthetic

    given_folder(str(into), option="--into")
    into.mkdir(parents=True, exist_ok=True)
    write_synthetic(into, users=users, sessions=sessions, seed=seed, signal=signal)
    out.print(f"{users} users × {sessions} sessions in {into}", markup=False, highlight=False)
    return ExitCode.DONE
