"""Traces to an OpenTelemetry collector, by OTLP over HTTP. An extra."""
