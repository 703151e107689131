"""Is the daemon alive, or only running? Named checks, each with a time limit; fatal ones starve the watchdog."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

CheckFunction = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `problem` is empty when it passed."""

    name: str
    problem: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What all checks found."""

    findings: tuple[Finding, ...] = ()

    @property
    def alive(self) -> bool:
        """No fatal check failed: the watchdog may be fed."""
        return not any(f.problem and f.fatal for f in self.findings)

    @property
    def status(self) -> str:
        """One of "ok", "degraded" (something needs attention) and "failed" (a restart is due)."""
        if not self.alive:
            return "failed"
        return "degraded" if self.problems else "ok"

    @property
    def problems(self) -> dict[str, str]:
        """Problem by check name, for those that failed."""
        return {f.name: f.problem for f in self.findings if f.problem}


@dataclass
class Health:
    """The registered checks. A check returns None, or says what is wrong; raising or being late counts as failing."""

    timeout_seconds: float = 5.0
    last: Report = field(default_factory=Report)
    _checks: dict[str, tuple[CheckFunction, bool]] = field(default_factory=dict)

    def register(self, name: str, check: CheckFunction, *, fatal: bool) -> None:
        """Add a check; `fatal` means that only a restart helps."""
        self._checks[name] = (check, fatal)

    async def run(self) -> Report:
        """Run every check and remember the report."""
        checks = tuple(self._checks.items())
        found = await asyncio.gather(*(self._run(check) for _, (check, _) in checks))
        self.last = Report(
            tuple(Finding(name, problem, fatal) for (name, (_, fatal)), problem in zip(checks, found, strict=True))
        )
        return self.last

    async def _run(self, check: CheckFunction) -> str:
        limit = asyncio.timeout(self.timeout_seconds)
        try:
            async with limit:
                return await check() or ""
        except asyncio.CancelledError:
            # Something that the check waited for was cancelled, unless it is us who are being stopped.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return "what it waited for was cancelled"
        except Exception as error:  # noqa: BLE001 - whatever a check raises is what is wrong
            return (
                f"no answer within {self.timeout_seconds:g} s"
                if limit.expired()
                else f"{type(error).__name__}: {error}"
            )
