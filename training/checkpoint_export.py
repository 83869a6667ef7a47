"""The bundle of a checkpoint: of a run that still goes on, or was ended, the weights of its best epoch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import msgspec
import torch

from stream.bundle.manifest import Manifest, TrainingWindow
from stream.core.features import FeatureSpec
from stream.errors import PolytempoError
from training.config import Config, SequenceTraining
from training.export import write_bundle
from training.fit import Fitted
from training.indexing import IndexSettings
from training.sequence_learning import Learnt
from training.sequence_models import (
    build,
    inputs_of,
    n_state_of,
    parts_of,
)
from training.sequences import SequenceBatch

__all__ = ["export_checkpoint"]


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    replace_other: bool = True,
    index_above: int | None = None,
    index_recall: float | None = None,
) -> Manifest:
    """Write the bundle of the best epoch that a checkpoint knows, or of its last step where no epoch has ended.

    Args:
        replace_other: whether another bundle in the way may be replaced.
        index_above, index_recall: instead of what the training's configuration says, see `training.config.Output`.

    Raises:
        PolytempoError: the file is no checkpoint of `polytempo train`, or an index is needed and cannot be made.
        BundleError: the bundle cannot be written there.
    """
    try:
        content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        about = content["about"]
        config = msgspec.json.decode(about["config"], type=Config)
        spec = FeatureSpec.from_json(msgspec.json.decode(about["features"]))
        window = msgspec.json.decode(about["window"], type=TrainingWindow)
        histories = SequenceBatch(**about["histories"]) if "histories" in about else None
    except OSError as error:
        raise PolytempoError(f"{checkpoint} cannot be read: {error.strerror}.") from error
    except (KeyError, TypeError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise PolytempoError(
            f"{checkpoint.name} is no checkpoint of a sequence model.", "`polytempo train --checkpoint` writes them."
        ) from error
    model = config.model
    if not isinstance(model, SequenceTraining):
        raise PolytempoError(f"{checkpoint.name} is of a {type(model).__name__}, which is no sequence model.")
    module = build(model, len(about["vocabulary"]), n_history=spec.n_history, scales=spec.state.scales)
    module.load_state_dict(content["best"] or content["model"])
    fitted = Fitted(**content["done"])
    metrics = Learnt(module, fitted).metrics() if fitted.best_epoch > 0 else {}
    return write_bundle(
        out,
        module=module,
        inputs=inputs_of(model),
        features=spec,
        space="vocabulary",
        name=config.bundle.name,
        version=config.bundle.version,
        training=window,
        vocabulary=about["vocabulary"],
        n_state=n_state_of(model, module),
        parts=parts_of(module),
        policy=config.policy,
        metrics={name: round(value, 5) for name, value in metrics.items()},
        description=config.bundle.description,
        replace=replace_other,
        index=IndexSettings(
            config.bundle.index_above if index_above is None else index_above,
            config.bundle.index_recall if index_recall is None else index_recall,
        ),
        histories=histories,
    )
