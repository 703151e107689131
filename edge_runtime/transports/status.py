"""From an error's code to what each protocol calls it. The domain knows nothing of these."""

from edge_runtime.errors import Code

# RFC 9110 section 15, RFC 6585 section 4 (429) and RFC 4918 section 11.5 (507).
HTTP_STATUS: dict[Code, int] = {
    Code.INVALID_INPUT: 400,
    Code.UNTRUSTED: 403,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA: 415,
    Code.BAD_CONTENT: 422,
    Code.PROBE_FAILED: 422,
    Code.OVERLOADED: 429,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NO_SPACE: 507,
}
