"""A bundle that does not agree with itself, or with this code, is refused with the exact reason; nothing in it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stream.bundle import load as load_module
from stream.bundle.errors import BundleError
from stream.bundle.graph import inspect_graph
from stream.bundle.load import load_bundle
from stream.bundle.manifest import decode_manifest
from stream.core.features import FeatureSpec
from tests.bundle.damage import replace_file, rewrite
from tests.bundle.models import write_fused

FILES = ("manifest.json", "model.onnx", "vocabulary.json", "parity.npz")

Copy = Callable[[str], Path]


FUSED_FILES = (*FILES, "retrieval.onnx", "retrieval.npz")


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    return caught.value


def add_parts(manifest: dict[str, Any], names: list[str], shape: list[Any]) -> None:
    """Claim that a score is the sum of named parts."""
    manifest.update(parts=names)
    manifest["outputs"]["parts"] = {"dtype": "float32", "shape": shape}


def test_a_whole_bundle_is_loaded(bundles: Path) -> None:
    bundle = load_bundle(bundles / "recurrent")
    assert bundle.reference == "recurrent@1"
    assert bundle.vocabulary[0] == "item-0"
    assert bundle.tag == int.from_bytes(bytes.fromhex(bundle.manifest.digest()[:8]), "little")


def test_bundles_have_tags_of_their_own(bundles: Path) -> None:
    assert len({load_bundle(bundles / name).tag for name in ("ranker", "ranker-2", "recurrent")}) == 3


@pytest.mark.parametrize("file", FUSED_FILES)
def test_any_flipped_byte_is_found_in_the_file_where_it_is(copy: Copy, file: str) -> None:
    folder = copy("fused" if file not in FILES else "recurrent")
    whole = (folder / file).read_bytes()
    for at in np.linspace(0, len(whole) - 1, 40).astype(int).tolist():
        (folder / file).write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
        assert refused(folder).path.name == file
    (folder / file).write_bytes(whole)
    load_bundle(folder)


@pytest.mark.parametrize("file", FUSED_FILES)
def test_a_missing_file_is_named(copy: Copy, file: str) -> None:
    folder = copy("fused" if file not in FILES else "recurrent")
    (folder / file).unlink()
    error = refused(folder)
    assert error.path == folder / file
    assert "missing" in error.message


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_named(copy: Copy, file: str) -> None:
    folder = copy("recurrent")
    os.truncate(folder / file, (folder / file).stat().st_size // 2)
    assert refused(folder).path == folder / file


def test_a_changed_hash_says_both_hashes(copy: Copy) -> None:
    folder = copy("ranker")
    rewrite(folder, lambda manifest: manifest["files"]["model.onnx"].update(sha256="0" * 64))
    error = refused(folder)
    assert error.path.name == "model.onnx"
    assert error.expected == "0" * 64
    assert "its SHA-256: expected 000000" in error.message


def test_a_broken_seal_is_a_reason_of_its_own(copy: Copy) -> None:
    folder = copy("ranker")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"hr@10', '"hr@20').replace("0.5", "0.6"))
    assert "its seal is broken" in refused(folder).message


def test_another_feature_digest_says_both_and_what_to_do(copy: Copy) -> None:
    folder = copy("ranker")
    rewrite(folder, lambda manifest: manifest.update(feature_digest="ab" * 32))
    error = refused(folder)
    assert error.expected == FeatureSpec().digest()
    assert error.found == "ab" * 32
    assert "polytempo train" in error.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(surprise=1), "unknown field `surprise`"),
        (lambda m: m["policy"].update(nn=1), "unknown field `nn`"),
        (lambda m: m.pop("training"), "missing required field `training`"),
        (lambda m: m.update(n_state="16"), "n_state"),
        (lambda m: m.update(format=2), "its format is 2"),
        (lambda m: m.update(name="../up"), "name '../up'"),
        (lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}}), "files are exactly"),
        (lambda m: m["inputs"]["item"].update(dtype="object"), "dtype 'object'"),
        (lambda m: m["inputs"]["item"].update(shape=[3]), "the first axis is the batch"),
        (lambda m: m.update(n_state=8), "with n_state 8, the state goes in and comes out"),
        (lambda m: m["policy"].update(seen="maybe"), "Invalid enum value 'maybe'"),
        (lambda m: m.update(parts=["scale:days"]), "outputs are {'items': 'int64', 'scores': 'float32', 'parts'"),
        (lambda m: add_parts(m, ["a", "a"], ["B", 20, 2]), "parts have names of their own"),
        (lambda m: add_parts(m, ["Scale"], ["B", 20, 1]), "part 'Scale' is not 1 to 32"),
        (lambda m: add_parts(m, ["a", "b"], ["B", 20, 3]), "parts are ['B', 20, 2], a figure of each for every score"),
        (lambda m: add_parts(m, ["a", "b"], ["B", 20, 2]), "its outputs: expected"),
        (lambda m: m["features"].pop("candidates"), "its feature specification is refused"),
        (lambda m: m["features"].update(extra=1), "its feature specification is refused"),
        (lambda m: m.update(scales_ms=[1000]), "its time scales (ms): expected [300000"),
        (lambda m: m["inputs"].update(moon={"dtype": "float32", "shape": ["B"]}), "'moon' is not on the menu"),
        (lambda m: m["inputs"]["gap_s"].update(dtype="int64"), "input 'gap_s': expected float32 (B), found int64 (B)"),
        (lambda m: m["inputs"]["item"].update(shape=["B", 2]), "input 'item': expected int64 (B), found int64 (B, 2)"),
        (lambda m: m.update(n_vocabulary=61), "its number of items: expected 61, found 60"),
        (lambda m: m["inputs"].pop("value"), "its inputs: expected ['gap_s', 'item', 'kind', 'state']"),
        (lambda m: [m["outputs"][n].update(shape=["B", 21]) for n in ("items", "scores")], "its output 'items'"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    copy: Copy, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    folder = copy("recurrent")
    rewrite(folder, change)
    assert reason in refused(folder).message


def test_nested_nonsense_for_a_manifest_is_refused() -> None:
    for content in (b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"format": 1, "features": ' + b'{"a":' * 100_000):
        with pytest.raises(ValueError, match=r"."):
            decode_manifest(content)


def test_an_unexpected_file_is_refused(copy: Copy) -> None:
    folder = copy("ranker")
    (folder / "custom_ops.py").write_text("raise SystemExit")
    error = refused(folder)
    assert error.path.name == "custom_ops.py"
    assert "holds no such file" in error.message


@pytest.mark.parametrize("file", FILES)
def test_a_symbolic_link_is_refused_even_to_the_right_content(copy: Copy, bundles: Path, file: str) -> None:
    folder = copy("ranker")
    (folder / file).unlink()
    (folder / file).symlink_to(bundles / "ranker" / file)
    error = refused(folder)
    assert error.path == folder / file
    assert "symbolic link" in error.message


def test_a_pipe_is_refused_without_waiting_for_a_writer(copy: Copy) -> None:
    folder = copy("ranker")
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    assert "not a regular file" in refused(folder).message


def test_a_file_beyond_its_limit_is_not_read(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load_module.MAX_BYTES, "model.onnx", 100)
    error = refused(copy("ranker"))
    assert error.path.name == "model.onnx"
    assert "too large: expected at most 100 bytes" in error.message


class Explosive:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def test_a_pickle_in_the_parity_file_is_never_unpickled(copy: Copy, tmp_path: Path) -> None:
    folder, mark = copy("ranker"), tmp_path / "exploded"
    arrays: dict[str, Any] = dict(np.load(folder / "parity.npz"))
    arrays["out.scores"] = np.array([Explosive(mark)], object)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    replace_file(folder, "parity.npz", buffer.getvalue())
    error = refused(folder)
    assert error.path.name == "parity.npz"
    assert "allow_pickle=False" in error.message
    assert not mark.exists()


@pytest.mark.parametrize("file", ["model.onnx", "vocabulary.json", "parity.npz"])
def test_a_bare_pickle_in_the_place_of_any_file_is_never_unpickled(copy: Copy, tmp_path: Path, file: str) -> None:
    folder, mark = copy("ranker"), tmp_path / "exploded"
    replace_file(folder, file, pickle.dumps(Explosive(mark)))
    assert refused(folder).path.name == file
    assert not mark.exists()


def test_parity_arrays_that_are_not_declared_are_named(copy: Copy) -> None:
    folder = copy("ranker")
    buffer = io.BytesIO()
    np.savez(buffer, **dict(np.load(folder / "parity.npz")), more=np.zeros(1))
    replace_file(folder, "parity.npz", buffer.getvalue())
    assert "its arrays: expected" in refused(folder).message


def test_golden_outputs_that_do_not_come_out_are_named_with_both_figures(copy: Copy) -> None:
    folder = copy("recurrent")
    arrays = dict(np.load(folder / "parity.npz"))
    arrays["out.state"][3, 5] += 0.01
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    replace_file(folder, "parity.npz", buffer.getvalue())
    error = refused(folder)
    assert error.path.name == "model.onnx"
    assert "state[3, 5]: expected" in error.message


def test_another_models_graph_does_not_compute_the_golden_outputs(copy: Copy, bundles: Path) -> None:
    folder = copy("ranker")
    replace_file(folder, "model.onnx", (bundles / "ranker-2" / "model.onnx").read_bytes())
    assert "does not compute its golden outputs" in refused(folder).message


@pytest.mark.parametrize(
    ("vocabulary", "reason"),
    [
        (["a"] * 60, "item 'a' stands in it more than once"),
        ([*map(str, range(59)), ""], "empty"),
        (list(range(60)), "not a JSON list of strings"),
        ({"a": 1}, "not a JSON list of strings"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(copy: Copy, vocabulary: object, reason: str) -> None:
    folder = copy("recurrent")
    replace_file(folder, "vocabulary.json", json.dumps(vocabulary).encode())
    error = refused(folder)
    assert error.path.name == "vocabulary.json"
    assert reason in error.message


@pytest.mark.parametrize("location", ["../../secret", "/etc/hostname", "weights.bin"])
def test_weights_in_another_file_are_refused_wherever_it_lies(copy: Copy, tmp_path: Path, location: str) -> None:
    folder = copy("ranker")
    (tmp_path / "secret").write_bytes(bytes(4096))
    model = onnx.load_from_string((folder / "model.onnx").read_bytes())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    replace_file(folder, "model.onnx", model.SerializeToString())
    error = refused(folder)
    assert error.path.name == "model.onnx"
    assert "takes weights from other files" in error.message
    assert location in error.message


def test_external_weights_are_found_inside_nested_graphs_and_attributes() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    branch = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    model = helper.make_model(helper.make_graph([branch], "outer", [condition], []))
    assert inspect_graph(model.SerializeToString()).external == {"?"}


def test_operators_outside_the_standard_are_named(copy: Copy) -> None:
    folder = copy("ranker")
    model = onnx.load_from_string((folder / "model.onnx").read_bytes())
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    model.graph.node.append(helper.make_node("Run", [], [], domain="com.evil"))
    replace_file(folder, "model.onnx", model.SerializeToString())
    assert "com.evil::Run" in refused(folder).message


def test_a_graph_cut_off_anywhere_is_refused(copy: Copy) -> None:
    folder = copy("ranker")
    whole = (folder / "model.onnx").read_bytes()
    for size in [0, *np.linspace(1, len(whole) - 1, 60).astype(int).tolist()]:
        replace_file(folder, "model.onnx", whole[:size])
        assert refused(folder).path.name == "model.onnx"


def test_a_graph_whose_batch_is_fixed_is_refused(copy: Copy) -> None:
    folder = copy("recurrent")
    model = onnx.load_from_string((folder / "model.onnx").read_bytes())
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 12
    replace_file(folder, "model.onnx", model.SerializeToString())
    assert "found tensor(int64) [12]" in refused(folder).message


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").path == tmp_path / "nowhere"
    (tmp_path / "file").write_text("")
    assert "no such bundle folder" in refused(tmp_path / "file").message


def test_the_order_of_event_types_survives_since_it_gives_them_their_codes(bundles: Path) -> None:
    assert load_bundle(bundles / "ranker").features.types.names == FeatureSpec().types.names


def test_a_sequence_model_that_computes_something_else_is_refused_by_its_own_golden_outputs(
    copy: Copy, tmp_path: Path
) -> None:
    folder = copy("fused")
    write_fused(tmp_path / "other", seed=1)
    replace_file(folder, "retrieval.onnx", (tmp_path / "other" / "retrieval.onnx").read_bytes())
    error = refused(folder)
    assert error.path.name == "retrieval.onnx"
    assert "golden outputs" in error.message


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda manifest: manifest.pop("retrieval"), "files are exactly"),
        (lambda manifest: manifest["retrieval"]["outputs"].pop("query"), "outputs are"),
        (lambda manifest: manifest["retrieval"].update(n_state=3), "state"),
        (lambda manifest: manifest["inputs"]["query"].update(shape=["B", 5]), "query"),
        (
            lambda manifest: manifest["retrieval"]["inputs"].update(query={"dtype": "float32", "shape": ["B", 9]}),
            "menu",
        ),
    ],
)
def test_a_sequence_model_and_its_ranker_must_fit_together(copy: Copy, change: Callable[..., Any], word: str) -> None:
    folder = copy("fused")
    rewrite(folder, change)
    assert word in str(refused(folder))
