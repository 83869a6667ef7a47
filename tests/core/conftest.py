"""Property tests draw the same examples on every run; POLYTEMPO_TESTS=deep draws many more, anew each time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("quick", max_examples=40, derandomize=True, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("deep", max_examples=2_000, deadline=None, suppress_health_check=_SLOW)
settings.load_profile("deep" if os.environ.get("POLYTEMPO_TESTS") == "deep" else "quick")
