"""A shop to try everything on: its simulator, and the demo that streams it."""
