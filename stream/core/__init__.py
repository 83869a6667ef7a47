"""The recommender itself, pure: arrays in, arrays out; no clock, no environment, no logging, no I/O."""
