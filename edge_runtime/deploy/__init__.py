"""Brings models onto the box: trust, store, probe, and the deployer that walks a bundle through them."""
