"""Ranges of topics read again: for backtests, and for holding live recommendations against their inputs."""
