"""Polytempo: user events in Kafka become recommendations in Kafka, from windowed state at several time scales."""

__version__ = "0.1.0"
