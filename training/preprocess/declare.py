"""A configuration as `polytempo prepare` reads it: one for training, or a file of its own with the same sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
from msgspec import Struct

from stream.core.events import FORGET, EventTypes
from stream.errors import PolytempoError
from training.config import Config, Data, Features, Window
from training.preprocess.pipeline import Prepared, Preprocess

__all__ = ["Declaration", "read_declaration"]

_NO_TYPE: Final = FORGET  # values of what is no event stay as they are


class Declaration(Struct, frozen=True):
    """What a preparation needs of it.

    Attributes:
        preprocess: the steps.
        data: the file and its columns.
        window: where training ends, to fit on what is before; without it everything is fitted to.
        features: whose context fields are read, and whose event types there are.
    """

    preprocess: Preprocess
    data: Data = Data()
    window: Window | None = None
    features: Features = Features()

    def types(self) -> EventTypes:
        """The event types of the deployment."""
        return EventTypes() if self.features.kinds is None else EventTypes.from_json(self.features.kinds)

    def known_until_ms(self, events: pl.DataFrame) -> int | None:
        """The end of training in a log, None where everything is fitted to.

        Raises:
            PolytempoError: the window does not fit into the log.
        """
        times = events["ts_ms"].drop_nulls()
        if self.window is None or len(times) == 0:
            return None
        return self.window.bounds_ms(int(times.min()), int(times.max()))[1]  # type: ignore[arg-type]

    def finished(self, prepared: Prepared) -> pl.DataFrame:
        """The events by time, with `value_model`: their values after the steps that the worker repeats."""
        events = prepared.events
        codes = self.types().codes()
        kind = events["event_type"].replace_strict(codes, default=_NO_TYPE, return_dtype=pl.UInt8).to_numpy()
        value = prepared.values.transform(events["value"].fill_null(float("nan")).to_numpy().astype(np.float32), kind)
        return events.with_columns(pl.Series("value_model", value).fill_nan(None)).sort("ts_ms", maintain_order=True)


def read_declaration(path: Path) -> Declaration:
    """Read and check it.

    Raises:
        PolytempoError: it is not there, is no TOML, has no `[preprocess]`, or says something that means nothing.
    """
    try:
        plain: dict[str, Any] = msgspec.toml.decode(path.read_bytes())
        unknown = set(plain) - set(Config.__struct_fields__)
        if unknown:
            raise PolytempoError(f"{path.name}: there is no section or setting {', '.join(sorted(unknown))}.")
        if "preprocess" not in plain:
            raise PolytempoError(
                f"{path.name} has no section [preprocess].", "See training/configs/retail-ranker.toml."
            )
        return msgspec.convert(plain, Declaration)
    except OSError as error:
        raise PolytempoError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PolytempoError(f"{path.name}: {error}.", "See training/configs for commented examples.") from error
