"""The deployer with its real store, real probe (child processes) and real engine."""

import asyncio
import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benches import KEY, QUICK, Bench, hurried, on_bench
from bundles import digits, digits_content, digits_manifest, make, pack

from edge_runtime.contract import bundle
from edge_runtime.contract.manifest import Parity
from edge_runtime.deploy.store import State
from edge_runtime.errors import CallerError, Code


def test_a_bundle_is_committed_and_answers(tmp_path: Path) -> None:
    """The whole way; golden vectors included."""

    async def go(bench: Bench) -> None:
        progress = await bench.push(digits())
        assert (progress.state, progress.reason) == (State.COMMITTED, "")
        assert await bench.ask() == "1.0.0"
        assert bench.objects() == {entry.sha256 for entry in digits_manifest().files.values()}

    bench = on_bench(tmp_path, go)
    assert [(e.kind, e.model, e.version) for e in bench.heard] == [("deployed", "digits", "1.0.0")]


def test_pushing_the_same_again_is_no_error_and_no_work(tmp_path: Path) -> None:
    """A script may repeat itself."""

    async def go(bench: Bench) -> None:
        await bench.push(digits())
        before = bench.registry.find("digits")
        assert (await bench.push(digits())).state is State.COMMITTED
        assert bench.registry.find("digits") is before

    on_bench(tmp_path, go)


def test_signed_bundles_only_where_the_box_says_so(tmp_path: Path) -> None:
    """And what is refused leaves nothing on disk."""

    async def go(bench: Bench) -> None:
        refused = await bench.push(digits())
        assert (refused.state, refused.code) == (State.REFUSED, Code.UNTRUSTED)
        assert bench.objects() == set()
        assert (await bench.push(digits(key=KEY))).state is State.COMMITTED

    on_bench(tmp_path, go, require_signature=True)


def test_roll_back_activate_and_remove(tmp_path: Path) -> None:
    """Forth and back, by the operator."""

    async def go(bench: Bench) -> None:
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            assert (await bench.push(digits(version))).state is State.COMMITTED
        assert await bench.deployer.rollback("digits") == ("1.1.0", "1.2.0")
        assert await bench.ask() == "1.1.0"
        assert await bench.deployer.rollback("digits") == ("1.2.0", "1.1.0")
        assert await bench.deployer.activate("digits", "1.0.0") == ("1.0.0", "1.2.0")
        assert await bench.ask() == "1.0.0"
        with pytest.raises(CallerError, match="not on this box"):
            await bench.deployer.activate("digits", "7.0.0")
        await bench.deployer.remove("digits")
        assert bench.objects() == set()
        with pytest.raises(CallerError, match="not on this box"):
            await bench.ask()

    on_bench(tmp_path, go)


def test_a_single_version_cannot_be_rolled_back(tmp_path: Path) -> None:
    """It says so."""

    async def go(bench: Bench) -> None:
        await bench.push(digits())
        with pytest.raises(CallerError, match="no earlier version"):
            await bench.deployer.rollback("digits")

    on_bench(tmp_path, go)


def test_a_replayed_old_signed_bundle_is_refused_even_after_the_model_was_removed(tmp_path: Path) -> None:
    """The highest sequence is remembered; the operator's own activate is another matter."""

    async def go(bench: Bench) -> None:
        assert (await bench.push(digits("1.0.0", KEY, sequence=1))).state is State.COMMITTED
        assert (await bench.push(digits("1.1.0", KEY, sequence=2))).state is State.COMMITTED
        replayed = await bench.push(digits("1.0.1", KEY, sequence=1))
        assert (replayed.state, replayed.code) == (State.REFUSED, Code.UNTRUSTED)
        await bench.deployer.remove("digits")
        assert (await bench.push(digits("1.0.0", KEY, sequence=1))).state is State.REFUSED
        assert (await bench.push(digits("1.1.0", KEY, sequence=2))).state is State.COMMITTED

    on_bench(tmp_path, go)


