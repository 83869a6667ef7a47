"""Fuzzing of everything that reads bytes from outside.

python -m tests.fuzz --target decode --seconds 300
python -m tests.fuzz --target bundle --seconds 300 --seed 7
python -m tests.fuzz --target activity --seconds 300 --atheris      guided by coverage; needs the package atheris

A find is written to the folder --finds and ends the run with status 1; `--replay FILE` runs it again. What takes the
whole process down, such as a fault of a native library, leaves its input there as `running`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

import stream
from tests.fuzz.mutate import mutated


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finds", type=Path, default=Path(tempfile.gettempdir()) / "polytempo-finds")
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--atheris", action="store_true")
    options = parser.parse_args()
    if options.atheris:
        return _guided(options)
    from tests.fuzz.targets import TARGETS

    target = TARGETS[options.target]
    if options.replay is not None:
        target.check(options.replay.read_bytes())
        return 0
    options.finds.mkdir(parents=True, exist_ok=True)
    running = options.finds / f"{options.target}-running"
    seeds, rng, n = target.seeds(), Random(options.seed), 0
    for seed in seeds:
        target.check(seed)
    began_s, said_s = time.monotonic(), 0.0
    while (passed_s := time.monotonic() - began_s) < options.seconds:
        data = mutated(seeds, rng)
        if options.target == "bundle":  # native code reads it
            running.write_bytes(data)
        try:
            target.check(data)
        except Exception:  # noqa: BLE001 - whatever it is, it is a find
            file = options.finds / f"{options.target}-{hashlib.sha256(data).hexdigest()[:12]}"
            file.write_bytes(data)
            traceback.print_exc()
            print(json.dumps({"target": options.target, "inputs": n, "find": str(file)}))
            return 1
        n += 1
        if passed_s - said_s > 10:
            said_s = passed_s
            print(f"{options.target}: {n:,} inputs in {passed_s:.0f} s", file=sys.stderr)
    running.unlink(missing_ok=True)
    print(json.dumps({"target": options.target, "inputs": n, "seconds": round(passed_s, 1), "find": None}))
    return 0


def _guided(options: argparse.Namespace) -> int:
    import atheris  # type: ignore[import-not-found]  # an extra of its own: there are no wheels beside Linux

    with atheris.instrument_imports(include=["stream"], exclude=_compiled()):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[options.target]
    corpus = Path(tempfile.mkdtemp(prefix="polytempo-corpus-"))
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options.finds.mkdir(parents=True, exist_ok=True)
    libfuzzer = [f"-max_total_time={int(options.seconds)}", f"-seed={options.seed or 1}", "-rss_limit_mb=4096"]
    atheris.Setup(
        [sys.argv[0], *libfuzzer, f"-artifact_prefix={options.finds}/{options.target}-", str(corpus)], target.check
    )
    atheris.Fuzz()
    return 0


def _compiled() -> list[str]:
    """Modules with kernels, which no longer compile once what counts branches is in them."""
    root = Path(stream.__file__).parent
    return [
        ".".join(("stream", *file.relative_to(root).with_suffix("").parts))
        for file in sorted(root.rglob("*.py"))
        if "@njit" in file.read_text()
    ]


if __name__ == "__main__":
    sys.exit(main())
