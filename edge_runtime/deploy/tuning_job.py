"""What a tuning child is asked, and the lines in which it answers."""

from dataclasses import dataclass, field

from edge_runtime.config import EngineConfig
from edge_runtime.inference.description import Description
from edge_runtime.inference.tuning import Tuning


@dataclass(frozen=True, slots=True)
class TuningJob:
    """What the child is asked to do, as JSON on its standard input.

    Attributes:
        config: of this model; what it fixes is not varied.
        crashed: in which steps a child before this one died, and how: they are left out.
    """

    model: str
    manifest: str
    description: Description
    config: EngineConfig
    cpu: str
    cores: int
    memory_bytes: int
    cpu_seconds: int
    golden: str | None = None
    crashed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of JSON on the child's standard output.

    Attributes:
        step: what it does from now on; whoever hears of its death knows what killed it.
        done: how far it is, 0 to 1.
        tuning: the result, in the last line.
        error: why there is none.
    """

    step: str = ""
    done: float = 0.0
    tuning: Tuning | None = None
    error: str = ""
