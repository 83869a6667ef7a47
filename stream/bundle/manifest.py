"""What a bundle says about itself: `manifest.json`, and nothing else in the folder is believed without it.

The text is stable (fields in a fixed order, indented), so that a version control system shows what changed.
`seal` is the SHA-256 of the same text with an empty seal. With the hashes of the other files inside, it makes one
figure stand for the whole bundle: the digest. It protects against accidents; a forger can seal as well.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from stream.core.features import TensorSpec

__all__ = [
    "DATA_FILES",
    "DTYPES",
    "FORMAT",
    "INDEX",
    "MANIFEST",
    "MODEL",
    "PARITY",
    "RETRIEVAL",
    "RETRIEVAL_PARITY",
    "VECTORS",
    "VOCABULARY",
    "Distribution",
    "FileEntry",
    "Index",
    "Manifest",
    "Policy",
    "Retrieval",
    "Tensor",
    "TrainingWindow",
    "decode_manifest",
    "encode_manifest",
    "seal_manifest",
]

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MODEL: Final = "model.onnx"
VOCABULARY: Final = "vocabulary.json"
PARITY: Final = "parity.npz"
RETRIEVAL: Final = "retrieval.onnx"
RETRIEVAL_PARITY: Final = "retrieval.npz"
INDEX: Final = "index.faiss"
VECTORS: Final = "vectors.f32"
DATA_FILES: Final = (MODEL, VOCABULARY, PARITY, RETRIEVAL, RETRIEVAL_PARITY, INDEX, VECTORS)
"""Files that a bundle may hold beside its manifest: the first three always, two where a sequence model goes before the
ranker, two where a large vocabulary is searched with an index."""

DTYPES: Final = ("float32", "int32", "int64", "uint8")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[a-z0-9][a-z0-9:._-]{0,31}")


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """Type and shape of a named array; the first axis is "B", the batch, and other strings are sizes chosen per run."""

    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is none of {', '.join(DTYPES)}")
        if not self.shape or self.shape[0] != "B":
            raise ValueError(f"the first axis is the batch, 'B', not {list(self.shape)}")
        if any(isinstance(axis, int) and axis < 1 for axis in self.shape):
            raise ValueError(f"axes are positive: {list(self.shape)}")

    @classmethod
    def of(cls, spec: TensorSpec) -> Tensor:
        """The same, from the core's type."""
        return cls(spec.dtype, tuple(spec.shape))

    def spec(self) -> TensorSpec:
        """The same, as the core's type."""
        return TensorSpec(dtype=self.dtype, shape=self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """What the worker does with the scores unless it is told otherwise.

    Attributes:
        n: recommendations per event.
        seen: whether items are left out that the user touched in this session, in their kept history, or not at all.
    """

    n: int = 10
    seen: Literal["session", "history", "none"] = "session"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is at least 1, not {self.n}")


class TrainingWindow(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events the model has seen: `[from_ms, to_ms)` of `source`, and the command that trained it."""

    from_ms: int
    to_ms: int
    n_events: int
    source: str
    command: str


class Distribution(Struct, frozen=True, forbid_unknown_fields=True):
    """How a feature or the score was distributed: rising upper bounds of bins, and one share more than bounds."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges of a distribution rise, and there is one share more than edges")


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True, rename={"n_bytes": "bytes"}):
    """One file of the bundle: its SHA-256 in hex and its length."""

    sha256: str
    n_bytes: int

    def __post_init__(self) -> None:
        if _SHA256.fullmatch(self.sha256) is None:
            raise ValueError(f"{self.sha256!r} is not a SHA-256 in hex")

    @classmethod
    def of(cls, content: bytes) -> FileEntry:
        """The entry that describes `content`."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))


class Retrieval(Struct, frozen=True, forbid_unknown_fields=True):
    """The sequence model that goes before a ranker: what it wants and gives, and the floats of state kept per user."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    n_state: int = 0

    def __post_init__(self) -> None:
        if self.n_state < 0:
            raise ValueError(f"n_state is not negative, not {self.n_state}")
        wanted = {"items": "int64", "scores": "float32", "query": "float32"}
        _check_tensors(self.inputs, self.outputs, self.n_state, wanted)
        query = self.outputs["query"].shape
        if len(query) != 2 or not isinstance(query[1], int):
            raise ValueError(f"a query has two axes, the second of fixed size, not {list(query)}")

    @property
    def n_query(self) -> int:
        """Floats of the query."""
        size = self.outputs["query"].shape[1]
        return size if isinstance(size, int) else 0


