"""Bundles: a trained model as a folder of data, checked to the last byte before it may score anything."""
