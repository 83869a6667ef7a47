"""Looking over a set-up from outside: what is wrong, and what to do about it."""
