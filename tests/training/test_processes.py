"""Several processes train what one process trains; the first keeps the checkpoint, and any number goes on from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace as changed

from stream.bundle.load import load_bundle
from stream.demo.shop import ShopConfig, simulate
from tests.training.sequence_nets import N_ITEMS, made_up
from tests.training.tiny_shop import TINY_SHOP
from training.config import TempoTraining, read_config
from training.evaluate import BASELINES
from training.fit import Checkpoint, FitConfig, Fitted, fit
from training.losses import full_cross_entropy
from training.nets.tempo import Tempo, TempoConfig
from training.processes import ALONE, Processes, processes
from training.sequence_learning import learn
from training.sequences import UserSequences, batches, pad
from training.train_streamed import streamed

CONFIG = FitConfig(n_epochs=2, learning_rate=1e-2, seed=5)
N_BATCH = 5  # so that two processes have unequal shares


class StoppedError(Exception):
    """Stands for a kill."""


def uneven() -> UserSequences:
    """22 users, so that the last batch is of 2; a third of the events cannot be predicted: shares differ in targets."""
    log = made_up(22, 9, unknown=0.0)
    rng = np.random.default_rng(1)
    return replace(log, positive=rng.random(len(log)) < 0.67)


def train(group: Processes, checkpoint: Path | None = None, stop_at: int = -1) -> tuple[Tempo, Fitted]:
    # Each process begins with weights of its own: those of the first must win.
    torch.manual_seed(CONFIG.seed + group.rank)
    model = Tempo(TempoConfig(N_ITEMS, d=8, n_layers=1, n_scales=2, dropout=0.0))
    order = partial(batches, uneven(), n_batch=N_BATCH, max_length=9, seed=CONFIG.seed)
    loss = group.of_all(full_cross_entropy)

    def on_step(done: int) -> None:
        if done == stop_at:
            raise StoppedError

    fitted = fit(
        model,
        lambda epoch: order(epoch=epoch),
        lambda batch: model.loss(batch, loss),
        CONFIG,
        evaluate=lambda: float(model.bias.sum()) if group.rank == 0 else float("nan"),
        checkpoint=None if checkpoint is None else Checkpoint(checkpoint, every=2),
        on_step=on_step,
        processes=group,
    )
    return model, fitted


def part(argument: str) -> None:
    """What each process of the test below does: one training after the other."""
    torch.set_num_threads(1)
    with processes(torch.device("cpu")) as group:
        for task in json.loads(argument):
            checkpoint = None if task["checkpoint"] is None else Path(task["checkpoint"])
            try:
                model, fitted = train(group, checkpoint, task["stop_at"])
            except StoppedError:
                continue
            content = {"model": model.state_dict(), "losses": fitted.losses}
            torch.save(content, f"{task['out']}.{group.rank}")
        assert group_threads(), "these are what is looked for afterwards"
    assert not group_threads(), "a thread of the group that runs while the interpreter ends may abort the process"


def group_threads() -> list[str]:
    """Names of this process's threads that carry tensors between processes."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def run_module(n: int, module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), "-m", module]
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_close(found: dict[str, Any], model: Tempo, fitted: Fitted) -> None:
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(
            found["model"][name], tensor, atol=1e-6, rtol=0, msg=lambda text, n=name: f"{n} {text}"
        )
    assert found["losses"] == pytest.approx(fitted.losses, abs=1e-6)


