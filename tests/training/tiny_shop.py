"""The middle of a training's configuration that is over in seconds: it wants a period before it, a model behind it."""

__all__ = ["TINY_SHOP"]

TINY_SHOP = """
[bundle]
path = "unused"
name = "tiny"
[data.simulate]
seed = 5
days = 1.5
n_users = 60
n_items = 40
n_categories = 4
events_per_day = 1_000
[features]
popularity = ["all:1h"]
co_visitation = ["any:1d"]
slots = 8
lists = { "all:1h" = 20 }
"""
