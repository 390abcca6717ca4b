"""`actorjobs make job`: what it writes is run, checked and registered as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actorjobs.cli.scaffold.names import read_names
from actorjobs.cli.scaffold.places import default_folder
from actorjobs.cli.scaffold.writing import write_new
from actorjobs.errors import InvalidOption
from tests.cli.conftest import Here, Shell

REGISTERED = """
from jobs.generate_reports import dispatch_generate_reports, generate_reports

runtime = aj.Runtime(jobs=[welcome, sleep, generate_reports], queues={"reports": 4})
"""
LONGEST = "reports:" + "x" * 120
Listing = Callable[[], set[str]]


@pytest.fixture
def listing(shell: Shell) -> Listing:
    """The files and folders that were made in the test's folder."""
    before = {"shop.py"}

    def made() -> set[str]:
        found = {str(path.relative_to(shell.folder)) for path in shell.folder.rglob("*")}
        return {path for path in found if "__pycache__" not in path} - before

    return made


def tool(folder: Path, *arguments: str) -> None:
    """Run a tool of this environment in `folder`; fail with what it says."""
    program = Path(sys.executable).with_name(arguments[0])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [program, *arguments[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def pytest_in(folder: Path) -> None:
    tool(folder, "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")


def test_a_job_is_made_tested_registered_and_performed(shell: Shell, listing: Listing) -> None:
    done = shell("make", "job", "reports:generate", "--queue", "reports")
    assert done.returncode == 0, done.stderr
    assert listing() == {
        "jobs",
        "jobs/__init__.py",
        "jobs/generate_reports.py",
        "tests",
        "tests/__init__.py",
        "tests/jobs",
        "tests/jobs/__init__.py",
        "tests/jobs/test_generate_reports.py",
    }
    for words in (
        "wrote jobs/generate_reports.py",
        "wrote tests/jobs/test_generate_reports.py",
        "from jobs.generate_reports import generate_reports",
        "jobs=[..., generate_reports]",
        'queues={"reports": 4}',
    ):
        assert words in done.stdout
    pytest_in(shell.folder)
    with (shell.folder / "shop.py").open("a", encoding="utf-8") as app:
        app.write(REGISTERED)
    run = shell.json("dispatch", "reports:generate", '{"reference": "r-7"}')
    assert shell("worker", "--burst", "-Q", "reports").returncode == 0
    shown = shell.json("runs", "show", run["id"])["run"]
    assert (shown["state"], shown["queue"], shown["result"]) == ("succeeded", "reports", "done: r-7")


def test_the_generated_test_notices_a_broken_job(shell: Shell) -> None:
    shell.json("make", "job", "reports:generate")
    module = shell.folder / "jobs/generate_reports.py"
    text = module.read_text(encoding="utf-8")
    for there, broken in (('f"done: ', 'f"lost: '), ('queue="default"', 'queue="other"'), ("=reference)", '="none")')):
        assert there in text
        module.write_text(text.replace(there, broken), encoding="utf-8")
        with pytest.raises(AssertionError, match="1 failed"):
            pytest_in(shell.folder)


@pytest.mark.parametrize("folder", ["shop_app/jobs", "src/warehouse_of_many_goods/background/jobs", "."])
def test_generated_code_is_clean(here: Here, shell: Shell, folder: str) -> None:
    for name in ("reports:generate", "SendWelcomeEmailToNewCustomersOfOurShop", LONGEST, "a:b"):
        assert here("make", "job", name, "--dir", folder, "--queue", "q.1-x_y")[0] == 0
    for length in ("88", "120"):
        tool(
            shell.folder,
            "ruff",
            "format",
            "--isolated",
            "--check",
            "--diff",
            "--line-length",
            length,
            "--exclude",
            "shop.py",
            ".",
        )
    tool(
        shell.folder,
        "ruff",
        "check",
        "--isolated",
        "--select",
        "ASYNC,B,C4,E4,E7,E9,F,I,PT,RET,RUF,SIM,UP,W",
        "--exclude",
        "shop.py",
        ".",
    )


def test_generated_code_is_typed(here: Here, shell: Shell) -> None:
    assert here("make", "job", "SendWelcomeEmail", "--dir", "market/jobs")[0] == 0
    tool(shell.folder, "mypy", "--strict", "--cache-dir", os.devnull, "market", "tests")


def test_json(here: Here, shell: Shell) -> None:
    (shell.folder / "market").mkdir()
    (shell.folder / "market/__init__.py").touch()
    made = shell.json("make", "job", "SendWelcomeEmail", "--queue", "emails")
    assert made == {
        "files": [
            "market/jobs/__init__.py",
            "tests/__init__.py",
            "tests/jobs/__init__.py",
            "market/jobs/send_welcome_email.py",
            "tests/jobs/test_send_welcome_email.py",
        ],
        "register": {
            "import": "from market.jobs.send_welcome_email import send_welcome_email",
            "job": "send_welcome_email",
            "name": "welcome-email:send",
            "queue": "emails",
        },
    }
    assert shell.json("make", "job", "reports:generate")["files"] == [
        "market/jobs/generate_reports.py",
        "tests/jobs/test_generate_reports.py",
    ]


@pytest.mark.parametrize(
    ("given", "job", "function"),
    [
        ("reports:generate", "reports:generate", "generate_reports"),
        ("billing.eu:invoices:send-all", "billing.eu:invoices:send-all", "send_all_billing_eu_invoices"),
        ("2fa:send", "2fa:send", "send_2fa"),
        ("class:import", "class:import", "import_class"),
        ("SendWelcomeEmail", "welcome-email:send", "send_welcome_email"),
        ("FetchHTTPPage", "http-page:fetch", "fetch_http_page"),
        ("Send2FACode", "fa-code:send2", "send2_fa_code"),
    ],
)
def test_names(given: str, job: str, function: str) -> None:
    names = read_names(given)
    assert (names.job, names.function) == (job, function)


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ((), "jobs"),
        (("shop",), "shop/jobs"),
        (("shop", "tests", "test"), "shop/jobs"),
        (("shop", "market"), "jobs"),
        (("jobs",), "jobs"),
        (("jobs", "tests"), "jobs"),
        (("src/shop",), "src/shop/jobs"),
        (("src",), "src/jobs"),
        (("shop", "src/market"), "shop/jobs"),
    ],
)
def test_the_default_folder(tmp_path: Path, packages: tuple[str, ...], expected: str) -> None:
    for package in packages:
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    assert default_folder(tmp_path) == Path(expected)


