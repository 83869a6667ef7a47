"""Property tests draw the same examples on every run; POLYTEMPO_TESTS=deep draws many more, anew each time.

POLYTEMPO_TESTS=first reports the first failing example as it is, without looking for a smaller one.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("quick", max_examples=40, derandomize=True, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("deep", max_examples=2_000, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("first", settings.get_profile("quick"), phases=(Phase.explicit, Phase.generate))
settings.load_profile(os.environ.get("POLYTEMPO_TESTS", "quick"))
