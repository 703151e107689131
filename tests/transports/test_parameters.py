"""What the parameters of a request mean, whichever transport brought them."""

from typing import Any

import pytest

from edge_runtime.errors import CallerError
from edge_runtime.inference.call import SequenceStep
from edge_runtime.transports.parameters import sequence_of


@pytest.mark.parametrize("nothing", [{}, {"sequence_id": 0}, {"sequence_id": "", "sequence_start": False}])
def test_without_a_sequence_there_is_no_step(nothing: dict[str, Any]) -> None:
    """As tritonclient leaves them, and as a box's own query parameters are."""
    assert sequence_of(nothing) is None
    assert sequence_of({**nothing, "sequence_id": 7, "sequence_end": True}) == SequenceStep("7", start=False, end=True)


@pytest.mark.parametrize("flag", ["sequence_start", "sequence_end"])
@pytest.mark.parametrize("identity", [{}, {"sequence_id": 0}, {"sequence_id": ""}])
def test_who_forgets_the_id_is_told(flag: str, identity: dict[str, Any]) -> None:
    """Else each step would be answered from fresh state, and nobody would notice."""
    with pytest.raises(CallerError, match="need a sequence_id"):
        sequence_of({flag: True, **identity})
