"""Models, each on one page with its paper named."""
