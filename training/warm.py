"""Weights beside a bundle, for the training that comes after it.

    models/shop-3                 the bundle: ONNX, as it is served
    models/shop-3.weights.pt      the module's tensors and its vocabulary; read by training alone

A bundle's graph is no place to take weights from: its exporter folds, fuses and renames what it was given. The file
names the bundle by its digest, so that what another bundle left behind is not taken for this one's. It holds tensors
and strings, and is read with PyTorch's restricted loader: it cannot run code.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stream.bundle.errors import BundleError
from stream.bundle.load import read_manifest
from stream.bundle.manifest import Manifest

__all__ = ["Start", "keep_weights", "read_start", "weights_path"]


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Weights to begin with.

    Attributes:
        weights: by name.
        vocabulary: item ids; an item table's row i (from 1, or from 0 where 0 is no item) is `vocabulary[i - 1]`'s.
    """

    weights: dict[str, Tensor]
    vocabulary: list[str]

    def below(self, prefix: str) -> Start:
        """The weights of one part."""
        cut = len(prefix)
        found = {name[cut:]: each for name, each in self.weights.items() if name.startswith(prefix)}
        return Start(found, self.vocabulary)

    def without(self, names: AbstractSet[str]) -> Start:
        """All but these weights."""
        return Start({name: each for name, each in self.weights.items() if name not in names}, self.vocabulary)

    def give(self, module: nn.Module, vocabulary: Sequence[str] = (), tables: AbstractSet[str] = frozenset()) -> int:
        """Give `module` these weights, in place; the number of items that it has known before.

        Where the two differ in shape or name, the module keeps its own. Items that are new get the mean of those that
        are not: with nothing known of them, they are as good as the average.

        Args:
            vocabulary: of the module.
            tables: names of its weights with a row for each item.
        """
        place = {item: number for number, item in enumerate(self.vocabulary)}
        before = torch.tensor([place.get(item, -1) for item in vocabulary], dtype=torch.long)  # (V,)
        known = before >= 0
        with torch.no_grad():
            for name, own in module.state_dict().items():
                given = self.weights.get(name)
                if given is None:
                    continue
                if name not in tables:
                    if given.shape == own.shape:
                        own.copy_(given)
                    continue
                n_first = len(own) - len(vocabulary)  # rows before the first item: 1 where 0 is no item
                if given.shape[1:] != own.shape[1:] or len(given) - len(self.vocabulary) != n_first or not known.any():
                    continue
                if not own.is_floating_point():  # what is said of items, not learnt
                    continue
                rows = given[n_first:]
                own[:n_first].copy_(given[:n_first])
                own[n_first:] = torch.where(
                    known.reshape(-1, *([1] * (own.ndim - 1))),
                    rows[before.clamp(min=0)],
                    rows[before[known]].mean(dim=0),
                )
        return int(known.sum())


def weights_path(bundle: Path) -> Path:
    """Where the weights of a bundle are."""
    return bundle.with_name(f"{bundle.name}.weights.pt")


def keep_weights(bundle: Path, manifest: Manifest, module: nn.Module, vocabulary: Sequence[str] = ()) -> None:
    """Write the weights of a bundle that was just written, in one step."""
    path = weights_path(bundle)
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as opened:
        torch.save(
            {"digest": manifest.digest(), "vocabulary": list(vocabulary), "weights": module.state_dict()}, opened
        )
        opened.flush()
        os.fsync(opened.fileno())
    aside.replace(path)


def read_start(bundle: Path) -> Start | None:
    """The weights of a bundle; None where there are none, or only another bundle's.

    Raises:
        BundleError: the bundle has no manifest, or the file of weights cannot be read.
    """
    path = weights_path(bundle)
    digest = read_manifest(bundle).digest()
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if content["digest"] != digest:
            return None
        return Start(content["weights"], content["vocabulary"])
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BundleError(path, f"it holds no weights: {error}") from error
