"""Looking at a running set-up from outside: counts, rates, latency, lag and hit rates, from its topics alone."""
