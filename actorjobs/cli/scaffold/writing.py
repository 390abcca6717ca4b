"""Writing new files: all of them or none, and never over one that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from actorjobs.errors import InvalidOption


def write_new(project: Path, files: Mapping[Path, str], packages: Iterable[Path]) -> list[Path]:
    """Write `files`, make the folders they need, and give those of `packages` that are made an `__init__.py`.

    What was written, relative to the project. `InvalidOption` if a file is there or cannot be written: then nothing is
    left behind.
    """
    for path in files:
        if (project / path).is_symlink() or (project / path).exists():
            raise _taken(path)
    with ExitStack() as undo:
        written = [init for folder in packages if (init := _package(project, folder, undo))]
        for path, text in files.items():
            _write(project, path, text, undo)
            written.append(path)
        undo.pop_all()
    return written


def _package(project: Path, folder: Path, undo: ExitStack) -> Path | None:
    """Make a package of a folder that is not there; None when there was one."""
    if not _make_folder(project, folder, undo):
        return None
    init = folder / "__init__.py"
    _write(project, init, "", undo)
    return init


def _write(project: Path, path: Path, text: str, undo: ExitStack) -> None:
    _make_folder(project, path.parent, undo)
    try:
        # "x" leaves it to the system that nobody else's file is written over, even one that came this moment.
        with (project / path).open("x", encoding="utf-8", newline="\n") as file:
            undo.callback(_forget, project / path)
            file.write(text)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise InvalidOption(f"{path} cannot be written: {error.strerror or error}") from None


def _make_folder(project: Path, folder: Path, undo: ExitStack) -> bool:
    """Make a folder and those above it; whether it had to be made."""
    if (project / folder).is_dir():
        return False
    if folder.parent != folder:
        _make_folder(project, folder.parent, undo)
    try:
        (project / folder).mkdir()
    except OSError as error:
        raise InvalidOption(f"the folder {folder} cannot be made: {error.strerror or error}") from None
    undo.callback(_forget, project / folder)
    return True


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.rmdir() if path.is_dir() else path.unlink()


def _taken(path: Path) -> InvalidOption:
    return InvalidOption(f"{path} is there already and is not overwritten")
