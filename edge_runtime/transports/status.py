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

# grpc.StatusCode names (grpc.github.io/grpc/core/md_doc_statuscodes.html), as text: a box may be without gRPC.
# A message beyond the limit and a full queue are both RESOURCE_EXHAUSTED, as gRPC's own.
GRPC_STATUS: dict[Code, str] = {
    Code.INVALID_INPUT: "INVALID_ARGUMENT",
    Code.UNTRUSTED: "PERMISSION_DENIED",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.CONFLICT: "FAILED_PRECONDITION",
    Code.TOO_LARGE: "RESOURCE_EXHAUSTED",
    Code.UNSUPPORTED_MEDIA: "INVALID_ARGUMENT",
    Code.BAD_CONTENT: "FAILED_PRECONDITION",
    Code.PROBE_FAILED: "FAILED_PRECONDITION",
    Code.OVERLOADED: "RESOURCE_EXHAUSTED",
    Code.INTERNAL: "INTERNAL",
    Code.UNAVAILABLE: "UNAVAILABLE",
    Code.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    Code.NO_SPACE: "RESOURCE_EXHAUSTED",
}