def test_another_content_under_a_known_version_is_refused_unless_forced(tmp_path: Path) -> None:
    """1.0.0 must mean one thing on a box."""

    async def go(bench: Bench) -> None:
        await bench.push(digits())
        other = digits(parity=Parity(tolerance=0.2))
        refused = await bench.push(other)
        assert refused.code is Code.CONFLICT
        assert "raise the version" in refused.reason
        assert (await bench.push(other, force=True)).state is State.COMMITTED

    on_bench(tmp_path, go)


def golden(change: Callable[[dict[str, np.ndarray]], object]) -> bytes:
    """The example's golden vectors, changed."""
    arrays = dict(np.load(io.BytesIO(digits_content()["golden.npz"])))
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (
            golden(lambda a: a.update({"output/scores": np.roll(a["output/scores"], 1, axis=-1)})),
            "not faithful.* 0 of 16",
        ),
        (golden(lambda a: a.pop("output/scores")), "not usable"),
        (golden(lambda a: a.update({"input/image": a["input/image"][:0]})), "different or no length"),
        (golden(lambda a: a.update({"output/scores": a["output/scores"][..., :3]})), "shape"),
        (b"no npz", "not usable"),
        (b"", "not usable"),
    ],
)
def test_a_model_that_fails_its_golden_vectors_is_refused_with_numbers(
    tmp_path: Path, vectors: bytes, message: str
) -> None:
    """What was served before goes on being served."""

    async def go(bench: Bench) -> None:
        await bench.push(digits("1.0.0"))
        progress = await bench.push(
            make(digits_content() | {"golden.npz": vectors}, version="2.0.0", task="classification")
        )
        assert (progress.state, progress.code) == (State.REFUSED, Code.PROBE_FAILED)
        assert re.search(message, progress.reason), progress.reason
        assert await bench.ask() == "1.0.0"

    on_bench(tmp_path, go)


def test_labels_that_do_not_fit_are_refused_with_both_numbers(tmp_path: Path) -> None:
    """A shifted label file gives confident nonsense."""

    async def go(bench: Bench) -> None:
        content = digits_content() | {"labels.txt": b"only\ntwo\n"}
        progress = await bench.push(make(content, task="classification"))
        assert "2 labels, but the model has 10 classes" in progress.reason

    on_bench(tmp_path, go)


def test_a_probe_over_its_limits_is_refused_with_the_limit(tmp_path: Path) -> None:
    """Memory and time are bounded."""

    async def go(bench: Bench) -> None:
        progress = await bench.push(digits())
        assert progress.state is State.REFUSED
        assert "within 0.01 s" in progress.reason

    on_bench(tmp_path, go, config=hurried())


def test_a_version_that_fails_in_its_trial_is_rolled_back_and_remembered(tmp_path: Path) -> None:
    """The old version answers again; the digest needs --force to get another chance."""

    async def go(bench: Bench) -> None:
        await bench.push(digits("1.0.0"))

        async def sabotage() -> None:
            while bench.registry.find("digits").version != "2.0.0":  # noqa: ASYNC110 - a swap tells nobody
                await asyncio.sleep(0)
            bench.registry.find("digits").stats.failed(Code.BAD_CONTENT)

        trouble = asyncio.create_task(sabotage())
        progress = await bench.push(digits("2.0.0"))
        await trouble
        assert progress.state is State.ROLLED_BACK
        assert "during its trial" in progress.reason
        assert await bench.ask() == "1.0.0"
        again = await bench.push(digits("2.0.0"))
        assert (again.state, again.code) == (State.REFUSED, Code.CONFLICT)
        assert (await bench.push(digits("2.0.0"), force=True)).state is State.COMMITTED

    bench = on_bench(tmp_path, go, config=replace(QUICK, trial_seconds=0.3))
    assert [e.kind for e in bench.heard] == ["deployed", "rolled_back", "refused", "deployed"]


def test_the_committed_version_is_served_after_a_restart(tmp_path: Path) -> None:
    """And can still be rolled back."""

    async def before(bench: Bench) -> None:
        await bench.push(digits("1.0.0"))
        await bench.push(digits("1.1.0"))

    async def after(bench: Bench) -> None:
        await bench.deployer.recover()
        assert await bench.ask() == "1.1.0"
        assert await bench.deployer.rollback("digits") == ("1.0.0", "1.1.0")
        assert await bench.ask() == "1.0.0"

    on_bench(tmp_path, before)
    on_bench(tmp_path, after)


