"""What must not go wrong when something else does: nothing that is committed is ever harmed by an attempt."""

import asyncio
import io
import sqlite3
import struct
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from benches import KEY, QUICK, Bench, hurried, on_bench
from bundles import digits, digits_content, make

from edge_runtime.contract.bundle import BundleReader
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import InputDeclaration, OutputDeclaration
from edge_runtime.deploy.deployer import Progress
from edge_runtime.deploy.store import MAX_FAILURES, Deployment, State
from edge_runtime.errors import Code


async def answers_after_restart(bench: Bench, version: str) -> None:
    """The committed version is served by a daemon that starts now."""
    await bench.deployer.recover()
    assert await bench.ask() == version


@pytest.mark.parametrize("step", [State.VERIFIED, State.STAGED, State.TRIAL])
def test_stopping_a_forced_push_of_what_is_served_harms_nothing(tmp_path: Path, step: State) -> None:
    """The same bytes, pushed again with --force, and the daemon stops in the middle."""

    async def go(bench: Bench) -> None:
        await bench.push(digits())
        path, progress = tmp_path / "again.part", Progress()
        path.write_bytes(digits())
        reached = asyncio.Event()

        def changed() -> None:
            if progress.state is step:
                reached.set()

        again = asyncio.create_task(bench.deployer.deploy(path, progress, force=True, changed=changed))
        await reached.wait()
        await bench.deployer.close()
        await again
        assert progress.state is State.REFUSED

    on_bench(tmp_path, go, config=replace(QUICK, trial_seconds=5.0))
    on_bench(tmp_path, lambda bench: answers_after_restart(bench, "1.0.0"))


@pytest.mark.parametrize("trial", [False, True])
def test_a_crash_in_a_forced_push_of_what_is_served_harms_nothing(tmp_path: Path, *, trial: bool) -> None:
    """Whether it was staged or on trial."""

    async def go(bench: Bench) -> None:
        await bench.push(digits())
        bench.stage(digits(), trial=trial)

    on_bench(tmp_path, go)
    on_bench(tmp_path, lambda bench: answers_after_restart(bench, "1.0.0"))


def test_a_fallback_that_is_pushed_again_and_fails_is_still_there_to_fall_back_to(tmp_path: Path) -> None:
    """A probe that is too slow today says nothing about what was committed."""

    async def before(bench: Bench) -> None:
        await bench.push(digits("1.0.0"))
        await bench.push(digits("1.1.0"))

    async def failing(bench: Bench) -> None:
        await bench.deployer.recover()
        assert (await bench.push(digits("1.0.0"))).state is State.REFUSED
        assert await bench.deployer.rollback("digits") == ("1.0.0", "1.1.0")

    on_bench(tmp_path, before)
    on_bench(tmp_path, failing, config=hurried())
    on_bench(tmp_path, lambda bench: answers_after_restart(bench, "1.0.0"))


def test_stopping_while_the_commit_is_written_loses_nothing(tmp_path: Path) -> None:
    """On a slow card the stop comes in the middle of the commit: then it is committed, or it never was."""

    async def go(bench: Bench) -> None:
        commit, writing = bench.store.commit, asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(deployment: Deployment, fallback: str | None) -> None:
            loop.call_soon_threadsafe(writing.set)
            time.sleep(0.3)  # what a card does
            commit(deployment, fallback)

        bench.store.commit = slow  # type: ignore[method-assign]
        push = asyncio.create_task(bench.push(digits()))
        await writing.wait()
        await bench.deployer.close()
        await push

    on_bench(tmp_path, go)
    on_bench(tmp_path, lambda bench: answers_after_restart(bench, "1.0.0"))


def test_removing_one_model_leaves_the_versions_of_others(tmp_path: Path) -> None:
    """All of them, not only the served one."""

    async def go(bench: Bench) -> None:
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            await bench.push(digits(version))
        await bench.push(make(digits_content(), name="other", task="classification"))
        await bench.deployer.remove("other")
        assert [v.manifest.version for v in bench.store.versions("digits")] == ["1.2.0", "1.1.0", "1.0.0"]
        assert await bench.deployer.activate("digits", "1.0.0") == ("1.0.0", "1.2.0")

    on_bench(tmp_path, go)


def test_a_damaged_model_is_reported_and_heals_by_being_pushed_again(tmp_path: Path) -> None:
    """Not `COMMITTED` without serving it."""

    async def before(bench: Bench) -> None:
        await bench.push(digits())
        for path in (tmp_path / "objects").iterdir():
            path.write_bytes(b"damaged")

    async def after(bench: Bench) -> None:
        (told,) = await bench.deployer.recover()
        assert told.kind == "refused"
        assert "digits" in (bench.deployer.problem() or "")
        assert (await bench.push(digits())).state is State.COMMITTED
        assert await bench.ask() == "1.0.0"
        assert bench.deployer.problem() is None

    on_bench(tmp_path, before)
    on_bench(tmp_path, after)


