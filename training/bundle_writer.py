"""What a training came to, as a bundle: first aside, to be judged, then with its figures where it belongs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from stream.bundle.load import Bundle, load_bundle
from stream.bundle.manifest import Manifest
from stream.core.distributions import Binned
from training.export import RetrievalModel, write_bundle
from training.indexing import IndexSettings
from training.job import Job
from training.sequences import SequenceBatch

__all__ = ["BundleWriter"]


@dataclass(frozen=True, slots=True, eq=False)
class BundleWriter:
    """Writes a bundle twice: aside, to be evaluated, and with its figures where it belongs."""

    job: Job
    module: torch.nn.Module
    example: Mapping[str, NDArray[Any]] | None
    inputs: tuple[str, ...]
    space: Any
    vocabulary: list[str] | None = None
    n_state: int = 0
    retrieval: RetrievalModel | None = None
    parts: tuple[str, ...] = ()
    histories: SequenceBatch | None = None

    def draft(self) -> Bundle:
        """The bundle without figures, loaded with every check."""
        with tempfile.TemporaryDirectory(prefix="polytempo-bundle-") as folder:
            self._write(Path(folder) / "draft", {})
            return load_bundle(Path(folder) / "draft")

    def write(self, metrics: dict[str, float], distributions: dict[str, Binned] | None = None) -> Manifest:
        """The bundle where the configuration wants it."""
        figures = {name: round(value, 5) for name, value in metrics.items()}
        return self._write(self.job.path, figures, distributions)

    def _write(self, path: Path, metrics: dict[str, float], distributions: dict[str, Binned] | None = None) -> Manifest:
        output, material = self.job.config.bundle, self.job.material
        return write_bundle(
            path,
            module=self.module,
            inputs=self.inputs,
            features=material.spec,
            space=self.space,
            name=output.name,
            version=output.version,
            training=material.window(self.job.command),
            vocabulary=self.vocabulary or [],
            n_state=self.n_state,
            parts=self.parts,
            policy=self.job.config.policy,
            metrics=metrics,
            description=output.description,
            preprocessing=material.preprocessing,
            distributions=distributions,
            example=self.example,
            replace=self.job.replace,
            retrieval=self.retrieval,
            index=IndexSettings(output.index_above, output.index_recall),
            histories=self.histories,
        )