def test_tests_that_are_no_package_stay_none(here: Here, shell: Shell, listing: Listing) -> None:
    (shell.folder / "tests").mkdir()
    assert here("make", "job", "reports:generate")[0] == 0
    assert "tests/jobs/test_generate_reports.py" in listing()
    assert not {"tests/__init__.py", "tests/jobs/__init__.py"} & listing()


@pytest.mark.parametrize("there", ["jobs/generate_reports.py", "tests/jobs/test_generate_reports.py"])
@pytest.mark.parametrize("is_link", [False, True])
def test_nothing_is_overwritten(here: Here, shell: Shell, listing: Listing, there: str, is_link: bool) -> None:
    path = shell.folder / there
    path.parent.mkdir(parents=True)
    path.symlink_to("nowhere") if is_link else path.write_text("precious", encoding="utf-8")
    before = listing()
    status, output, errors = here("make", "job", "reports:generate")
    assert (status, output) == (2, "")
    assert errors == f"actorjobs: {there} is there already and is not overwritten\n"
    assert listing() == before
    assert is_link or path.read_text(encoding="utf-8") == "precious"


def test_a_file_that_appears_this_moment_is_kept_and_the_rest_undone(tmp_path: Path) -> None:
    class Late(dict[Path, str]):
        """Files that are checked, and of which another process then writes the second."""

        def items(self):  # type: ignore[no-untyped-def,override]
            (tmp_path / "b.py").write_text("precious", encoding="utf-8")
            return super().items()

    files = Late({Path("jobs/a.py"): "a", Path("b.py"): "b"})
    with pytest.raises(InvalidOption, match=r"b\.py is there already"):
        write_new(tmp_path, files, [Path("jobs")])
    assert [path.name for path in tmp_path.rglob("*")] == ["b.py"]
    assert (tmp_path / "b.py").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("file", ["jobs", "tests"])
