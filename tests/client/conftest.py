"""A box to talk to."""

from collections.abc import Iterator

import pytest
from box_server import FakeBox, serving

from edge_runtime.client.box import BoxClient


@pytest.fixture
def box() -> Iterator[FakeBox]:
    """A fake box that serves until the test ends."""
    with serving() as running:
        yield running


@pytest.fixture
def client(box: FakeBox) -> Iterator[BoxClient]:
    """A client of the fake box."""
    with BoxClient(box.url, timeout=5.0) as connected:
        yield connected
