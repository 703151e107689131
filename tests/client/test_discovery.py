"""Finding boxes that advertise themselves on 127.0.0.1."""

import contextlib
import ipaddress
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import free_port
from zeroconf import ServiceInfo, Zeroconf

from edge_runtime.client import discovery
from edge_runtime.client.discovery import Box, discover, parse_address, rank, resolve
from edge_runtime.client.errors import ClientError
from edge_runtime.contract import names

LOOPBACK = ("127.0.0.1",)


@contextlib.contextmanager
def advertised(name: str, *addresses: str, port: int = 8713, **txt: str) -> Iterator[ServiceInfo]:
    """A service record on 127.0.0.1, as another implementation of a box would publish it."""
    known = {"txtvers": "1", "id": "an id", "ver": "0.1.0", "api": "oip2", "path": "/v2", "grpc": "8701", "tls": "0"}
    info = ServiceInfo(
        names.SERVICE_TYPE,
        f"{name}.{names.SERVICE_TYPE}",
        port=port,
        properties=known | {"models": "digits,gesture"} | txt,
        server=f"edge-{uuid.uuid4().hex[:8]}.local.",
        parsed_addresses=list(addresses or LOOPBACK),
    )
    zeroconf = Zeroconf(interfaces=list(LOOPBACK))
    try:
        zeroconf.register_service(info, cooperating_responders=True)
        yield info
    finally:
        zeroconf.close()


@pytest.fixture(scope="module")
def kitchen() -> Iterator[str]:
    """The name of a box that is advertised while this module runs."""
    name = f"Küche {uuid.uuid4().hex[:8]}"
    with advertised(name):
        yield name


@pytest.mark.parametrize("interfaces", [LOOPBACK, ()])
def test_discover_hears_a_box_on_loopback(kitchen: str, interfaces: tuple[str, ...]) -> None:
    """A box that advertises on 127.0.0.1 only is in the list, with all that its record says."""
    boxes = {box.name: box for box in discover(0.6, interfaces)}
    assert boxes[kitchen] == Box(
        name=kitchen,
        url="http://127.0.0.1:8713",
        id="an id",
        version="0.1.0",
        models=("digits", "gesture"),
        addresses=LOOPBACK,
        port=8713,
        grpc_port=8701,
    )
    assert list(boxes) == sorted(boxes, key=str.casefold)


def test_resolve_returns_as_soon_as_the_name_is_heard(kitchen: str) -> None:
    """A name is found without regard to case, and long before the time is over - also when asked again at once."""
    for _ in range(3):
        start = time.monotonic()
        assert resolve(kitchen.upper(), wait_seconds=20.0, interfaces=LOOPBACK).url == "http://127.0.0.1:8713"
        assert time.monotonic() - start < 5.0


def test_resolve_waits_for_a_box_that_comes(kitchen: str) -> None:
    """A box that starts while we listen is found."""
    name = f"late {uuid.uuid4().hex[:8]}"
    done = threading.Event()

    def come() -> None:
        time.sleep(0.5)
        with advertised(name):
            done.wait(20)

    thread = threading.Thread(target=come)
    thread.start()
    try:
        assert resolve(name, wait_seconds=20.0, interfaces=LOOPBACK).name == name
    finally:
        done.set()
        thread.join()


def test_resolve_takes_the_address_that_answers() -> None:
    """Of several addresses, one that accepts connections is used."""
    name, port = f"two {uuid.uuid4().hex[:8]}", free_port()
    with socket.create_server(("127.0.0.9", port)), advertised(name, "127.0.0.8", "127.0.0.9", port=port):
        box = resolve(name, wait_seconds=10.0, interfaces=LOOPBACK)
    assert (box.url, box.addresses) == (f"http://127.0.0.9:{port}", ("127.0.0.9", "127.0.0.8"))


def test_resolve_names_who_is_there(kitchen: str) -> None:
    """A name that nobody has is an error that lists the boxes that were heard."""
    with pytest.raises(ClientError, match=f"no box named 'no such box'.*{kitchen}"):
        resolve("no such box", wait_seconds=0.8, interfaces=LOOPBACK)


def test_resolve_falls_back_to_dns() -> None:
    """A host name that is no box's name is used with the usual port."""
    assert resolve("localhost", wait_seconds=0.1, interfaces=LOOPBACK).url == "http://localhost:8700"


def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any address gets a sentence, not a traceback."""
    monkeypatch.setattr(discovery, "_local", list)
    with pytest.raises(ClientError, match="no network address"):
        discover(0.1)


def test_an_interface_that_is_not_there() -> None:
    """An address that this machine does not have is an error that says what else to do."""
    with pytest.raises(ClientError, match="cannot do multicast DNS"):
        discover(0.1, interfaces=("not an address",))


@pytest.mark.parametrize(
    ("to", "url"),
    [
        ("http://box:8700/", "http://box:8700"),
        ("https://box", "https://box"),
        ("box:80", "http://box:80"),
        ("192.0.2.7", "http://192.0.2.7:8700"),
        ("[2001:db8::7]:81", "http://[2001:db8::7]:81"),
        ("2001:db8::7", "http://[2001:db8::7]:8700"),
    ],
)
def test_addresses(to: str, url: str) -> None:
    """A URL, host:port or IP address needs no discovery."""
    box = parse_address(to)
    assert box is not None
    assert box.url == url


@pytest.mark.parametrize("to", ["kitchen", "Küche oben", "kitchen:", "a b:80", "kitchen:99999", "edge.local"])
def test_what_is_no_address(to: str) -> None:
    """All else is a name."""
    assert parse_address(to) is None


@pytest.mark.parametrize("to", ["ftp://box", "http://", "http://[::1"])
def test_urls_that_cannot_be(to: str) -> None:
    """A URL that is not one of HTTP is refused with what to write."""
    with pytest.raises(ClientError, match="URL"):
        parse_address(to)


LOCAL = [ipaddress.ip_interface(text) for text in ("192.0.2.2/24", "172.17.0.1/16", "2001:db8::2/64", "127.0.0.1/8")]


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        (["172.17.0.1", "192.0.2.9"], ["192.0.2.9"]),  # its bridge has the address of ours
        (["10.0.0.9", "192.0.2.9"], ["192.0.2.9", "10.0.0.9"]),
        (["2001:db8::9", "192.0.2.9"], ["192.0.2.9", "2001:db8::9"]),
        (["172.17.0.1", "192.0.2.2"], ["172.17.0.1", "192.0.2.2"]),  # the box is this machine
        ([], []),
    ],
)
def test_rank(addresses: list[str], order: list[str]) -> None:
    """Neighbours come first, and what leads back to ourselves is left out."""
    assert rank(addresses, LOCAL) == order


@given(st.dictionaries(st.sampled_from(["id", "ver", "grpc", "tls", "models", "x"]), st.text(max_size=30), max_size=6))
def test_any_record_makes_a_box(txt: dict[str, str]) -> None:
    """Whatever a stranger's record says, it is read without an exception."""
    info = ServiceInfo(names.SERVICE_TYPE, f"b.{names.SERVICE_TYPE}", port=1, properties=dict(txt), server="h.local.")
    box = discovery.from_record("b", info, ())
    assert box.url.endswith("://h.local:1")
    assert all(box.models)
