"""The simulated shop is deterministic, lawful (births, funnels, sessions), and each of its time scales can be found."""

from collections import Counter, defaultdict, deque

import numpy as np
import polars as pl
import pytest

from stream.demo.shop import CAUSES, ShopConfig, ShopLog, simulate
from stream.demo.shop_items import DAY_MS, HOUR_MS

CONFIG = ShopConfig(days=8)


@pytest.fixture(scope="module")
def log() -> ShopLog:
    """Eight days of the default shop, about 100,000 events."""
    return simulate(CONFIG, seed=7)


@pytest.fixture(scope="module")
def views(log: ShopLog) -> pl.DataFrame:
    """Its views, beside what caused them."""
    return log.events.hstack(log.truth.drop("event_id")).filter(pl.col("event_type") == "view")


def test_the_same_seed_gives_the_same_shop_and_another_seed_another() -> None:
    """Events, items and truth are equal down to the last byte."""
    config = ShopConfig(n_users=200, n_items=150, days=1.5, events_per_day=2_000)
    first, again, other = simulate(config, 3), simulate(config, 3), simulate(config, 4)
    for name in ("events", "items", "truth"):
        assert getattr(first, name).equals(getattr(again, name))
        assert not getattr(first, name).equals(getattr(other, name))
    assert set(first.events["event_id"]).isdisjoint(other.events["event_id"])


def test_a_generator_can_be_passed_instead_of_a_seed() -> None:
    """A generator in the state of the seed gives the seed's shop."""
    config = ShopConfig(n_users=50, n_items=60, days=0.5, events_per_day=500)
    assert simulate(config, np.random.default_rng(3)).events.equals(simulate(config, 3).events)


def test_events_are_in_order_within_the_log_and_of_the_asked_number(log: ShopLog) -> None:
    """[start, start + days), sorted, unique ids, and about `events_per_day`."""
    events = log.events
    assert events["ts_ms"].is_sorted()
    assert events["ts_ms"][0] >= CONFIG.start_ms
    assert events["ts_ms"][-1] < CONFIG.start_ms + CONFIG.days * DAY_MS
    assert events["event_id"].n_unique() == len(events) == len(log.truth)
    assert len(events) / CONFIG.days == pytest.approx(CONFIG.events_per_day, rel=0.15)
    assert events.drop("value").null_count().row(0) == (0,) * 8
    assert set(log.truth["cause"]) == set(CAUSES)


def test_nobody_sees_an_item_before_its_birth_or_out_of_stock(log: ShopLog) -> None:
    """Every event is on an item that is published and available."""
    joined = log.events.join(log.items, on="item_id", how="left")
    assert joined["available"].all()
    assert (joined["ts_ms"] >= joined["published_ms"]).all()
    assert (~log.items["available"]).any()


def test_items_are_born_throughout_and_many_fade_within_days(log: ShopLog, views: pl.DataFrame) -> None:
    """A part of the catalogue is new, and half of what a born item ever gets comes in its first two days."""
    born = log.items.filter(pl.col("published_ms") >= CONFIG.start_ms)
    assert 0.15 < len(born) / len(log.items) < 0.5
    assert born["published_ms"].max() > CONFIG.start_ms + (CONFIG.days - 1) * DAY_MS  # type: ignore[operator]
    early = born.filter(pl.col("published_ms") < CONFIG.start_ms + 3 * DAY_MS)
    age_ms = views.join(early, on="item_id").select(pl.col("ts_ms") - pl.col("published_ms")).to_series()
    assert (age_ms < 2 * DAY_MS).mean() > 0.5  # type: ignore[operator]


def test_carts_follow_views_and_purchases_follow_carts(log: ShopLog) -> None:
    """View <= cart < purchase, of one item in one session, at the item's price."""
    key = ["session_id", "item_id"]

    def first(event_type: str) -> pl.DataFrame:
        rows = log.events.filter(pl.col("event_type") == event_type)
        return rows.group_by(key).agg(pl.col("ts_ms").min().alias(event_type), pl.col("value").first())

    carts = first("cart").join(first("view").drop("value"), on=key, how="left")
    purchases = first("purchase").join(first("cart").drop("value"), on=key, how="left")
    assert (carts["view"] < carts["cart"]).all()
    assert carts["view"].null_count() == 0
    assert (purchases["cart"] < purchases["purchase"]).all()
    assert purchases["cart"].null_count() == 0
    assert 0.3 < len(purchases) / len(carts) < 0.7
    priced = purchases.join(log.items, on="item_id")
    assert (priced["value"] == priced["price"]).all()