def test_two_processes_come_to_what_one_comes_to_and_each_goes_on_from_the_others_checkpoint(tmp_path: Path) -> None:
    """
    fresh     two processes, from the beginning
    killed    two processes until step 7; one goes on
    taken     one process until step 3; two go on
    """
    whole, fitted = train(ALONE)
    with pytest.raises(StoppedError):
        train(ALONE, tmp_path / "taken.pt", stop_at=3)
    tasks = [
        {"out": str(tmp_path / "fresh"), "checkpoint": None, "stop_at": -1},
        {"out": str(tmp_path / "killed"), "checkpoint": str(tmp_path / "killed.pt"), "stop_at": 7},
        {"out": str(tmp_path / "taken"), "checkpoint": str(tmp_path / "taken.pt"), "stop_at": -1},
    ]
    run_module(2, "tests.training.test_processes", json.dumps(tasks))
    for name in ("fresh", "taken"):
        first, second = (torch.load(tmp_path / f"{name}.{rank}", weights_only=True) for rank in range(2))
        assert_close(first, whole, fitted)
        for tensor, other in zip(first["model"].values(), second["model"].values(), strict=True):
            assert torch.equal(tensor, other)
    resumed, found = train(ALONE, tmp_path / "killed.pt")
    assert_close({"model": resumed.state_dict(), "losses": found.losses}, whole, fitted)


def test_each_row_is_one_processs_and_one_without_rows_has_nothing_to_predict() -> None:
    log = uneven()
    batch = pad(log, np.stack([log.start[:5], log.start[1:6]], axis=1))
    shares = [Processes(rank, 2).share(batch) for rank in range(2)]
    assert [len(share.length) for share in shares] == [3, 2]
    assert torch.equal(torch.cat([share.item for share in shares])[[0, 3, 1, 4, 2]], batch.item)
    idle = Processes(6, 7).share(batch)
    assert len(idle.length) == 1
    assert not idle.target.any()


CONFIGURATION = f"""
period = "10m"
{TINY_SHOP}[model]
kind = "tempo"
d = 8
n_scales = 2
n_best = 20
epochs = 1
dropout = 0
"""


def test_the_command_under_torchrun_writes_one_bundle_and_one_line(tmp_path: Path) -> None:
    """The document's own line, `torchrun -m stream.cli.main train`."""
    (tmp_path / "tiny.toml").write_text(CONFIGURATION)
    out = run_module(
        2, "stream.cli.main", "train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "tiny"), "--json"
    )
    assert json.loads(out)["reference"] == "tiny@1"
    assert load_bundle(tmp_path / "tiny").manifest.metrics["epochs"] == 1


SHARDED = CONFIGURATION.replace("epochs = 1", "epochs = 2") + "shard_events = 300\n"


def test_the_command_under_torchrun_learns_from_shards_what_one_process_learns(tmp_path: Path) -> None:
    """The first process cuts the shards and judges; weights, epochs and vocabulary are those of one process."""
    file, log = tmp_path / "sharded.toml", tmp_path / "log.parquet"
    file.write_text(SHARDED)
    shop = simulate(ShopConfig(days=1.5, n_users=60, n_items=40, n_categories=4, events_per_day=1_000), 5)
    shop.events.write_parquet(log)
    words = [str(file), "--data", str(log), "--out", str(tmp_path / "two"), "--device", "cpu", "--json"]
    said = json.loads(run_module(2, "stream.cli.main", "train", *words, "--shards", str(tmp_path / "shards")))
    assert len(list((tmp_path / "shards").glob("shard-*.npy"))) > 2
    config = read_config(file)
    config = changed(config, data=changed(config.data, file=str(log), simulate=None))
    assert isinstance(config.model, TempoTraining)
    with streamed(config, config.model, tmp_path / "alone") as found:
        one = learn(config, config.model, found.lesson, found.spec, window=found.window)
        assert load_bundle(tmp_path / "two").vocabulary == found.lesson.vocabulary
    two = torch.load(tmp_path / "two.weights.pt", weights_only=True)["weights"]
    for name, tensor in one.module.state_dict().items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=0)
    for name, figure in one.metrics().items():
        assert said["metrics"][name] == pytest.approx(figure, abs=1e-4), name
    assert {f"{name}/ndcg@10" for name in BASELINES} < set(said["metrics"])


if __name__ == "__main__":
    part(sys.argv[1])
