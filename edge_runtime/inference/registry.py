"""What is served: the active version of each model and the warm one behind it. Leases and atomic swaps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakSet

from edge_runtime.contract.manifest import Manifest
from edge_runtime.errors import CallerError, Code
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.description import Description
from edge_runtime.inference.engine import StatefulSession
from edge_runtime.inference.placement import Placement
from edge_runtime.inference.runner import Runner
from edge_runtime.inference.setup import Setup
from edge_runtime.inference.stats import Stats
from edge_runtime.inference.tuning import Objective, Tuning


@dataclass(eq=False)
class ServedVersion:
    """One version that is served. It is closed when it has been retired and its last lease has ended.

    Attributes:
        leases: who uses it; `holds` of them do not end with an answer.
        last_used: time.perf_counter() of its last request; 0 before the first.
        open_session: one more, for a caller that is to be alone in it; blocking.
        previous: it is not the active version, but the one behind it.
        sessions: how many it had in memory, or will have.
        resident: its sessions are in memory; else its runner is one that brings them back, or says why not.
        unavailable: why requests are not answered, where that needs somebody to act; else empty.
    """

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
    holds: int = 0
    retired: bool = False
    last_used: float = 0.0
    previous: bool = False
    open_session: Callable[[], StatefulSession] | None = None
    sessions: int = 1
    resident: bool = True
    unavailable: str = ""
    _leaving: list[Runner] = field(default_factory=list)
    _ending: bool = False  # something is to be closed with the last lease

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The version's name."""
        return self.manifest.version

    @contextmanager
    def leased(self) -> Iterator["ServedVersion"]:
        """One use of it."""
        self.leases += 1
        try:
            yield self
        finally:
            self.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep it open, and in memory if it is there."""
        self.leases += 1
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
            self.release()

    def replace_runner(self, runner: Runner, *, resident: bool) -> None:
        """Answer with another runner from now on; the former is closed when nobody can be in it any more."""
        self._leaving.append(self.runner)
        self.runner, self.resident, self._ending = runner, resident, True
        self._end_if_unused()

    @property
    def drained(self) -> bool:
        """Whether no call is in a runner that was replaced."""
        return not any(runner.busy or runner.waiting for runner in self._leaving)

    def close_replaced(self) -> None:
        """Close the runners that were replaced, although there are leases: `drained` must have lasted a turn."""
        for runner in self._leaving:
            runner.close()
        self._leaving.clear()

    def retire(self) -> None:
        """Close as soon as nobody uses it."""
        self.retired = self._ending = True
        self._end_if_unused()

    def release(self) -> None:
        """End one lease."""
        self.leases -= 1
        if self._ending:
            self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self.leases:
            return
        if self.retired:
            self._leaving.append(self.runner)
            self.resident = False
        self.close_replaced()
        self._ending = self.retired


@dataclass
class _Slot:
    active: ServedVersion
    warm: ServedVersion | None = None


class Registry:
    """Belongs to the event loop's thread: between two awaits nothing changes, so a swap is atomic."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._retired: WeakSet[ServedVersion] = WeakSet()  # of which some still answer

    def active(self) -> tuple[ServedVersion, ...]:
        """The active version of every model, by name."""
        return tuple(self._slots[name].active for name in sorted(self._slots))

    def versions(self) -> tuple[ServedVersion, ...]:
        """What is loaded, by name: active versions, the warm ones, and those that still answer their last calls."""
        slots = [served for slot in self._slots.values() for served in (slot.active, slot.warm) if served is not None]
        leaving = [served for served in self._retired if served.leases]
        return tuple(sorted((*slots, *leaving), key=lambda served: served.name))

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
        # It may be here already, answering its last calls: what was counted of a version must not begin anew meanwhile.
        new.stats = next(
            (v.stats for v in self.versions() if (v.name, v.version) == (new.name, new.version)), new.stats
        )
        slot = self._slots.get(new.name)
        if slot is None:
            self._slots[new.name] = _Slot(new)
            return None
        if slot.warm is not None and slot.warm is not new:
            self._retire(slot.warm)
        slot.active, slot.warm = new, slot.active
        slot.active.previous, slot.warm.previous = False, True
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
        new.last_used, new.previous = old.last_used, old.previous
        new.stats = old.stats  # it is the same version to whoever counts
        self._retire(old)

    def swap_back(self, model: str) -> ServedVersion | None:
        """Undo the last swap: the warm version is active again, or the model is gone; the failed one is retired."""
        slot = self._slots[model]
        self._retire(slot.active)
        if slot.warm is None:
            del self._slots[model]
            return None
        slot.active, slot.warm = slot.warm, None
        slot.active.previous = False
        return slot.active

    def remove(self, model: str) -> None:
        """Stop serving a model."""
        slot = self._slots.pop(model, None)
        for served in (slot.active, slot.warm) if slot else ():
            if served is not None:
                self._retire(served)

    def _retire(self, served: ServedVersion) -> None:
        self._retired.add(served)
        served.retire()

    def close(self) -> None:
        """Retire everything."""
        for name in tuple(self._slots):
            self.remove(name)

    def _names(self) -> str:
        return ", ".join(sorted(self._slots)) or "no model yet"
