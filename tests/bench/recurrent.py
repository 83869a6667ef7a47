"""An untrained recurrent model over the simulated shop's items: it costs what a trained one of its size costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stream.demo.shop_items import item_ids
from tests.bundle.models import write_recurrent
from training.nets.recurrent import Recurrent, RecurrentConfig

__all__ = ["write_shop_recurrent"]


def write_shop_recurrent(path: Path, n_items: int) -> None:
    """Write the bundle: `n_items` items and 64 floats of state, as the bundle models/shop-recurrent has."""
    torch.manual_seed(0)
    write_recurrent(
        path,
        module=Recurrent(RecurrentConfig(n_items)),
        name=path.name,
        vocabulary=item_ids(np.arange(n_items)).to_list(),
        n_state=RecurrentConfig(n_items).n_state,
    )
