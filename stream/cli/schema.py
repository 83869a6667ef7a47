"""`polytempo schema`: the contract of the messages, for producers and consumers in any language."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stream import __version__
from stream.errors import PolytempoError
from stream.wire.schema import asyncapi, json_schema

__all__ = ["schema"]


def schema(
    which: Literal[
        "event",
        "item",
        "recommendation",
        "dead-letter",
        "outcome",
        "user-span",
        "feedback-totals",
        "receipt",
        "asyncapi",
    ] = "asyncapi",
    /,
    *,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
) -> None:
    """Print the messages' contract: JSON Schema of one message, or AsyncAPI 3.0 of all topics.

    Parameters
    ----------
    which
        A message, whose JSON Schema (draft 2020-12) is printed, or asyncapi for the document of all topics.
    out
        Write to this file instead of printing.
    """
    document = asyncapi(__version__) if which == "asyncapi" else json_schema(which)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if out is None:
        print(text)
        return
    try:
        out.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise PolytempoError(f"{out} cannot be written: {error.strerror}.") from error
