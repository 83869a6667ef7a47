"""`polytempo export`: a training's checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path

from stream.cli.console import print_json, results

__all__ = ["export"]


def export(
    checkpoint: Path,
    /,
    *,
    out: Path,
    keep: bool = False,
    index_above: int | None = None,
    index_recall: float | None = None,
    json: bool = False,
) -> None:
    """Make a bundle of a training's checkpoint: of its best epoch so far.

    While the training goes on, or after it was ended. The manifest says which epoch it was and what it was chosen by;
    `polytempo train --evaluate` judges the bundle on the later part of a log. Needs the extra `training`.

    Examples:

    `polytempo export run.pt --out models/films`

    `polytempo export run.pt --out models/films --index-above 1000000`

    Args:
        checkpoint: What `polytempo train --checkpoint` keeps.
        out: Folder of the bundle.
        keep: Fail if another bundle is there, instead of replacing it.
        index_above: Search a larger vocabulary with an index (extra `index`), instead of a product with every item; as
            the training's configuration says if not given.
        index_recall: Least share of the best items that the index must find, or no bundle is written; likewise.
        json: Print one line at the end: path, reference, metrics.
    """
    from training.checkpoint_export import export_checkpoint

    manifest = export_checkpoint(
        checkpoint, out, replace_other=not keep, index_above=index_above, index_recall=index_recall
    )
    if json:
        print_json({"path": str(out), "reference": manifest.reference, "metrics": dict(manifest.metrics)})
    else:
        said = ", ".join(f"{name} {value:g}" for name, value in manifest.metrics.items())
        results.print(f"{manifest.reference} in {out}" + (f": {said}" if said else ""), soft_wrap=True)