def test_a_folder_that_cannot_be_made_leaves_nothing_behind(
    here: Here, shell: Shell, listing: Listing, file: str
) -> None:
    (shell.folder / file).touch()
    status, _, errors = here("make", "job", "reports:generate")
    assert status == 2
    assert "cannot be made" in errors
    assert len(errors.splitlines()) == 1
    assert listing() == {file}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_one_line(here: Here, shell: Shell, listing: Listing) -> None:
    (shell.folder / "jobs").mkdir(mode=0o500)
    status, _, errors = here("make", "job", "reports:generate")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "Permission denied" in errors
    assert listing() == {"jobs"}


def test_a_link_that_leads_outside_is_refused(
    here: Here, shell: Shell, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (shell.folder / "away").symlink_to(outside)
    assert "is not inside" in here("make", "job", "reports:generate", "--dir", "away/jobs")[2]
    (shell.folder / "tests").symlink_to(outside)
    assert "leads out of" in here("make", "job", "reports:generate")[2]
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("reports",), "no category or no action"),
        (("Cleanup",), "no category or no action"),
        ((":generate",), "a job name begins with"),
        (("reports:",), "no category or no action"),
        (("reports:--",), "no category or no action"),
        (("Reports:generate",), "a job name begins with"),
        (("send welcome",), "a job name begins with"),
        (("sendWelcome",), "a job name begins with"),
        (("SendÜber",), "a job name begins with"),
        (("../x:y",), "a job name begins with"),
        (('a:b"\nimport os',), "a job name begins with"),
        (("",), "a job name begins with"),
        (("Aa" * 70,), "a job name begins with"),
        (("reports:" + "x" * 121,), "a job name begins with"),
        (("codes:2fa",), "cannot be the name of a function"),
        (("reports:test",), "pytest would take"),
        (("reports:generate", "--queue", "BAD QUEUE"), "a queue name begins with"),
        (("reports:generate", "--queue", ""), "a queue name begins with"),
        (("reports:generate", "--queue", "amq.x"), "amq."),
        (("reports:generate", "--dir", ""), "--dir takes a folder"),
        (("reports:generate", "--dir", "a\0b"), "--dir takes a folder"),
        (("reports:generate", "--dir", ".."), "is not inside"),
        (("reports:generate", "--dir", "jobs/../../x"), "is not inside"),
        (("reports:generate", "--dir", "/tmp"), "is not inside"),
        (("reports:generate", "--dir", "class/jobs"), "'class' cannot be imported"),
        (("reports:generate", "--dir", "my-app/jobs"), "'my-app' cannot be imported"),
        (("reports:generate", "--dir", "jöbs"), "cannot be imported"),
        (("reports:generate", "--dir", "json/jobs"), "would hide"),
        (("reports:generate", "--dir", "actorjobs"), "would hide"),
        (("reports:generate", "--dir", "shop/jobs"), "shop.py is there already"),
        (("reports:generate", "--dir", "x" * 300), "cannot be"),
        (("reports:generate", "--dir", "x/" * 3000), "cannot be"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    here: Here, listing: Listing, arguments: tuple[str, ...], says: str
) -> None:
    status, output, errors = here("make", "job", *arguments)
    assert (status, output) == (2, ""), errors
    assert says in errors
    assert len(errors.splitlines()) == 1
    assert listing() == set()


def test_a_module_of_the_same_name_is_not_hidden(here: Here, shell: Shell) -> None:
    package = shell.folder / "market"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "jobs.py").touch()
    assert "jobs.py is there already and a package would hide it" in here("make", "job", "reports:generate")[2]
    assert here("make", "job", "reports:generate", "--dir", "market/tasks")[0] == 0
    (package / "tasks/generate_invoices").mkdir()
    assert "is a folder" in here("make", "job", "invoices:generate", "--dir", "market/tasks")[2]
