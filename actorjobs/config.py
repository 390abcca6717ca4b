"""Settings: default < pyproject.toml < environment < code < command line. Nothing is read at import."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from actorjobs.errors import InvalidOption

DEFAULT_STORE = "sqlite:///actorjobs.db"
EMBEDDED = "embedded"


class _PyprojectSource(PydanticBaseSettingsSource):
    """`[tool.actorjobs]` of the working directory's pyproject.toml."""

    def __call__(self) -> dict[str, Any]:
        path = Path("pyproject.toml")
        if not path.is_file():
            return {}
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidOption(f"pyproject.toml cannot be read: {error}") from None
        try:
            table: dict[str, Any] = {**document.get("tool", {}).get("actorjobs", {})}
        except (AttributeError, TypeError):
            raise InvalidOption("[tool.actorjobs] in pyproject.toml is not a table") from None
        known = set(self.settings_cls.model_fields)
        for name in table:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f": did you mean {close[0]!r}?" if close else ""
                raise InvalidOption(f"[tool.actorjobs] in pyproject.toml has an unknown setting {name!r}{hint}")
        return table

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False


class Settings(BaseSettings):
    """Every scalar setting. Each has a variable `ACTORJOBS_<NAME>`; durations are seconds."""

    model_config = SettingsConfigDict(
        env_prefix="ACTORJOBS_", extra="ignore", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    app: str | None = None
    """`module:attribute` of the runtime that command-line workers run."""
    store_url: str = Field(default=DEFAULT_STORE, min_length=1)
    broker_url: str = Field(default=EMBEDDED, min_length=1)
    broker_declare: bool = True
    """Whether RabbitMQ's exchanges and queues are made where they are missing; off for a user who may not configure."""
    broker_on_mismatch: Literal["use", "error"] = "use"
    """What is done about a queue that exists with other arguments: use it and warn, or refuse to start."""
    namespace: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    grace: float = Field(default=25.0, ge=0, le=86400)
    """How long running work may go on after the runtime is asked to stop."""
    keep_succeeded: float | None = Field(default=7 * 86400.0, ge=0)
    """How long a run is kept after it ended, by its state; None or "none" keeps it for ever."""
    keep_dead_lettered: float | None = Field(default=30 * 86400.0, ge=0)
    keep_canceled: float | None = Field(default=7 * 86400.0, ge=0)
    keep_expired: float | None = Field(default=7 * 86400.0, ge=0)

    @field_validator("keep_succeeded", "keep_dead_lettered", "keep_canceled", "keep_expired", mode="before")
    @classmethod
    def _for_ever(cls, value: Any) -> Any:
        return None if isinstance(value, str) and value.strip().lower() in ("none", "forever") else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _PyprojectSource(settings_cls))


def load_settings(**given: Any) -> Settings:
    """The settings in force, with `given` (None leaves one out) above all else; `InvalidOption` for what is wrong."""
    code = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**code)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        source = name if name in code else f"ACTORJOBS_{name.upper()}"
        raise InvalidOption(f"{source}: {first['msg']}") from None