@pytest.mark.parametrize(
    "damage",
    [
        'UPDATE versions SET description = \'{"from": "another release"}\'',
        "UPDATE versions SET description = 'no json'",
    ],
)
def test_a_description_of_another_release_is_made_anew(tmp_path: Path, damage: str) -> None:
    """Going back to an older release must not brick the box."""

    async def before(bench: Bench) -> None:
        await bench.push(digits())
        with sqlite3.connect(tmp_path / "state.db") as connection:
            connection.execute(damage)
        connection.close()

    on_bench(tmp_path, before)
    on_bench(tmp_path, lambda bench: answers_after_restart(bench, "1.0.0"))


def test_a_manifest_that_cannot_be_read_costs_its_model_only(tmp_path: Path) -> None:
    """The others are served, no file is deleted, and the box says which is missing."""

    async def before(bench: Bench) -> None:
        await bench.push(digits())
        await bench.push(make(digits_content(), name="other", task="classification"))
        with sqlite3.connect(tmp_path / "state.db") as connection:
            connection.execute("UPDATE versions SET manifest = '{\"format\":2}' WHERE model = 'other'")
        connection.close()

    async def after(bench: Bench) -> None:
        await answers_after_restart(bench, "1.0.0")
        assert "other" in (bench.deployer.problem() or "")
        assert len(bench.objects()) >= len(digits_content())

    on_bench(tmp_path, before)
    on_bench(tmp_path, after)


def test_many_labels_do_not_fit_into_one_read_of_a_pipe(tmp_path: Path) -> None:
    """The probe's answer is read to its end."""

    async def go(bench: Bench) -> None:
        labels = "\n".join(f"a rather long name for class number {i}" for i in range(20_000)).encode()
        progress = await bench.push(make(digits_content() | {"labels.txt": labels}, task="raw"))
        assert (progress.state, progress.reason) == (State.COMMITTED, "")

    on_bench(tmp_path, go)


@pytest.mark.parametrize(
    "declared",
    [
        {"task": "detection"},
        {"task": "classification", "input": InputDeclaration(kind="image", mean=(0, 0, 0), std=(1, 1, 1))},
    ],
)
def test_what_is_declared_must_work_before_it_is_committed(tmp_path: Path, declared: dict[str, object]) -> None:
    """A wrong task or three means for a grey picture would fail every request."""

    async def go(bench: Bench) -> None:
        progress = await bench.push(make(digits_content(), **declared))
        assert progress.state is State.REFUSED
        assert "does not fit the model" in progress.reason

    on_bench(tmp_path, go)


def test_an_unsigned_sequence_locks_nobody_out(tmp_path: Path) -> None:
    """Only what a trusted key signed raises the bar."""

    async def go(bench: Bench) -> None:
        assert (await bench.push(digits("9.0.0", sequence=10**18))).state is State.COMMITTED
        assert (await bench.push(digits("1.0.0", KEY, sequence=1))).state is State.COMMITTED

    on_bench(tmp_path, go)


def test_failures_are_kept_to_read_but_not_for_ever(tmp_path: Path) -> None:
    """The state of a box that is pushed nonsense stays small."""

    async def go(bench: Bench) -> None:
        for number in range(MAX_FAILURES + 5):
            digest = bench.stage(digits(f"1.0.{number}"))
            attempt = bench.store.attempt(digest)
            assert attempt is not None
            bench.store.fail(attempt, State.REFUSED, "no good")
        failures = bench.store.failures("digits")
        assert len(failures) == MAX_FAILURES
        assert failures[0].version == f"1.0.{MAX_FAILURES + 4}"

    on_bench(tmp_path, go)


def test_forcing_other_content_under_a_version_replaces_it(tmp_path: Path) -> None:
    """`activate 1.0.0` must mean one thing."""

    async def go(bench: Bench) -> None:
        await bench.push(digits("1.0.0"))
        await bench.push(digits("1.1.0"))
        assert (await bench.push(digits("1.0.0", output=OutputDeclaration(top_k=3)), force=True)).code is None
        assert [v.manifest.version for v in bench.store.versions("digits")] == ["1.0.0", "1.1.0"]

    on_bench(tmp_path, go)


def directory_of(entries: int) -> bytes:
    """An archive whose directory claims this many empty members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(entries):
            archive.writestr(str(number), b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: directory_of(20_000),
        lambda data: data + b"junk",
        lambda data: b"junk" + data,
        lambda data: data[:-2] + struct.pack("<H", 7) + b"comment",
        lambda data: data[-22:],
    ],
)
def test_a_directory_that_is_no_bundles_is_refused_before_it_is_read(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    """Each entry of a directory costs memory; what stands around an archive is nobody's business."""
    path = tmp_path / "x"
    path.write_bytes(change(digits()))
    with pytest.raises(ContractError, match=r"directory|end record"):
        BundleReader(path)


def test_a_push_into_a_closing_box_is_told_so(tmp_path: Path) -> None:
    """And is not held against the bundle."""

    async def go(bench: Bench) -> None:
        await bench.deployer.close()
        progress = await bench.push(digits())
        assert (progress.state, progress.code) == (State.REFUSED, Code.UNAVAILABLE)

    on_bench(tmp_path, go)
