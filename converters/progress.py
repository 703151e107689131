"""Progress on standard error, and only where a person watches."""

import sys
from collections.abc import Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(items: list[T], label: str) -> Iterator[T]:
    """The items, with a progress bar on stderr if that is a terminal."""
    # The stream is fixed here: steps may silence sys.stderr while the bar lives. disable=None: off unless a terminal.
    yield from tqdm(items, desc=label, file=sys.stderr, disable=None, leave=False, unit="sample")