class Index(Struct, frozen=True, forbid_unknown_fields=True):
    """How the model that ranks the vocabulary does so without a product with every item.

    Its graph gives a `query` (B, n_query) instead of items and scores. `index.faiss` finds `n_checked` items, and
    `vectors.f32` has what they are ranked by: an item's score is the product of its vector and the query. With parts,
    the graph gives `queries` (B, G, n_query) besides, one a part, which sum to the query.

    Attributes:
        n_query: floats of the query and of each vector; `vectors.f32` holds n_vocabulary times as many, little-endian.
        n_probe: lists that a search looks into.
        n_checked: items that a search ranks by their exact products, before it gives the best of them.
    """

    n_query: int
    n_probe: int
    n_checked: int

    def __post_init__(self) -> None:
        if min(self.n_query, self.n_probe, self.n_checked) < 1:
            raise ValueError(f"an index has positive sizes, not {self}")


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a worker must know before it touches the model.

    Attributes:
        format: of this file; a reader knows exactly one.
        name: of the model; with the version, `name@version` stands in every recommendation.
        created_from: the programs that wrote the bundle, with their versions.
        space: whether the model ranks the candidates it is given, or the whole vocabulary.
        inputs: what the model wants from the menu of features.
        outputs: `items`, `scores`, and `state` for a recurrent model, `parts` for one that explains its scores.
        n_state: floats of the model's own recurrent state kept per user; 0 for none.
        retrieval: the sequence model that goes before the model, where there is one; the state is then its own.
        index: how the vocabulary is searched, where it is too large for a product with every item.
        state_dtype: how these are kept between events: half precision costs no quality.
        parts: names of what a score is the sum of, such as "scale:minutes": the last axis of the output `parts`, and
            the reasons that recommendations give. Empty for a model that does not say.
        scales_ms: spans of the time scales the model was trained with.
        features: the feature specification as JSON; `feature_digest` covers it and the code that computed it.
        n_vocabulary: strings in the vocabulary.
        preprocessing: steps that the training log went through, if any, with the numbers fitted. What touches
            live events is in `features` too, and is applied from there.
        distributions: of features and scores over a sample of all events of the training window, see
            `stream.core.distributions`; what is seen later is held against them.
        metrics: what was measured when it was trained, by name, such as "news/hr@10".
        files: the other files of the folder, by name.
        seal: SHA-256 of the text with this field empty.
    """

    format: Literal[1] = FORMAT
    name: str
    version: int | str
    description: str = ""
    created_from: str = ""
    space: Literal["candidates", "vocabulary"]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    n_state: int = 0
    state_dtype: Literal["float16"] = "float16"
    parts: tuple[str, ...] = ()
    retrieval: Retrieval | UnsetType = UNSET
    index: Index | UnsetType = UNSET
    scales_ms: tuple[int, ...] = ()
    features: dict[str, Any]
    feature_digest: str
    n_vocabulary: int
    policy: Policy = Policy()
    training: TrainingWindow
    preprocessing: dict[str, Any] | UnsetType = UNSET
    distributions: dict[str, Distribution] | UnsetType = UNSET
    metrics: dict[str, float] = {}
    files: dict[str, FileEntry]
    seal: str = ""

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("version", str(self.version))):
            if _NAME.fullmatch(text) is None:
                raise ValueError(f"{what} {text!r} is not 1 to 64 letters, digits, dots, dashes or underscores")
        if not all(math.isfinite(figure) for figure in self.metrics.values()):
            raise ValueError("metrics are finite numbers")
        if set(self.files) != set(self.data_files):
            raise ValueError(f"files are exactly {sorted(self.data_files)}, not {sorted(self.files)}")
        if self.n_state < 0:
            raise ValueError(f"n_state is not negative, not {self.n_state}")
        self._check_tensors()

    def _check_tensors(self) -> None:
        wanted = {"items": "int64", "scores": "float32", **({"parts": "float32"} if self.parts else {})}
        _check_tensors(self.inputs, self.outputs, self.n_state, wanted)
        if self.parts:
            self._check_parts()
        if self.retrieval is not UNSET and (self.space != "candidates" or self.n_state > 0):
            raise ValueError("a sequence model goes before a model that ranks candidates and has no state")
        if self.space == "candidates" and "candidates" not in self.inputs:
            raise ValueError("a model that ranks candidates has `candidates` among its inputs")
        if self.space == "candidates" and self.outputs["items"].shape != self.inputs["candidates"].shape:
            raise ValueError("a model that ranks candidates gives one score for each")
        if (self.space == "vocabulary" or self.retrieval is not UNSET) and self.n_vocabulary < 1:
            raise ValueError("a model that ranks the vocabulary has one")
        if self.index is not UNSET:
            self._check_index(self.index)

    def _check_index(self, index: Index) -> None:
        if self.space != "vocabulary" and self.retrieval is UNSET:
            raise ValueError("an index belongs to a model that ranks the vocabulary")
        outputs = self.outputs if self.retrieval is UNSET else self.retrieval.outputs
        n_best = outputs["items"].shape[1]
        if not isinstance(n_best, int) or not n_best <= index.n_checked <= self.n_vocabulary:
            raise ValueError(f"an index checks {n_best} to {self.n_vocabulary} items, not {index.n_checked}")
        if self.retrieval is not UNSET and self.retrieval.n_query != index.n_query:
            raise ValueError(f"the index is asked with {index.n_query} floats, the query has {self.retrieval.n_query}")

    def _check_parts(self) -> None:
        for name in self.parts:
            if _PART.fullmatch(name) is None:
                raise ValueError(f"part {name!r} is not 1 to 32 small letters, digits, colons, dots or dashes")
        if len(set(self.parts)) != len(self.parts):
            raise ValueError(f"parts have names of their own, not {list(self.parts)}")
        shape = (*self.outputs["scores"].shape, len(self.parts))
        if self.outputs["parts"].shape != shape:
            raise ValueError(f"parts are {list(shape)}, a figure of each for every score, not {self.outputs['parts']}")

    @property
    def data_files(self) -> tuple[str, ...]:
        """The other files of the folder."""
        before = () if self.retrieval is UNSET else (RETRIEVAL, RETRIEVAL_PARITY)
        return (MODEL, VOCABULARY, PARITY, *before, *(() if self.index is UNSET else (INDEX, VECTORS)))

    @property
    def n_query(self) -> int:
        """Floats of the query that a sequence model gives to the ranker; 0 where there is none."""
        return 0 if self.retrieval is UNSET else self.retrieval.n_query

    @property
    def reference(self) -> str:
        """`name@version`, as it stands in recommendations."""
        return f"{self.name}@{self.version}"

    @property
    def tag(self) -> int:
        """The digest's first four bytes as an unsigned integer, never 0: marks whose recurrent state a record holds."""
        return max(1, int.from_bytes(bytes.fromhex(self.digest())[:4], "little"))

    def digest(self) -> str:
        """The seal, which stands for the whole bundle.

        Raises:
            ValueError: the manifest was never sealed.
        """
        if _SHA256.fullmatch(self.seal) is None:
            raise ValueError("this manifest has no seal yet")
        return self.seal


