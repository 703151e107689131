"""Find boxes on the local network by mDNS, and turn what a person calls a box into its address."""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.client.errors import ClientError
from edge_runtime.contract import names

if TYPE_CHECKING:  # zeroconf takes 0.1 s to import, and only discovery needs it
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

CONNECT_SECONDS = 1.0
RECORD_SECONDS = 3.0
MAX_RECORDS = 1000  # being read at a time

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Box:
    """A box as it advertises itself; for one given by address only `name`, `url`, `addresses` and `port` are known.

    Attributes:
        url: root of its HTTP interface.
        version: version of the runtime on it.
        models: names of the models it serves (as many as fit into the announcement).
        addresses: where it can be reached, most promising first.
        grpc_port: 0 where it serves no gRPC.
    """

    name: str
    url: str
    id: str = ""
    version: str = ""
    models: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    port: int = names.HTTP_PORT
    grpc_port: int = 0


def discover(wait_seconds: float = 3.0, interfaces: Sequence[str] = ()) -> list[Box]:
    """Listen for boxes and return those that were heard, by name; `interfaces` are addresses, none: all.

    Not to be called from within an event loop (use a thread there).

    Raises:
        ClientError: this machine cannot do multicast DNS; the message says why.
    """
    found = asyncio.run(_browse(wait_seconds, interfaces, lambda _: False))
    return sorted(found, key=lambda box: box.name.casefold())


def resolve(to: str, wait_seconds: float = 3.0, interfaces: Sequence[str] = ()) -> Box:
    """The box that `to` means: a URL, `host:port`, an IP address, a discovered name, or a host name that DNS knows.

    A discovered name is returned as soon as it is heard. Raises ClientError if there is no such box.
    """
    direct = parse_address(to)
    if direct is not None:
        return direct
    wanted = spoken(to)
    try:
        found = asyncio.run(_browse(wait_seconds, interfaces, lambda box: spoken(box.name) == wanted))
        trouble = ""
    except ClientError as error:
        found, trouble = [], f" ({error})"
    for box in found:
        if spoken(box.name) == wanted:
            return _reachable(box)
    if _known_to_dns(to):
        return _at(to, names.HTTP_PORT)
    seen = ", ".join(sorted(box.name for box in found)) or "none"
    raise ClientError(
        f"no box named {to!r} was heard within {wait_seconds:g} s{trouble}; heard: {seen}. "
        "Check that it is on and in this network, or give its address as HOST:PORT"
    )


def parse_address(to: str) -> Box | None:
    """The box at a URL, `host:port` or IP address; None if `to` is none of these.

    Raises:
        ClientError: a URL that is not one of HTTP.
    """
    if "://" in to:
        return _from_url(to)
    match = _HOST_PORT.fullmatch(to)
    if match and 0 < int(match["port"]) <= 65535:
        return _at(match["host"].strip("[]"), int(match["port"]))
    try:
        return _at(str(ipaddress.ip_address(to.strip("[]"))), names.HTTP_PORT)
    except ValueError:
        return None


