"""A deployment of a test's own, as the worker's tests have it."""

from tests.worker.conftest import cluster

__all__ = ["cluster"]
