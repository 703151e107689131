"""Every error the runtime raises on purpose: one root, families by who must act, one code each.

The tables from code to HTTP and gRPC status live in the transports.
"""

from enum import StrEnum


class Code(StrEnum):
    """What went wrong, in one word that every transport can map."""

    INVALID_INPUT = "invalid_input"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA = "unsupported_media"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CONFLICT = "conflict"
    UNTRUSTED = "untrusted"
    BAD_CONTENT = "bad_content"
    PROBE_FAILED = "probe_failed"
    UNAVAILABLE = "unavailable"
    NO_SPACE = "no_space"
    INTERNAL = "internal"


class EdgeError(Exception):
    """Root of the runtime's errors; the message says what happened, with the value, and what to do."""

    code = Code.INTERNAL

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class CallerError(EdgeError):
    """Whoever sent the request must change it (or wait)."""

    code = Code.INVALID_INPUT


class ContentError(EdgeError):
    """Whoever made the model or the bundle must change it."""

    code = Code.BAD_CONTENT


class TransportError(EdgeError):
    """A link (broker, port, network) failed; it is retried by itself."""

    code = Code.UNAVAILABLE


class DeviceError(EdgeError):
    """Whoever runs the box must act (disk, permissions, configuration)."""

    code = Code.INTERNAL


class ConfigError(DeviceError):
    """The configuration is wrong; the message names the key and where it came from."""
