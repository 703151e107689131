"""From the `parameters` of an Open Inference Protocol request to a call: one meaning for every transport."""

import time
from collections.abc import Mapping
from typing import Any

from edge_runtime.errors import CallerError
from edge_runtime.inference.call import Call, SequenceStep

_MAX_SEQUENCE_ID_CHARACTERS = 128


def call_of(
    parameters: Mapping[str, Any], *, deadline: float | None = None, identity: str = "", traceparent: str = ""
) -> Call:
    """The call that a tensor request with these parameters is.

    `timeout` is in microseconds, 0 is none (Triton's request parameters); whichever of it and `deadline`
    (time.monotonic() seconds) is earlier counts. `sequence_id` (a whole number or a string; 0 and "" are none),
    `sequence_start` and `sequence_end` are those of Triton's sequence extension. Others are left to who knows them.

    Raises:
        CallerError: one of these has a wrong type or value.
    """
    if not parameters:
        return Call(deadline=deadline, id=identity, traceparent=traceparent)
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise CallerError(f"the parameter timeout must be a whole number of microseconds, but is {timeout!r:.100}")
    if timeout:
        latest = time.monotonic() + timeout / 1_000_000
        deadline = latest if deadline is None else min(deadline, latest)
    return Call(deadline=deadline, id=identity, traceparent=traceparent, sequence=sequence_of(parameters))


def sequence_of(parameters: Mapping[str, Any]) -> SequenceStep | None:
    """The step that these parameters say; None where they name no sequence. Raises CallerError for a wrong type."""
    identity = parameters.get("sequence_id", 0)
    if type(identity) not in (int, str) or len(str(identity)) > _MAX_SEQUENCE_ID_CHARACTERS:
        raise CallerError(
            f"the parameter sequence_id must be a whole number or a string of at most {_MAX_SEQUENCE_ID_CHARACTERS} "
            f"characters, but is {identity!r:.100}"
        )
    step = SequenceStep(str(identity), _flag(parameters, "sequence_start"), _flag(parameters, "sequence_end"))
    if identity:
        return step
    if step.start or step.end:
        raise CallerError("sequence_start and sequence_end need a sequence_id (not 0): which sequence is meant?")
    return None


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise CallerError(f"the parameter {name} must be true or false, but is {value!r:.100}")
    return value
