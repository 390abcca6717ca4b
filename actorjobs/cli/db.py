"""`actorjobs db`: the schema of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from actorjobs.cli.connecting import AppOption, JsonOption
from actorjobs.cli.loading import load_app_if_any
from actorjobs.cli.output import cell, console, print_json
from actorjobs.clock import SystemClock
from actorjobs.config import Settings, load_settings
from actorjobs.errors import SchemaOutdated
from actorjobs.stores import NEEDED_VERSION, SqlStore, open_store, upgrade_sql
from actorjobs.stores.migrate import REVISIONS

app = typer.Typer(help="The store's schema: upgrade, current, check, sql.", no_args_is_help=True)

T = TypeVar("T")

StoreOption = Annotated[str | None, typer.Option("--store", help="The store's URL; otherwise the configured one.")]


@app.command()
def upgrade(store: StoreOption = None, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Bring the schema to the version that this actorjobs needs."""

    async def work(opened: SqlStore) -> None:
        await opened.migrate()

    settings = _settings(store, app_name)
    _with_store(settings, work)
    _tell(as_json)


@app.command()
def current(store: StoreOption = None, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Say which version the schema is at."""
    version = _with_store(_settings(store, app_name), SqlStore.schema_version)
    if as_json:
        print_json({"version": version, "needed": NEEDED_VERSION})
    else:
        console().print(cell(f"{version or 'no tables'} (needed: {NEEDED_VERSION})"))


@app.command()
def check(store: StoreOption = None, app_name: AppOption = None, as_json: JsonOption = False) -> None:
    """Exit with 1 unless the schema is the one that this actorjobs needs: a gate for deployments."""
    version = _with_store(_settings(store, app_name), SqlStore.schema_version)
    if version != NEEDED_VERSION:
        advice = "upgrade the package" if version not in (None, *REVISIONS) else "run `actorjobs db upgrade`"
        raise SchemaOutdated(f"the schema is at {version or 'no version'}, {NEEDED_VERSION} is needed: {advice}")
    _tell(as_json)


@app.command()
def sql(store: StoreOption = None, app_name: AppOption = None) -> None:
    """Print the migrations as SQL, for those who apply it themselves."""
    typer.echo(upgrade_sql(_settings(store, app_name).store_url))


def _tell(as_json: bool) -> None:
    if as_json:
        print_json({"version": NEEDED_VERSION, "needed": NEEDED_VERSION})
    else:
        console().print(cell(f"the schema is at version {NEEDED_VERSION}"))


def _settings(store: str | None, app_name: str | None) -> Settings:
    return load_settings(store_url=store) if store is not None else load_app_if_any(app_name).settings


def _with_store(settings: Settings, work: Callable[[SqlStore], Awaitable[T]]) -> T:
    async def connected() -> T:
        opened = await open_store(settings.store_url, namespace=settings.namespace, clock=SystemClock())
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(connected())
