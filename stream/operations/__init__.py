"""What a running worker shows of itself: health, metrics and logs, and what judges them."""
