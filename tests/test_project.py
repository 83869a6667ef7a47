"""The project as a whole: what its README says exists, and its lock files hold what they must and nothing else."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from cyclopts import MissingArgumentError

from stream.cli.main import COMMANDS, build_app

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")


def commands_of_readme() -> list[str]:
    """All lines of shell in the README that call `polytempo`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`(polytempo [^`]+)`", text)
    return [line for line in [*lines, *inline] if line.startswith("polytempo ")]


def targets_of_readme() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)


def pinned(lock: str) -> dict[str, set[str]]:
    """Package -> its versions, of which there are several where they depend on Python's version."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ \\;]+)", (ROOT / lock).read_text(), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


@pytest.mark.parametrize("line", commands_of_readme())
def test_every_command_of_the_readme_is_one_that_the_command_line_takes(line: str) -> None:
    _, *tokens = shlex.split(line, comments=True)
    assert tokens[0] in {command.name for command in COMMANDS}
    app = build_app(tokens[0])
    if not any(token.startswith("-") or "." in token or "/" in token for token in tokens[1:]):
        try:
            app.parse_known_args(tokens)
        except MissingArgumentError:  # text may speak of a command without saying how it is called
            tokens.append("--help")
    function, _, rest = app.parse_known_args(tokens)[:3]
    assert function is not None
    assert rest == [], f"not understood: {rest}"


def test_the_readme_shows_the_first_steps() -> None:
    shown = {line.split()[1] for line in commands_of_readme()}
    assert shown >= {"demo", "broker", "topics", "worker", "produce", "watch", "train", "bundle", "schema"}
    assert {"demo", "test"} <= set(targets_of_readme())


@pytest.mark.parametrize("target", sorted({"help", "lock", "lint", "clean", *targets_of_readme()}))
def test_make_has_every_target_that_the_readme_names(target: str) -> None:
    answer = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_a_hash_for_every_package_and_name_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links|--trusted)", text, re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    without = [entry.splitlines()[0] for entry in entries if "==" in entry and "--hash=sha256:" not in entry]
    assert without == []
    assert len(entries) > 40


def test_both_locks_agree_and_the_demo_installs_no_torch() -> None:
    base, everything = (pinned(lock) for lock in LOCKS)
    assert {name for name, versions in base.items() if not versions <= everything.get(name, set())} == set()
    assert {"torch", "onnx", "pytest", "mypy"}.isdisjoint(base)
    assert {"torch", "onnx", "pytest", "mypy"} <= set(everything)


def test_locks_fit_the_project_file() -> None:
    """Every direct dependency is locked, and those with an exact version at that version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock, wanted in (
        ("requirements.lock", [*project["dependencies"], *extras["broker"]]),
        ("requirements-dev.lock", [*project["dependencies"], *(each for extra in extras.values() for each in extra)]),
    ):
        versions = pinned(lock)
        for requirement in wanted:
            match = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?(==([0-9.]+))?", requirement)
            assert match is not None
            name = match[1].lower().replace("_", "-")
            assert name in versions, f"{name} is not in {lock}: run `make lock`"
            if match[4]:
                assert versions[name] == {match[4]}


def test_files_name_no_package_registry() -> None:
    """Where packages come from is the business of pip's settings."""
    hosts = re.compile(r"(pypi" + r"\.org|pythonhosted" + r"\.org|repo1?" + r"\.maven|files\.python" + r"hosted)")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".onnx", ".npz", ".parquet") or not path.is_file():
            continue
        if hosts.search(path.read_text(encoding="utf-8", errors="replace")):
            found.append(name)
    assert found == []
