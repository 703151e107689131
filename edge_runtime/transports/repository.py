"""The model repository, as the Open Inference Protocol's extension sees it: the same over every transport."""

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from edge_runtime.deploy.repository import IndexEntry
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.registry import Registry

# Triton's parameters of a load; the files of a model come to a box as a signed bundle only.
_FILES = re.compile(r"config|file:.*", re.DOTALL)


def check_load(parameters: Iterable[str]) -> None:
    """Raise CallerError where the names of a load's parameters say that it brings files of its own."""
    for name in parameters:
        if _FILES.fullmatch(name):
            raise CallerError(
                f"{name[:50]!r} is not taken: models come here as bundles (edgectl push) and are loaded as they are"
            )


class ModelRepository(Protocol):
    """What is installed, whether it is loaded or not."""

    def index(self) -> Sequence[IndexEntry]:
        """Every version that could be asked, by name."""
        ...

    async def load(self, model: str) -> None:
        """Serve a model that is installed. Raises CallerError NOT_FOUND, ContentError where it cannot be loaded."""
        ...

    async def unload(self, model: str) -> None:
        """Free a model's memory; it stays installed. Raises CallerError NOT_FOUND."""
        ...


class ServedModels:
    """A repository in which everything that is installed is always loaded."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def index(self) -> list[IndexEntry]:
        """The active version of every model, and the warm one behind it."""
        pairs = ((served, self._registry.warm(served.name)) for served in self._registry.active())
        return [IndexEntry(one.name, one.version, "READY", "") for pair in pairs for one in pair if one is not None]

    async def load(self, model: str) -> None:
        """It is loaded already; raises CallerError NOT_FOUND."""
        self._registry.find(model)

    async def unload(self, model: str) -> None:
        """Raises CallerError: what is served stays so."""
        self._registry.find(model)
        raise CallerError(
            f"model {model!r} stays loaded on this box; DELETE /models/{model} over HTTP takes it off", Code.CONFLICT
        )
