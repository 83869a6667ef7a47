"""Half-width products, and devices."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from stream.errors import PolytempoError
from tests.training.sequence_nets import FEATURES, N_ITEMS, NETS, made_up
from training.device import choose_device
from training.fit import FitConfig, Fitted, fit
from training.losses import full_cross_entropy
from training.sequences import HORIZONS_MS, batches

CONFIG = FitConfig(n_epochs=4, learning_rate=1e-2, seed=3)


def train(name: str, config: FitConfig, device: str = "cpu") -> Fitted:
    torch.manual_seed(config.seed)
    model = NETS[name].build().to(device)
    order = partial(
        batches,
        made_up(16, 12),
        n_batch=4,
        max_length=12,
        seed=1,
        horizons_ms=HORIZONS_MS,
        scales=FEATURES.state.scales,
    )
    fitted = fit(model, lambda epoch: order(epoch=epoch), lambda batch: model.loss(batch, full_cross_entropy), config)
    # Weights, and so what is exported, stay in single precision.
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    return fitted


@pytest.mark.parametrize("name", [name for name in NETS if name != "moving_average"])
def test_half_width_products_come_close(name: str) -> None:
    single, half = train(name, CONFIG), train(name, replace(CONFIG, bf16=True))
    assert half.losses != single.losses
    assert half.losses == pytest.approx(single.losses, rel=0.03)


def test_the_loss_over_the_catalogue_is_not_rounded_to_half_width() -> None:
    torch.manual_seed(0)
    query, items, bias = torch.randn(50, 8), torch.randn(N_ITEMS, 8), torch.randn(N_ITEMS)
    target = torch.randint(1, N_ITEMS + 1, (50,))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = full_cross_entropy(query, items, bias, target)
    assert torch.equal(rounded, full_cross_entropy(query, items, bias, target))


def test_the_processor_is_always_there_and_what_is_not_is_named() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(PolytempoError, match="no cuda device"):
            choose_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
@pytest.mark.parametrize("name", list(NETS))
def test_a_graphics_card_trains_what_the_processor_trains(name: str) -> None:
    config = replace(CONFIG, n_epochs=1)
    assert train(name, config, "cuda").losses == pytest.approx(train(name, config).losses, rel=0.02)
