"""The advertiser on 127.0.0.1, heard by a second, independent zeroconf."""

import asyncio
import errno
import ipaddress
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import ifaddr
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from edge_runtime.config import DiscoveryConfig
from edge_runtime.contract import names
from edge_runtime.errors import TransportError
from edge_runtime.transports import mdns
from edge_runtime.transports.mdns import MAX_TXT_BYTES, Advertiser, Reach, choose, cut_names, instance_label

LOOPBACK = ["127.0.0.1"]
ID = "12345678-0000-4000-8000-000000000000"
CONFIG = DiscoveryConfig(rescan_seconds=0.1, retry_max_seconds=0.1)


def unique(text: str) -> str:
    """A name that no other box on this machine has."""
    return f"{text} {uuid.uuid4().hex[:8]}"


def advertiser(device: str, models: list[str] | None = None, **changes: object) -> Advertiser:
    """An advertiser on loopback."""
    listed = [] if models is None else models
    known: dict[str, object] = {
        "device": device,
        "device_id": ID,
        "version": "0.1.0",
        "http_host": "127.0.0.1",
        "http_port": 8712,
        "grpc_port": 8701,
        "models": lambda: list(listed),
    }
    return Advertiser(CONFIG, **(known | changes))  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], what: str, seconds: float = 8.0) -> None:
    """Wait for `condition`, fail after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {seconds:g} s: {what}")


class Peer:
    """Another program on the network: it browses, reads records and may register names of its own."""

    def __init__(self, zeroconf: AsyncZeroconf) -> None:
        self.zeroconf = zeroconf
        self.changes: list[tuple[ServiceStateChange, str]] = []

    def heard(self, *, name: str, state_change: ServiceStateChange, **_: object) -> None:
        """Remember what the browser tells."""
        self.changes.append((state_change, name))

    async def read(self, name: str) -> AsyncServiceInfo:
        """The records of an instance, which must be there."""
        info = AsyncServiceInfo(names.SERVICE_TYPE, f"{name}.{names.SERVICE_TYPE}")
        assert await info.async_request(self.zeroconf.zeroconf, 3000)
        return info

    async def register(self, name: str, server: str, *, cooperating: bool = False) -> None:
        """Announce an instance; `cooperating` does not ask whether the name is taken."""
        info = ServiceInfo(
            names.SERVICE_TYPE,
            f"{name}.{names.SERVICE_TYPE}",
            port=1,
            properties={"txtvers": "1"},
            server=server,
            parsed_addresses=["127.0.0.1"],
        )
        await (await self.zeroconf.async_register_service(info, cooperating_responders=cooperating))


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    """A second zeroconf that browses for boxes."""
    async with AsyncZeroconf(interfaces=LOOPBACK) as zeroconf:
        listener = Peer(zeroconf)
        async with AsyncServiceBrowser(zeroconf.zeroconf, names.SERVICE_TYPE, [listener.heard]):
            yield listener


@asynccontextmanager
async def started(box: Advertiser) -> AsyncIterator[Advertiser]:
    """The advertiser, from start to goodbye."""
    await box.start()
    try:
        yield box
    finally:
        await box.stop()


def run(scenario: Awaitable[None]) -> None:
    """Run a scenario to its end."""
    asyncio.run(scenario)  # type: ignore[arg-type]


def test_a_box_is_heard_from_start_to_goodbye() -> None:
    """A peer sees the box appear with its records, its models change, and the box leave."""
    name, models = unique("kitchen"), ["digits"]

    async def scenario() -> None:
        async with peer() as other:
            box = advertiser(name, models)
            await box.start()
            assert (box.name, box.problem()) == (name, None)
            info = await other.read(name)
            assert info.decoded_properties == {
                "txtvers": "1",
                "id": ID,
                "ver": "0.1.0",
                "api": "oip2",
                "path": "/v2",
                "grpc": "8701",
                "tls": "0",
                "models": "digits",
            }
            assert (info.port, info.server) == (8712, "edge-12345678.local.")
            assert info.parsed_addresses() == LOOPBACK
            models.append("gesture")
            await box.update()
            await until(lambda: (ServiceStateChange.Updated, info.name) in other.changes, "the update")
            assert (await other.read(name)).decoded_properties["models"] == "digits,gesture"
            await box.stop()
            await until(lambda: (ServiceStateChange.Removed, info.name) in other.changes, "the goodbye")
            assert box.problem()

    run(scenario())


def test_unusual_names() -> None:
    """Names with spaces, dots and any script are taken; only a dot is written as a hyphen."""
    tag = uuid.uuid4().hex[:8]
    devices = [f"Küche oben {tag}", f"a.b.c.{tag}", f'it\'s & "that" (2) {tag}', "箱" * 18 + tag]

    async def check(other: Peer, device: str) -> None:
        async with started(advertiser(device)) as box:
            assert box.problem() is None
            assert box.name == device.replace(".", "-")
            assert (await other.read(box.name)).port == 8712

    async def scenario() -> None:
        async with peer() as other:
            await asyncio.gather(*(check(other, device) for device in devices))

    run(scenario())


def test_a_name_that_is_taken() -> None:
    """The second box of a name takes "-2", and both are there."""
    name = unique("twin")

    async def scenario() -> None:
        async with peer() as other:
            await other.register(name, "edge-00000000.local.")
            async with started(advertiser(name)) as box:
                await until(lambda: box.name == f"{name}-2" and box.problem() is None, "another name")
                assert (await other.read(f"{name}-2")).server == "edge-12345678.local."

    run(scenario())


def test_a_conflict_that_comes_later() -> None:
    """When two networks with a box of the same name are joined, the one with the larger id takes another name."""

    async def check(other: Peer, server: str, ending: str) -> None:
        name = unique("twin")
        async with started(advertiser(name)) as box:
            assert box.name == name
            await other.register(name, server, cooperating=True)
            await until(lambda: box.name == name + ending and box.problem() is None, "the decision")
            wanted = (ServiceStateChange.Added, f"{name}{ending}.{names.SERVICE_TYPE}")
            await until(lambda: wanted in other.changes, "the name")
            # A goodbye under the name would withdraw the other box.
            assert (ServiceStateChange.Removed, f"{name}.{names.SERVICE_TYPE}") not in other.changes

    async def scenario() -> None:
        async with peer() as other:
            await asyncio.gather(check(other, "edge-00000000.local.", "-2"), check(other, "edge-ffffffff.local.", ""))

    run(scenario())


def test_multicast_that_is_refused_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that refuses multicast is a problem that is told and retried, not the end of the daemon."""
    refusals = [OSError(1, "Operation not permitted"), RuntimeError("No interfaces to listen on")]

    def refusing(**options: object) -> AsyncZeroconf:
        if refusals:
            raise refusals.pop(0)
        return AsyncZeroconf(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(mdns, "AsyncZeroconf", refusing)
    monkeypatch.setattr(mdns, "_FIRST_RETRY_SECONDS", 0.05)

    async def scenario() -> None:
        async with started(advertiser(unique("kitchen"))) as box:
            assert box.problem() == "mDNS: not advertised: [Errno 1] Operation not permitted"
            await box.update()
            await until(lambda: box.problem() is None, "the third attempt")

    run(scenario())


def test_stop_during_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that is stopped while it still looks for a network stops at once."""

    def no_network(*_: object) -> Reach:
        raise TransportError("no network")

    monkeypatch.setattr(mdns, "choose", no_network)

    async def scenario() -> None:
        async with started(advertiser(unique("kitchen"))) as box:
            assert box.problem() == "mDNS: not advertised: no network"

    run(scenario())


def test_changed_addresses_are_advertised(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the machine's addresses change, the box is advertised at the new ones."""
    reach = Reach(("127.0.0.1",), ("192.0.2.7",))
    monkeypatch.setattr(mdns, "choose", lambda *_: reach)
    name = unique("kitchen")

    async def scenario() -> None:
        nonlocal reach
        async with peer() as other, started(advertiser(name)):
            assert (await other.read(name)).parsed_addresses() == ["192.0.2.7"]
            reach = Reach(("127.0.0.1",), ("192.0.2.8",))
            full = f"{name}.{names.SERVICE_TYPE}"
            await until(lambda: other.changes.count((ServiceStateChange.Added, full)) == 2, "it came back")
            assert (await other.read(name)).parsed_addresses() == ["192.0.2.8"]

    run(scenario())


def _adapter(name: str, index: int, *addresses: str) -> ifaddr.Adapter:
    ips = []
    for text in addresses:
        interface = ipaddress.ip_interface(text)
        ip = str(interface.ip)
        known = ip if interface.version == 4 else (ip, 0, index if interface.ip.is_link_local else 0)
        ips.append(ifaddr.IP(known, interface.network.prefixlen, name))
    return ifaddr.Adapter(name, name, ips, index)


LO = _adapter("lo", 1, "127.0.0.1/8", "::1/128")
ETH = _adapter("eth0", 2, "192.0.2.2/24", "2001:db8::2/64", "fe80::2/64")
WLAN = _adapter("wlan0", 3, "198.51.100.3/24")
CABLE = _adapter("eth1", 4, "169.254.7.7/16", "fe80::4/64")


@pytest.mark.parametrize(
    ("adapters", "host", "interfaces", "reach"),
    [
        ([LO, ETH, WLAN], "0.0.0.0", (), Reach(("192.0.2.2", "198.51.100.3"), ("192.0.2.2", "198.51.100.3"))),
        ([LO, ETH], "::", (), Reach(("192.0.2.2", 2), ("192.0.2.2", "2001:db8::2"))),
        ([LO, ETH, WLAN], "0.0.0.0", ("wlan0",), Reach(("198.51.100.3",), ("198.51.100.3",))),
        ([LO, ETH, WLAN], "0.0.0.0", ("192.0.2.2",), Reach(("192.0.2.2",), ("192.0.2.2",))),
        ([LO, ETH, WLAN], "198.51.100.3", (), Reach(("198.51.100.3",), ("198.51.100.3",))),
        ([LO, ETH], "127.0.0.1", (), Reach(("127.0.0.1",), ("127.0.0.1",))),
        ([LO, ETH], "localhost", ("eth0",), Reach(("127.0.0.1",), ("127.0.0.1",))),
        ([], "::1", (), Reach(("127.0.0.1",), ("::1",))),
        ([LO, CABLE], "0.0.0.0", (), Reach(("169.254.7.7",), ("169.254.7.7",))),
        ([LO, CABLE, WLAN], "0.0.0.0", (), Reach(("198.51.100.3",), ("198.51.100.3",))),
        ([LO], "0.0.0.0", (), Reach(("127.0.0.1",), ("127.0.0.1",))),
    ],
)
def test_choose(adapters: list[ifaddr.Adapter], host: str, interfaces: tuple[str, ...], reach: Reach) -> None:
    """Only addresses that the listener answers on and that others can use are advertised."""
    assert choose(adapters, host, interfaces) == reach


@pytest.mark.parametrize(
    ("adapters", "host", "interfaces", "message"),
    [
        ([], "0.0.0.0", (), "no network address"),
        ([LO, ETH], "0.0.0.0", ("wlan0", "eth9"), r"interfaces \(wlan0, eth9\)"),
        ([LO, ETH], "203.0.113.5", (), "203.0.113.5"),
    ],
)
def test_choose_finds_nothing(
    adapters: list[ifaddr.Adapter], host: str, interfaces: tuple[str, ...], message: str
) -> None:
    """What is missing is named."""
    with pytest.raises(TransportError, match=message):
        choose(adapters, host, interfaces)


@given(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), max_size=40))
def test_models_are_cut_at_a_whole_name(models: list[str]) -> None:
    """The list fits into a TXT string, holds whole names in order, and no more would have fitted."""
    room = MAX_TXT_BYTES - len("models=")
    cut = cut_names(models, room)
    taken = cut.split(",") if cut else []
    assert len(cut) <= room
    assert taken == models[: len(taken)]
    if len(taken) < len(models):
        assert len(",".join(models[: len(taken) + 1])) > room


