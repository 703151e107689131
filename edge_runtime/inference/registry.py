"""What is served: the active version of each model and the warm one behind it. Leases and atomic swaps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge_runtime.contract.manifest import Manifest
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.description import Description
from edge_runtime.inference.placement import Placement
from edge_runtime.inference.runner import Runner
from edge_runtime.inference.setup import Setup
from edge_runtime.inference.stats import Stats
from edge_runtime.inference.tuning import Objective, Tuning


@dataclass(eq=False)
class ServedVersion:
    """One version in memory. It is closed when it has been retired and its last lease has ended."""

    manifest: Manifest
    digest: str
    description: Description
    runner: Runner
    admission: Admission
    placement: Placement = field(default_factory=Placement)
    stats: Stats = field(default_factory=Stats)
    setup: Setup | None = None
    tuning: Tuning | None = None
    objective: Objective = "throughput"
    leases: int = 0
    retired: bool = False

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The version's name."""
        return self.manifest.version

    def retire(self) -> None:
        """Close as soon as nobody uses it."""
        self.retired = True
        self._close_if_unused()

    def release(self) -> None:
        """End one lease."""
        self.leases -= 1
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self.retired and self.leases == 0:
            self.runner.close()


@dataclass
class _Slot:
    active: ServedVersion
    warm: ServedVersion | None = None


class Registry:
    """Belongs to the event loop's thread: between two awaits nothing changes, so a swap is atomic."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}

    def active(self) -> tuple[ServedVersion, ...]:
        """The active version of every model, by name."""
        return tuple(self._slots[name].active for name in sorted(self._slots))

    def serves(self, model: str, digest: str) -> bool:
        """Whether this very bundle is the active version."""
        slot = self._slots.get(model)
        return slot is not None and slot.active.digest == digest

    def warm(self, model: str) -> ServedVersion | None:
        """The version that a roll back would bring at once."""
        slot = self._slots.get(model)
        return slot.warm if slot else None

    def find(self, model: str, version: str | None = None) -> ServedVersion:
        """The active version, or the one named; raises CallerError NOT_FOUND."""
        slot = self._slots.get(model)
        if slot is None:
            raise CallerError(f"model {model!r} is not on this box; it serves: {self._names()}", Code.NOT_FOUND)
        for served in (slot.active, slot.warm):
            if served is not None and version in (None, served.version):
                return served
        raise CallerError(f"model {model!r} is not loaded in version {version!r}", Code.NOT_FOUND)

    def loaded(self, model: str, version: str | None = None) -> ServedVersion | None:
        """What `find` gives, or None where it raises."""
        slot = self._slots.get(model)
        if slot is None:
            return None
        if version is None:
            return slot.active
        return next((v for v in (slot.active, slot.warm) if v is not None and v.version == version), None)

    @contextmanager
    def lease(self, model: str, version: str | None = None) -> Iterator[ServedVersion]:
        """Hold a version: it stays loaded until the lease ends, even if it is swapped out meanwhile."""
        served = self.find(model, version)
        served.leases += 1
        try:
            yield served
        finally:
            served.release()

    def swap(self, new: ServedVersion) -> ServedVersion | None:
        """Make `new` the active version; the one that was active stays warm and is returned."""
        slot = self._slots.get(new.name)
        if slot is None:
            self._slots[new.name] = _Slot(new)
            return None
        if slot.warm is not None and slot.warm is not new:
            slot.warm.retire()
        slot.active, slot.warm = new, slot.active
        return slot.warm

    def replace(self, new: ServedVersion) -> None:
        """Serve the same version from another setup: it takes the place of the loaded one, active or warm."""
        slot = self._slots.get(new.name)
        if slot is None:
            raise CallerError(f"model {new.name!r} is not on this box any more", Code.NOT_FOUND)
        if slot.active.digest == new.digest:
            slot.active, old = new, slot.active
        elif slot.warm is not None and slot.warm.digest == new.digest:
            slot.warm, old = new, slot.warm
        else:
            raise CallerError(f"{new.name} {new.version} is not loaded any more", Code.CONFLICT)
        new.stats = old.stats  # it is the same version to whoever counts
        old.retire()

    def swap_back(self, model: str) -> ServedVersion | None:
        """Undo the last swap: the warm version is active again, or the model is gone; the failed one is retired."""
        slot = self._slots[model]
        slot.active.retire()
        if slot.warm is None:
            del self._slots[model]
            return None
        slot.active, slot.warm = slot.warm, None
        return slot.active

    def remove(self, model: str) -> None:
        """Stop serving a model."""
        slot = self._slots.pop(model, None)
        for served in (slot.active, slot.warm) if slot else ():
            if served is not None:
                served.retire()

    def close(self) -> None:
        """Retire everything."""
        for name in tuple(self._slots):
            self.remove(name)

    def _names(self) -> str:
        return ", ".join(sorted(self._slots)) or "no model yet"
