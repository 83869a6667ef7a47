"""Backtests: recommend, look at what came next, then learn, over any range of a topic or a log."""