def _from_url(to: str) -> Box:
    from urllib3.exceptions import LocationParseError  # noqa: PLC0415 - kept out of `edgectl --help`
    from urllib3.util import parse_url  # noqa: PLC0415

    try:
        url = parse_url(to)
    except LocationParseError as error:
        raise ClientError(f"{to!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ClientError(f"{to!r} is not a usable URL: write http://HOST:PORT")
    port = url.port or (443 if url.scheme == "https" else 80)
    host = url.host.strip("[]")
    return Box(name=url.netloc or host, url=to.rstrip("/"), addresses=(host,), port=port)


def _at(host: str, port: int) -> Box:
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Box(name=netloc, url=f"http://{netloc}", addresses=(host,), port=port)


def _known_to_dns(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, names.HTTP_PORT, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return False


def spoken(name: str) -> str:
    """The form in which box names are compared: without case (RFC 6762 section 16), and "." as the "-" it becomes."""
    return name.strip().replace(".", "-").casefold()


def from_record(instance: str, info: "ServiceInfo", local: "Sequence[_Interface]") -> Box:
    """The box that a service record describes."""
    txt = {key: value or "" for key, value in info.decoded_properties.items()}
    addresses = rank(info.parsed_addresses(), local)
    port = info.port or names.HTTP_PORT
    scheme = "https" if txt.get("tls") == "1" else "http"
    host = addresses[0] if addresses else (info.server or "").rstrip(".")
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Box(
        name=instance,
        url=f"{scheme}://{netloc}",
        id=txt.get("id", ""),
        version=txt.get("ver", ""),
        models=tuple(model for model in txt.get("models", "").split(",") if model),
        addresses=tuple(addresses),
        port=port,
        grpc_port=int(grpc) if (grpc := txt.get("grpc", "0")).isdecimal() else 0,
    )


_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def rank(addresses: Iterable[str], local: Sequence[_Interface]) -> list[str]:
    """Order a box's addresses by how likely they lead to it from a machine with the `local` ones.

    A box also names addresses of bridges inside itself. One that we have, too, leads to ourselves, not to it -
    unless all are ours, because the box is this machine.
    """
    parsed = [ipaddress.ip_address(address) for address in dict.fromkeys(addresses)]
    own = {interface.ip for interface in local}
    others = [address for address in parsed if address not in own]

    def distance(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[bool, int]:
        return not any(address in interface.network for interface in local), address.version

    return [str(address) for address in sorted(others or parsed, key=distance)]


def _local() -> list[_Interface]:
    import ifaddr  # noqa: PLC0415 - kept out of `edgectl --help`

    found: list[_Interface] = []
    for adapter in ifaddr.get_adapters():
        for item in adapter.ips:
            text = item.ip if isinstance(item.ip, str) else item.ip[0]
            found.append(ipaddress.ip_interface(f"{text.partition('%')[0]}/{item.network_prefix}"))
    return found


def _reachable(box: Box) -> Box:
    """The box with the URL of the first address that accepts a connection; unchanged where only one is known."""
    if len(box.addresses) < 2:
        return box
    for address in box.addresses:
        try:
            socket.create_connection((address, box.port), timeout=CONNECT_SECONDS).close()
        except OSError:
            continue
        return Box(
            name=box.name,
            url=box.url.partition("://")[0] + "://" + _at(address, box.port).name,
            id=box.id,
            version=box.version,
            models=box.models,
            addresses=(address, *(other for other in box.addresses if other != address)),
            port=box.port,
            grpc_port=box.grpc_port,
        )
    return box


async def _browse(wait_seconds: float, interfaces: Sequence[str], enough: Callable[[Box], bool]) -> list[Box]:
    """The boxes heard within the time, or until one is `enough`."""
    from zeroconf import Error  # noqa: PLC0415 - kept out of `edgectl --help`

    if not _local():
        raise ClientError("this machine has no network address; connect it to the boxes' network")
    stations: list[AsyncZeroconf] = []
    try:
        # One hears announcements and answers to all. The other asks from a port of its own and is answered at once and
        # alone (RFC 6762 section 6.7), even where a box has just said the same to all and must wait a second (6), or
        # where another program on this machine takes what comes to port 5353.
        stations.append(_open(interfaces, unicast=False))
        stations.append(_open(interfaces, unicast=True))
        return await _listen(stations, wait_seconds, enough)
    except (OSError, RuntimeError, ValueError, Error) as error:
        raise ClientError(
            f"this machine cannot do multicast DNS: {str(error) or repr(error)}; give the box's address as HOST:PORT"
        ) from error
    finally:
        for station in stations:
            await station.async_close()


def _open(interfaces: Sequence[str], *, unicast: bool) -> "AsyncZeroconf":
    from zeroconf import InterfaceChoice, IPVersion  # noqa: PLC0415
    from zeroconf.asyncio import AsyncZeroconf  # noqa: PLC0415

    if interfaces:
        return AsyncZeroconf(interfaces=list(interfaces), unicast=unicast)
    try:
        return AsyncZeroconf(interfaces=InterfaceChoice.All, unicast=unicast, ip_version=IPVersion.All)
    except (OSError, RuntimeError):  # no IPv6 in this kernel
        return AsyncZeroconf(interfaces=InterfaceChoice.All, unicast=unicast, ip_version=IPVersion.V4Only)


async def _listen(stations: "Sequence[AsyncZeroconf]", wait_seconds: float, enough: Callable[[Box], bool]) -> list[Box]:
    from zeroconf import DNSQuestionType, ServiceStateChange, Zeroconf  # noqa: PLC0415
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo  # noqa: PLC0415

    local = _local()
    found: dict[str, Box] = {}
    pending: dict[tuple[int, str], asyncio.Task[None]] = {}
    done = asyncio.Event()

    async def read(zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(names.SERVICE_TYPE, name)
        if await info.async_request(zeroconf, RECORD_SECONDS * 1000):
            found[name] = box = from_record(name.removesuffix(f".{names.SERVICE_TYPE}"), info, local)
            if enough(box):
                done.set()

    def changed(*, zeroconf: Zeroconf, name: str, state_change: ServiceStateChange, **_: object) -> None:
        if task := pending.pop((id(zeroconf), name), None):
            task.cancel()
        if state_change is ServiceStateChange.Removed:
            found.pop(name, None)
        elif len(pending) < MAX_RECORDS:
            pending[id(zeroconf), name] = asyncio.ensure_future(read(zeroconf, name))

    async with contextlib.AsyncExitStack() as stack:
        for station in stations:
            # zeroconf takes two equal questions within a second for one, unless each wants an answer of its own (QU).
            kind = DNSQuestionType.QU if station.zeroconf.unicast else DNSQuestionType.QM
            browser = AsyncServiceBrowser(station.zeroconf, names.SERVICE_TYPE, [changed], question_type=kind)
            await stack.enter_async_context(browser)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await done.wait()
    for task in pending.values():
        task.cancel()
    await asyncio.gather(*pending.values(), return_exceptions=True)
    return list(found.values())
