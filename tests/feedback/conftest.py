"""A deployment of a test's own."""

from tests.worker.conftest import cluster

__all__ = ["cluster"]
