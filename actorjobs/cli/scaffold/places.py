"""Where a new job goes: its module, its test, and the packages that must be made for them."""

from __future__ import annotations

import keyword
import sys
from dataclasses import dataclass
from pathlib import Path

from actorjobs.errors import InvalidOption

DEFAULT_FOLDER = "jobs"
TESTS = "tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Paths relative to the project, and the name that the module is imported by."""

    module: Path
    test: Path
    import_name: str
    packages: tuple[Path, ...]
    """Folders that get an `__init__.py` if they are made."""


def default_folder(project: Path) -> Path:
    """`<package>/jobs` if the project, or else its `src`, has exactly one package besides its tests; `jobs` if not."""
    here = _packages(project)
    root, found = (Path(), here) if here else (Path("src"), _packages(project / "src"))
    # The `jobs` of an earlier call is not the project's package: the next job goes beside the first.
    is_clear = len(found) == 1 and found != [DEFAULT_FOLDER]
    return root / found[0] / DEFAULT_FOLDER if is_clear else Path(DEFAULT_FOLDER)


def _packages(folder: Path) -> list[str]:
    return [init.parent.name for init in folder.glob("*/__init__.py") if init.parent.name not in (TESTS, "test")]


def find_places(project: Path, folder: str | None, function: str) -> Places:
    """Where the job `function` goes; `InvalidOption` if that is outside the project or cannot be imported."""
    inside = default_folder(project) if folder is None else _inside(project, folder)
    root = Path("src") if inside.parts[:1] == ("src",) and not (project / "src/__init__.py").exists() else Path()
    package = inside.relative_to(root)
    _check_importable(project / root, package)
    module = inside / f"{function}.py"
    if (project / inside / function).is_dir():
        raise InvalidOption(f"{inside / function} is a folder: it would hide {module}")
    test = Path(TESTS, *_mirrored(package), f"test_{function}.py")
    if not (project / test.parent).resolve().is_relative_to(project):
        raise InvalidOption(f"{test.parent} leads out of {project}")
    return Places(
        module=module,
        test=test,
        import_name=".".join((*package.parts, function)),
        packages=(*_folders(root, package), *_test_packages(project, test.parent)),
    )


def _inside(project: Path, folder: str) -> Path:
    """`folder` relative to the project, whatever links it goes through."""
    if not folder or "\0" in folder:
        raise InvalidOption("--dir takes a folder of this project, as in --dir shop/jobs")
    try:
        return (project / folder).resolve().relative_to(project)
    except (ValueError, OSError, RuntimeError):
        raise InvalidOption(f"--dir {folder} is not inside {project}: run this where the project is") from None


def _check_importable(root: Path, package: Path) -> None:
    """Every folder must be a name that Python imports, and neither hide a module that is there nor be hidden by one."""
    for part in package.parts:
        if not (part.isascii() and part.isidentifier()) or keyword.iskeyword(part):
            raise InvalidOption(f"{part!r} cannot be imported: --dir takes folders that are packages, as in shop/jobs")
    top = package.parts[0] if package.parts else ""
    if top in (*sys.stdlib_module_names, "actorjobs") and not (root / top).exists():
        raise InvalidOption(f"a package {top!r} here would hide the one that is installed: choose another --dir")
    for folder in _folders(root, package):
        module = folder.with_suffix(".py")
        if module.exists() and not (folder / "__init__.py").exists():
            raise InvalidOption(f"{module.name} is there already and a package would hide it: choose another --dir")


def _mirrored(package: Path) -> tuple[str, ...]:
    """The package without its topmost one, as `tests` mirrors it; the whole of a package that is topmost itself."""
    return package.parts[1:] or package.parts


def _folders(root: Path, package: Path) -> tuple[Path, ...]:
    """`a/b/c` as `a`, `a/b`, `a/b/c`."""
    return tuple(root.joinpath(*package.parts[: index + 1]) for index in range(len(package.parts)))


def _test_packages(project: Path, folder: Path) -> tuple[Path, ...]:
    """The folders of the test, unless this project's tests are no package.

    Made packages from the top, they let pytest put the project on the path. Below a `tests` that is none, they would
    take the names of the packages they mirror.
    """
    tests = project / TESTS
    return _folders(Path(), folder) if not tests.exists() or (tests / "__init__.py").exists() else ()
