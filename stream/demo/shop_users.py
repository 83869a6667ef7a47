"""The public of the simulated shop: weeks-long tastes, days-long projects, and what each user has seen and bought."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.demo.shop_items import DAY_MS, DEVICES, Shelves

__all__ = ["Public", "gather_public"]

_N_TASTES = 8  # niches that a user likes at one time
_N_HOMES = 3  # categories that most of them come from
_N_RECENT = 16  # items that a user may come back to
_N_DUE = 4  # consumables that a user may be running out of
_NEVER_MS = np.int64(2**62)


@dataclass(slots=True)
class Public:
    """State of U users while the shop runs; `advance` and the `note_…` methods change it, the others only answer."""

    joined_ms: NDArray[np.int64]  # (U,) ascending
    activity: NDArray[np.float64]  # (U,) relative frequency of visits
    device_share: NDArray[np.float64]  # (U, 3) running sum of how often the user is on each device
    generosity: NDArray[np.float64]  # (U,) shifts the user's ratings
    home: NDArray[np.int64]  # (U, 3) favourite categories
    taste: NDArray[np.int64]  # (U, T) niches
    taste_share: NDArray[np.float64]  # (U, T) running sum of how often each is followed
    project: NDArray[np.int64]  # (U,) niche of the current project, -1 without one
    project_end_ms: NDArray[np.int64]  # (U,)
    last_seen_ms: NDArray[np.int64]  # (U,) end of the last session
    recent: NDArray[np.int64]  # (U, 16) items of earlier sessions, newest first, -1 for none
    due_item: NDArray[np.int64]  # (U, 4) consumables bought before
    due_ms: NDArray[np.int64]  # (U, 4) when the user will need each again

    def advance(
        self,
        as_of_ms: int,
        step_ms: int,
        taste_ms: float,
        project_ms: float,
        shelves: Shelves,
        rng: np.random.Generator,
    ) -> None:
        """Let `step_ms` pass: tastes drift a little, projects end and others begin."""
        drifting = np.argwhere(rng.random(self.taste.shape) < step_ms / taste_ms)
        if len(drifting) > 0:
            user, slot = drifting[:, 0], drifting[:, 1]
            self.taste[user, slot] = _niches_at_home(self.home[user], shelves, rng)
        self.project[self.project_end_ms <= as_of_ms] = -1
        # Idle twice as long as busy: about a third of the users are in the middle of a project.
        begin = np.flatnonzero((self.project < 0) & (rng.random(len(self.project)) < step_ms / (2.0 * project_ms)))
        self.project[begin] = rng.integers(len(shelves.niche_category), size=len(begin))
        self.project_end_ms[begin] = as_of_ms + (project_ms * rng.lognormal(-0.3, 0.8, size=len(begin))).astype(
            np.int64
        )

    def visit_weights(self, as_of_ms: int) -> NDArray[np.float64]:
        """Relative chance (U,) that each user comes now: 0 before joining, higher in a project and when new."""
        weight = self.activity * np.where(self.project >= 0, 3.0, 1.0)
        weight = weight * np.where(as_of_ms - self.joined_ms < DAY_MS, 4.0, 1.0)
        weights: NDArray[np.float64] = np.where(self.joined_ms <= as_of_ms, weight, 0.0)
        return weights

    def due(self, user: NDArray[np.int64], as_of_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each (B,) user the consumable that has been due longest, or -1."""
        first = np.argmin(self.due_ms[user], axis=1)
        item: NDArray[np.int64] = np.where(self.due_ms[user, first] <= as_of_ms, self.due_item[user, first], -1)
        return item

    def note_seen(self, user: NDArray[np.int64], items: NDArray[np.int64], ended_ms: NDArray[np.int64]) -> None:
        """Put a session's items (B, L), -1 for none, before what distinct users (B,) saw earlier."""
        line = np.concatenate([items[:, ::-1], self.recent[user]], axis=1)
        # A stable sort of "is empty" closes the gaps and keeps the order of the rest.
        order = np.argsort(line < 0, axis=1, kind="stable")[:, :_N_RECENT]
        self.recent[user] = np.take_along_axis(line, order, axis=1)
        self.last_seen_ms[user] = ended_ms

    def note_bought(
        self,
        user: NDArray[np.int64],
        item: NDArray[np.int64],
        ts_ms: NDArray[np.int64],
        interval_ms: NDArray[np.float64],
    ) -> None:
        """Remember when bought consumables will be needed again; rows (B,), several of one user allowed."""
        for u, i, due_ms in zip(user, item, ts_ms + interval_ms.astype(np.int64), strict=True):
            same = np.flatnonzero(self.due_item[u] == i)
            slot = same[0] if len(same) > 0 else np.argmax(self.due_ms[u])
            self.due_item[u, slot] = i
            self.due_ms[u, slot] = due_ms


def gather_public(
    n_users: int, new_share: float, start_ms: int, end_ms: int, shelves: Shelves, rng: np.random.Generator
) -> Public:
    """Draw the users: `new_share` of them join while the log runs, the others were there before."""
    n_new = round(new_share * n_users)
    joined_ms = np.full(n_users, start_ms - DAY_MS, dtype=np.int64)
    joined_ms[n_users - n_new :] = np.sort(rng.uniform(start_ms, end_ms, size=n_new)).astype(np.int64)
    n_categories = int(shelves.niche_category.max()) + 1
    home = rng.integers(n_categories, size=(n_users, _N_HOMES))
    taste = _niches_at_home(np.repeat(home, _N_TASTES, axis=0), shelves, rng).reshape(n_users, _N_TASTES)
    shares = rng.dirichlet(np.full(_N_TASTES, 0.7), size=n_users)
    devices = rng.dirichlet(np.array([1.2, 0.8, 0.2]), size=n_users)
    return Public(
        joined_ms=joined_ms,
        activity=rng.lognormal(0.0, 0.9, size=n_users),
        device_share=np.cumsum(devices, axis=1)[:, : len(DEVICES)],
        generosity=rng.normal(0.0, 0.5, size=n_users),
        home=home,
        taste=taste,
        taste_share=np.cumsum(shares, axis=1),
        project=np.full(n_users, -1, dtype=np.int64),
        project_end_ms=np.full(n_users, start_ms, dtype=np.int64),
        last_seen_ms=np.full(n_users, start_ms - DAY_MS, dtype=np.int64),
        recent=np.full((n_users, _N_RECENT), -1, dtype=np.int64),
        due_item=np.full((n_users, _N_DUE), -1, dtype=np.int64),
        due_ms=np.full((n_users, _N_DUE), _NEVER_MS, dtype=np.int64),
    )


def _niches_at_home(home: NDArray[np.int64], shelves: Shelves, rng: np.random.Generator) -> NDArray[np.int64]:
    """One niche for each row (B,) of favourite categories (B, 3): mostly from one of them, sometimes from anywhere."""
    n_niches = len(shelves.niche_category)
    category = home[np.arange(len(home)), rng.integers(home.shape[1], size=len(home))]
    low = np.searchsorted(shelves.niche_category, category, side="left")
    high = np.searchsorted(shelves.niche_category, category, side="right")
    at_home = low + (rng.random(len(home)) * (high - low)).astype(np.int64)
    anywhere = rng.integers(n_niches, size=len(home))
    niches: NDArray[np.int64] = np.where(rng.random(len(home)) < 0.85, at_home, anywhere)
    return niches
