"""The core is arrays in, arrays out: what it imports and what it calls."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "stream" / "core").glob("*.py"))
IMPURE = {
    "asyncio", "datetime", "io", "logging", "os", "pathlib", "pickle", "random", "secrets", "socket", "subprocess",
    "sys", "threading", "time", "uuid",
}  # fmt: skip
CALLS = {"print", "input", "open", "exec", "eval"}


def test_every_import_contract_of_the_project_is_kept() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_no_file_of_the_core_reads_a_clock_the_environment_or_a_file(path: Path) -> None:
    """`import x`, `from x import y`, `np.random` and built-in input and output."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.partition(".")[0] for name in names} & IMPURE, f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("np.random", "np.datetime64", "np.load", "np.save"), path.name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in CALLS, f"{path.name}:{node.lineno}"