def test_ratings_and_returns_follow_a_purchase_by_days(log: ShopLog) -> None:
    """Stars from 1 to 5, returns at the price that was paid, both at least a day after the same user's purchase."""
    key = ["user_id", "item_id"]
    bought = (
        log.events.filter(pl.col("event_type") == "purchase").group_by(key).agg(pl.col("ts_ms").min().alias("paid"))
    )
    after = log.events.filter(pl.col("event_type").is_in(["rating", "return"])).join(bought, on=key, how="left")
    assert (after["ts_ms"] - after["paid"] >= DAY_MS).all()
    stars = log.events.filter(pl.col("event_type") == "rating")["value"]
    assert set(stars) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert (log.events.filter(pl.col("event_type") == "return")["value"] > 0).all()


def test_sessions_of_a_user_are_apart_by_more_than_the_gap(views: pl.DataFrame) -> None:
    """Cutting a user's views at pauses of `session_gap_ms` finds exactly the sessions of the log."""
    ordered = views.sort("user_id", "ts_ms")
    pause_ms = ordered["ts_ms"].diff().fill_null(0)
    same_user = ordered["user_id"] == ordered["user_id"].shift()
    new_session = (ordered["session_id"] != ordered["session_id"].shift()) & same_user
    assert (pause_ms.filter(new_session) > CONFIG.session_gap_ms).all()
    assert (pause_ms.filter(same_user & ~new_session) <= CONFIG.session_gap_ms).all()


