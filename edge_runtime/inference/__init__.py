"""Runs models: engines, pool, registry, pre- and post-processing, and `service`, the one data plane."""
