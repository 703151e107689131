"""edge-runtime: prove, serve and report TFLite models on small boxes."""

__version__ = "0.1.0"