def test_new_users_arrive_throughout(log: ShopLog) -> None:
    """Every later day has users who were never seen before."""
    first_day = log.events.group_by("user_id").agg((pl.col("ts_ms").min() - CONFIG.start_ms) // DAY_MS)["ts_ms"]
    per_day = Counter(first_day)
    assert all(per_day[day] >= 20 for day in range(int(CONFIG.days)))


def test_context_goes_with_behaviour(views: pl.DataFrame) -> None:
    """Links shared by friends lead to trends, searches to projects, and sessions at a desk are longer."""
    cause: dict[tuple[str, str], int] = {
        (referrer, cause): count for referrer, cause, count in views.group_by("referrer", "cause").len().iter_rows()
    }

    def share(referrer: str, of: str) -> float:
        return cause[referrer, of] / sum(cause[referrer, other] for other in CAUSES)

    assert share("social", "trend") > 2 * share("search", "trend")
    assert share("search", "project") > 3 * share("social", "project")
    length = dict(views.group_by("device").agg(pl.len() / pl.col("session_id").n_unique()).iter_rows())
    assert length["desktop"] > 1.2 * length["mobile"]


def test_each_hour_has_its_public(views: pl.DataFrame) -> None:
    """Evenings are busy, nights are quiet."""
    per_hour = Counter((views["ts_ms"] // HOUR_MS % 24).to_list())
    assert per_hour[20] > 3 * per_hour[7]


def test_minutes_a_view_resembles_the_one_before_it(views: pl.DataFrame) -> None:
    """Consecutive views of one session share a niche far more often than views of other sessions of the same user."""
    ordered = views.sort("user_id", "ts_ms")
    same_niche = (ordered["niche"] == ordered["niche"].shift()) & (ordered["user_id"] == ordered["user_id"].shift())
    within = ordered["session_id"] == ordered["session_id"].shift()
    assert same_niche.filter(within).mean() > 3 * same_niche.filter(~within).mean()  # type: ignore[operator]


def test_days_the_next_session_continues_a_project_that_a_later_one_has_forgotten(views: pl.DataFrame) -> None:
    """The niche of a user's project is found again a day later and is gone after a week."""
    project = views.filter(pl.col("cause") == "project").select("user_id", "niche", "ts_ms", "session_id")
    pairs = project.join(project, on="user_id").filter(pl.col("session_id") != pl.col("session_id_right"))
    lag_days = (pairs["ts_ms_right"] - pairs["ts_ms"]) / DAY_MS
    same = pairs["niche"] == pairs["niche_right"]
    soon = same.filter((lag_days > 0) & (lag_days < 1)).mean()
    late = same.filter(lag_days > 5).mean()
    assert soon > 0.5  # type: ignore[operator]
    assert late < 0.5 * soon  # type: ignore[operator]


def test_weeks_an_old_taste_still_says_what_a_user_likes(log: ShopLog, views: pl.DataFrame) -> None:
    """The favourite category of the first two days beats chance five days later, even without the repeats."""
    categories = views.join(log.items.select("item_id", "category"), on="item_id")
    old = categories.filter(pl.col("ts_ms") < CONFIG.start_ms + 2 * DAY_MS)
    favourite = old.group_by("user_id", "category").len().sort("len", "category").group_by("user_id").last().drop("len")
    later = categories.filter((pl.col("ts_ms") >= CONFIG.start_ms + 7 * DAY_MS) & (pl.col("cause") != "repeat"))
    matches = later.join(favourite, on="user_id", suffix="_old").select(pl.col("category") == pl.col("category_old"))
    shares = categories["category"].value_counts(normalize=True)["proportion"]
    chance = (shares**2).sum()
    assert matches.to_series().mean() > 2 * chance  # type: ignore[operator]


def test_days_consumables_are_bought_again_at_their_interval(log: ShopLog) -> None:
    """Repurchases of one item by one user come days apart, and there are many of them."""
    bought = log.events.filter(pl.col("event_type") == "purchase").sort("user_id", "item_id", "ts_ms")
    again = (bought["user_id"] == bought["user_id"].shift()) & (bought["item_id"] == bought["item_id"].shift())
    interval_days = bought["ts_ms"].diff().filter(again) / DAY_MS
    assert len(interval_days) > 0.03 * len(bought)
    assert 1.5 < interval_days.median() < 8  # type: ignore[operator]


def test_the_shop_is_neither_trivial_nor_hopeless(views: pl.DataFrame) -> None:
    """Seconds-old transitions beat the last hour's popularity, which beats that of all time; each has its own events.

    Prequential: each view that is not its session's first nor seen in it, from the third day on, is looked for among
    ten items known before it.
    """
    hits = _prequential_hits(views, CONFIG.start_ms + 2 * DAY_MS)
    rate = {cause: by_method / by_method[0] for cause, by_method in hits.items()}
    _, hour, all_time, transitions = rate["all"]
    assert 0.05 < hour < 0.25
    assert all_time < 0.7 * hour
    assert 2 * hour < transitions < 0.7
    assert rate["trend"][1] > 3 * rate["intent"][1]
    assert rate["intent"][3] > 3 * rate["trend"][3]


def _prequential_hits(views: pl.DataFrame, from_ms: int) -> dict[str, np.ndarray]:
    """Per cause and "all": targets, and hits in ten of popularity of 1 h, of all time, and of last-item transitions."""
    recent: deque[tuple[int, str]] = deque()
    last_hour: Counter[str] = Counter()
    all_time: Counter[str] = Counter()
    follows: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seen_in: defaultdict[str, list[str]] = defaultdict(list)
    hits: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
    tops: tuple[list[str], list[str]] = ([], [])
    lists_until_ms = 0
    columns = (views[name] for name in ("item_id", "ts_ms", "session_id", "cause"))
    for item, ts_ms, session, cause in zip(*columns, strict=True):
        seen = seen_in[session]
        if ts_ms >= from_ms and len(seen) > 0 and item not in seen:
            if ts_ms >= lists_until_ms:
                while len(recent) > 0 and recent[0][0] <= ts_ms - HOUR_MS:
                    last_hour[recent.popleft()[1]] -= 1
                tops = ([i for i, _ in last_hour.most_common(50)], [i for i, _ in all_time.most_common(50)])
                lists_until_ms = ts_ms + 60_000
            lists = (*tops, [i for i, _ in follows[seen[-1]].most_common(50)])
            found = [item in [i for i in ranked if i not in seen][:10] for ranked in lists]
            hits[cause] += [1, *found]
            hits["all"] += [1, *found]
        if len(seen) > 0:
            follows[seen[-1]][item] += 1
        seen.append(item)
        recent.append((ts_ms, item))
        last_hour[item] += 1
        all_time[item] += 1
    return hits


def test_a_tiny_shop_and_part_of_a_day_work() -> None:
    """One user, two items, two and a half hours."""
    log = simulate(ShopConfig(n_users=1, n_items=2, n_categories=1, days=2.5 / 24, events_per_day=1_000), seed=1)
    assert len(log.events) > 0
    assert log.events["ts_ms"].max() < CONFIG.start_ms + 2.5 * HOUR_MS  # type: ignore[operator]


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_users": 0},
        {"n_items": 5, "n_categories": 6},
        {"days": 0.0},
        {"views_per_session": 0.5},
        {"session_gap_ms": 1_000},
        {"intent_share": 1.5},
        {"taste_days": 0.0},
    ],
)
def test_sizes_that_make_no_shop_are_refused(wrong: dict[str, float]) -> None:
    """ValueError names what is wrong."""
    with pytest.raises(ValueError, match=r"\w+"):
        ShopConfig(**wrong)  # type: ignore[arg-type]