def test_death_during_a_trial_is_a_roll_back_at_the_next_start(tmp_path: Path) -> None:
    """The version that may have killed the daemon is not started again."""

    async def before(bench: Bench) -> None:
        await bench.push(digits("1.0.0"))
        bench.stage(digits("2.0.0"), trial=True)

    async def after(bench: Bench) -> None:
        (told,) = await bench.deployer.recover()
        assert (told.kind, told.version) == ("rolled_back", "2.0.0")
        assert await bench.ask() == "1.0.0"
        assert (await bench.push(digits("2.0.0"))).code is Code.CONFLICT

    on_bench(tmp_path, before)
    on_bench(tmp_path, after)


def test_a_model_proved_by_another_engine_is_proved_again(tmp_path: Path) -> None:
    """An upgrade of the engine may change everything."""

    async def before(bench: Bench) -> None:
        await bench.push(digits())
        known = bench.store.versions("digits")[0]
        assert known.description is not None
        bench.store.describe(known.digest, replace(known.description, engine_version="0.0.1"))

    async def after(bench: Bench) -> None:
        await bench.deployer.recover()
        assert await bench.ask() == "1.0.0"
        description = bench.store.versions("digits")[0].description
        assert description is not None
        assert description.engine_version != "0.0.1"

    on_bench(tmp_path, before)
    on_bench(tmp_path, after)


def test_a_damaged_model_file_falls_back_to_the_version_before(tmp_path: Path) -> None:
    """A bad sector must not leave a box without an answer."""

    async def before(bench: Bench) -> None:
        content = digits_content()
        await bench.push(digits("1.0.0"))
        changed = content["model.tflite"] + bytes(4)  # another file that the engine takes all the same
        await bench.push(make(content | {"model.tflite": changed}, version="2.0.0", task="classification"))
        assert await bench.ask() == "2.0.0"
        (bench.folder / "objects" / bundle.entry(changed).sha256).write_bytes(content["model.tflite"])

    async def after(bench: Bench) -> None:
        await bench.deployer.recover()
        assert await bench.ask() == "1.0.0"

    on_bench(tmp_path, before)
    on_bench(tmp_path, after)


def test_old_versions_are_collected_but_never_the_active_or_the_fallback(tmp_path: Path) -> None:
    """Disks of boxes are small."""

    async def go(bench: Bench) -> None:
        for patch in range(4):
            await bench.push(digits(f"1.0.{patch}"))
        assert [v.manifest.version for v in bench.store.versions("digits")] == ["1.0.3", "1.0.2"]

    on_bench(tmp_path, go, config=replace(QUICK, keep_versions=2))


def spliced(**members: bytes) -> bytes:
    """The example's bundle with some members exchanged behind the manifest's back."""
    return pack(digits_manifest(), digits_content() | members)


def with_extra_member() -> bytes:
    """A bundle with a member that its manifest does not list."""
    content = digits_content()
    manifest = replace(digits_manifest(), files={"model.tflite": bundle.entry(content["model.tflite"])})
    return pack(manifest, content)


def compressed() -> bytes:
    """A bundle whose members are deflated: a bomb could be one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", digits_manifest().canonical())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a bundle"),
        (b"PK\x05\x06" + bytes(18), "no manifest.json"),
        (digits_content()["model.tflite"], "not a bundle"),
        (digits()[:-100], "bundle"),
        (spliced(**{"model.tflite": b"other"}), "not what the manifest says"),
        (spliced(**{"labels.txt": b""}), "not what the manifest says"),
        (with_extra_member(), "does not list"),
        (compressed(), "compressed"),
        (pack(digits_manifest(), {}), "bundle has no"),
    ],
)
def test_what_is_not_a_whole_bundle_is_refused_and_leaves_nothing(tmp_path: Path, data: bytes, message: str) -> None:
    """Truncated, spliced, padded, compressed."""

    async def go(bench: Bench) -> None:
        progress = await bench.push(data)
        assert progress.state is State.REFUSED
        assert message in progress.reason
        assert bench.objects() == set()
        assert bench.registry.active() == ()

    on_bench(tmp_path, go)
