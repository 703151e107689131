"""The two commands of the device package: `edge-runtime` and `edgectl`."""
