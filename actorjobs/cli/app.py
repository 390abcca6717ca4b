"""The commands. Each group has a file of its own."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from actorjobs.cli import db, make, quarantine, queues, runs, topology
from actorjobs.cli.check import check
from actorjobs.cli.dispatch import dispatch
from actorjobs.cli.doctor import doctor
from actorjobs.cli.fleet import run_fleet
from actorjobs.cli.loading import load_app, service_name_of
from actorjobs.cli.worker import WorkerOptions, parse_queues, run_worker
from actorjobs.errors import InvalidOption
from actorjobs.telemetry.logs import FORMATS, configure_logs

HIGHEST_PORT = 65535

app = typer.Typer(
    name="actorjobs",
    help="Background jobs for asyncio, with every run and every attempt on record.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(runs.app, name="runs")
app.add_typer(queues.app, name="queues")
app.add_typer(db.app, name="db")
app.add_typer(topology.app, name="topology")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(make.app, name="make")
app.command()(dispatch)
app.command()(check)
app.command()(doctor)


@app.command()
def demo() -> None:
    """Welcome mails and webhooks for 2,000 signups, against servers that fail for a while; under a minute."""
    try:
        from actorjobs.cli.demo.command import demo as play
    except ModuleNotFoundError as error:
        raise InvalidOption(f"the demo needs {error.name}: pip install 'actorjobs[demo]'") from None
    play()


@app.callback()
def _options() -> None:
    """Background jobs for asyncio, with every run and every attempt on record."""
    for driver in ("aiormq", "aio_pika"):
        # They tell of each lost connection several times, with tracebacks; our own log says it once.
        logging.getLogger(driver).setLevel(logging.CRITICAL)


AppArgument = Annotated[
    str | None, typer.Argument(metavar="[APP]", help="module:attribute of the runtime; or set ACTORJOBS_APP.")
]


@app.command()
def worker(
    app_name: AppArgument = None,
    queues: Annotated[
        list[str] | None, typer.Option("-Q", "--queues", help="Only these, like emails:10,reports (name:concurrency).")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="How many worker processes to keep.")] = 1,
    burst: Annotated[bool, typer.Option("--burst", help="End when nothing that is due is left.")] = False,
    health_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve /live and /ready; process N on this port + N - 1.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve /metrics to Prometheus; process N on this port + N - 1.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="For development: a new worker whenever a .py or .toml file changes.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_format: Annotated[str, typer.Option(help="text or json: one event, one line.")] = "text",
) -> None:
    """Perform runs until SIGTERM or SIGINT; a second signal leaves at once."""
    _log(log_level, log_format)
    only = parse_queues(queues or [])
    ports = {"--health-port": health_port, "--metrics-port": metrics_port}
    for option, first in ports.items():
        if first is not None and first + processes - 1 > HIGHEST_PORT:
            raise InvalidOption(f"{option} {first} leaves no port for {processes} processes")
    if processes == 1 and not reload:
        options = WorkerOptions(
            queues=only,
            is_burst=burst,
            health_port=health_port,
            metrics_port=metrics_port,
            service_name=service_name_of(app_name),
        )
        raise typer.Exit(run_worker(load_app(app_name), options))
    common = ["worker", *([app_name] if app_name else []), "--log-level", log_level]
    common += ["--log-format", log_format]
    common += [word for text in queues or [] for word in ("-Q", text)]
    common += ["--burst"] if burst else []

    def of_process(index: int) -> list[str]:
        given = [(option, first + index) for option, first in ports.items() if first is not None]
        return [*common, *(word for option, port in given for word in (option, str(port)))]

    if reload:
        raise typer.Exit(_run_reloading(of_process(0), is_alone=processes == 1 and not burst))
    load_app(app_name)
    raise typer.Exit(run_fleet([of_process(index) for index in range(processes)]))


def _run_reloading(command: list[str], *, is_alone: bool) -> int:
    """The application is not loaded here: this process would keep what it has read, and an error would end it."""
    if not is_alone:
        raise InvalidOption("--reload keeps one worker for development: leave out --processes and --burst")
    try:
        from actorjobs.cli.reload import run_reloading
    except ModuleNotFoundError as error:
        raise InvalidOption(f"--reload needs {error.name}: pip install 'actorjobs[reload]'") from None
    return run_reloading(command)


def _log(level: str, log_format: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise typer.BadParameter("debug, info, warning or error", param_hint="--log-level")
    if log_format not in FORMATS:
        raise typer.BadParameter(" or ".join(FORMATS), param_hint="--log-format")
    configure_logs(number, log_format)