@given(st.from_regex(r"[^/+#\x00-\x1f]{1,63}", fullmatch=True), st.integers(1, 101))
def test_any_device_name_makes_a_label(device: str, number: int) -> None:
    """A label has at most 63 bytes and no dot, also with a number behind."""
    label = instance_label(device, number)
    assert len(label.encode()) <= 63
    assert "." not in label
    assert label.endswith(f"-{number}" if number > 1 else "")


def test_zeroconf_is_closed_when_the_name_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registration that fails leaves no sockets, and says what to do."""
    closed: list[Zeroconf] = []

    class Watched(AsyncZeroconf):
        async def async_close(self) -> None:
            await super().async_close()
            closed.append(self.zeroconf)

    monkeypatch.setattr(mdns, "AsyncZeroconf", Watched)
    monkeypatch.setattr(mdns, "MAX_RENAMES", 0)

    async def scenario() -> None:
        async with started(advertiser(unique("kitchen"))) as box:
            assert "set [device] name" in (box.problem() or "")
            assert closed

    run(scenario())


def no_descriptors() -> list[ifaddr.Adapter]:
    """What the system says when no file can be opened any more."""
    raise OSError(errno.EMFILE, "Too many open files")


def test_addresses_that_cannot_be_read_for_a_while_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file descriptor left at a rescan: the box stays advertised, and says goodbye as always."""
    name, asked = unique("kitchen"), []

    def failing() -> list[ifaddr.Adapter]:
        asked.append(1)
        return no_descriptors()

    async def scenario() -> None:
        async with peer() as other:
            box = advertiser(name)
            await box.start()
            monkeypatch.setattr(ifaddr, "get_adapters", failing)
            await until(lambda: len(asked) > 3, "rescans")
            assert box.problem() is None
            await other.read(box.name)
            monkeypatch.undo()
            await box.stop()
            await until(
                lambda: (ServiceStateChange.Removed, f"{name}.{names.SERVICE_TYPE}") in other.changes, "goodbye"
            )

    run(scenario())


