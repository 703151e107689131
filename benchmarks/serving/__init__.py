"""Serving, beside its peers: the same models, one run, ratios."""
