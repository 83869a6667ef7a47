"""From logs of events to bundles: the only package that imports PyTorch."""