@pytest.mark.parametrize("error", [OSError(errno.ENETDOWN, "down"), RuntimeError("loop"), ValueError("odd")])
def test_whatever_fails_while_advertised_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The background task does not end; the problem is seen until the box is advertised again."""
    monkeypatch.setattr(mdns, "_FIRST_RETRY_SECONDS", 0.3)
    name = unique("kitchen")

    def moved(*_: object) -> bool:
        raise error

    async def scenario() -> None:
        async with started(advertiser(name)) as box:
            with monkeypatch.context() as broken:
                broken.setattr(Advertiser, "_moved", moved)
                await until(lambda: str(error) in (box.problem() or ""), "the problem")
            await until(lambda: box.problem() is None, "advertised again")

    run(scenario())


def test_neither_update_nor_stop_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that stops has more to do than to say goodbye."""

    async def failing(*_: object) -> None:
        no_descriptors()

    async def scenario() -> None:
        box = advertiser(unique("kitchen"))
        await box.start()
        session = box._session
        assert session is not None
        with monkeypatch.context() as broken:
            broken.setattr(AsyncZeroconf, "async_update_service", failing)
            broken.setattr(AsyncZeroconf, "async_close", failing)
            await box.update()
            await box.stop()
        assert box.problem() == "mDNS: stopped"
        await session.zeroconf.async_close()

    run(scenario())
