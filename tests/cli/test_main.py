"""The command line as a whole: fast help, clean errors, quiet interruption."""

import json
import subprocess
import sys
import types
from typing import NoReturn

import pytest

from stream import __version__
from stream.cli.console import print_json
from stream.cli.main import COMMANDS, main
from stream.cli.options import parse_duration_ms
from stream.errors import PolytempoError

DEAR = ("faust", "numba", "torch", "onnxruntime", "polars", "kafka", "numpy")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for the module of `polytempo topics`, whose function a test chooses."""
    module = types.ModuleType("stream.cli.topics")
    module.__spec__ = sys.modules["stream.cli.console"].__spec__
    monkeypatch.setitem(sys.modules, "stream.cli.topics", module)
    return module


def test_help_imports_nothing_dear() -> None:
    """In a process of its own: what this one has loaded says nothing."""
    script = (
        "import sys; from stream.cli.main import main; code = main(['--help']); "
        f"print(code, [name for name in {DEAR!r} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "0 []"


def test_help_lists_each_command_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "First steps" in shown
    assert all(f" {name} " in shown for name in ("broker", "topics"))


@pytest.mark.parametrize("name", ["broker", "topics"])
def test_the_help_page_of_a_command_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"polytempo {name} --" in shown
    assert "First steps" not in shown


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_commands_are_named_once() -> None:
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["topics", "--no-such-option"], ["topics", "--partitions", "x"]]
)
def test_a_wrong_call_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_expected_error_is_a_line_and_a_hint_on_standard_error(
    command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def topics() -> NoReturn:
        raise PolytempoError("the cheese [is] off.", "Buy another.")

    command.topics = topics  # type: ignore[attr-defined]
    assert main(["topics"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: the cheese [is] off.\nBuy another.\n"
    assert captured.out == ""


def test_ctrl_c_is_quiet(command: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def topics() -> NoReturn:
        raise KeyboardInterrupt

    command.topics = topics  # type: ignore[attr-defined]
    assert main(["topics"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_extra_is_named(command: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def topics() -> NoReturn:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    command.topics = topics  # type: ignore[attr-defined]
    assert main(["topics"]) == 2
    assert "polytempo[training]" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback(command: types.ModuleType) -> None:
    def topics() -> NoReturn:
        raise ZeroDivisionError

    command.topics = topics  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        main(["topics"])


def test_a_commands_exit_code_is_handed_on(command: types.ModuleType) -> None:
    def topics() -> int:
        return 3

    command.topics = topics  # type: ignore[attr-defined]
    assert main(["topics"]) == 3


def test_json_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"text": "a\nb [bold]ü", "figure": 0.1, "list": list(range(100))}
    print_json(document)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == document


def test_json_has_no_form_for_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        print_json({"figure": float("nan")})


@pytest.mark.parametrize(
    ("text", "expected_ms"), [("500ms", 500), ("90s", 90_000), ("1.5h", 5_400_000), ("30 d", 2_592_000_000)]
)
def test_durations_are_written_with_their_unit(text: str, expected_ms: int) -> None:
    assert parse_duration_ms(text) == expected_ms


@pytest.mark.parametrize("text", ["", "5", "d", "-1d", "1y"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(PolytempoError, match="is no duration"):
        parse_duration_ms(text)
