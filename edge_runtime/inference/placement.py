"""Where a served version runs, for people to read."""

from dataclasses import dataclass
from typing import Literal

from edge_runtime.inference.crash_history import CrashHistory


@dataclass(frozen=True, slots=True)
class Placement:
    """What was decided when the version was loaded.

    Attributes:
        isolation: "process": in worker processes; "none": in the daemon.
        history: the crashes of those workers.
    """

    isolation: Literal["none", "process"] = "none"
    history: CrashHistory | None = None

    @property
    def isolated(self) -> bool:
        """Whether a crash of the model leaves the daemon alone."""
        return self.isolation == "process"

    @property
    def crashes(self) -> int:
        """How many workers were lost since the version was loaded."""
        return self.history.total if self.history else 0