def _check_tensors(inputs: dict[str, Tensor], outputs: dict[str, Tensor], n_state: int, dtypes: dict[str, str]) -> None:
    """Outputs of these types, the items and scores of one shape, and the state the same on both sides."""
    wanted = {**dtypes, "state": "float32"} if n_state > 0 else dtypes
    given = {name: tensor.dtype for name, tensor in outputs.items()}
    if given != wanted:
        raise ValueError(f"outputs are {wanted}, not {given}")
    state = Tensor("float32", ("B", n_state)) if n_state > 0 else None
    if inputs.get("state") != state or outputs.get("state") != state:
        raise ValueError(f"with n_state {n_state}, the state goes in and comes out as {state}")
    shapes = {outputs[name].shape for name in ("items", "scores")}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"items and scores have one shape of two axes, not {sorted(map(list, shapes))}")


class _Version(Struct):
    """Only the format, to refuse a future one by that and not by its unknown fields."""

    format: int | UnsetType = UNSET


def encode_manifest(manifest: Manifest) -> bytes:
    """The text of `manifest.json`: the same manifest gives the same bytes.

    Keys are not sorted: in the feature specification, the order of the event types is what gives them their codes.
    """
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def seal_manifest(manifest: Manifest) -> Manifest:
    """The manifest with the seal that belongs to it."""
    blank = encode_manifest(msgspec.structs.replace(manifest, seal=""))
    return msgspec.structs.replace(manifest, seal=hashlib.sha256(blank).hexdigest())


def decode_manifest(content: bytes) -> Manifest:
    """Read `manifest.json`, strictly.

    Raises:
        ValueError: not JSON, another format, an unknown, missing or ill-typed field (each by name), or a broken seal.
    """
    try:
        version = msgspec.json.decode(content, type=_Version).format
        if version != FORMAT:
            named = "none" if version is UNSET else version
            raise ValueError(f"its format is {named}, and this version of polytempo reads format {FORMAT}")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    # Over the bytes as they are, so that fields which a later version adds do not break the seals of older bundles.
    blank = content.replace(f'"seal": "{manifest.seal}"'.encode(), b'"seal": ""')
    digest = hashlib.sha256(blank).hexdigest()
    if manifest.seal != digest:
        raise ValueError(f"its seal is broken: expected {digest}, found {manifest.seal!r}")
    return manifest
