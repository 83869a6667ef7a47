"""What became of recommendations: outcomes joined to them, totals, and the reading of experiments."""
