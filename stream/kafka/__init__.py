"""Kafka around the worker: connection settings, topics, and a broker that needs no Docker."""
