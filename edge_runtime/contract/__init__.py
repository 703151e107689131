"""What host and device agree on: tensor specs, the manifest, the bundle, and public names.

Importing this package pulls in nothing beyond the standard library; `quantization` needs numpy and
`signing` needs cryptography, each imported only by who uses it.
"""
