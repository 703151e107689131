"""mDNS / DNS-SD: the box says on the local network that it is there, and what it serves (RFC 6762, RFC 6763)."""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import ifaddr
from zeroconf import (  # type: ignore[attr-defined]  # the first two are re-exported, but not in __all__
    DNSOutgoing,
    DNSQuestion,
    DNSQuestionType,
    IPVersion,
    NonUniqueNameException,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from edge_runtime.config import DiscoveryConfig
from edge_runtime.contract import names
from edge_runtime.errors import TransportError

log = logging.getLogger(__name__)

MAX_TXT_BYTES = 255  # RFC 6763 section 6.1: one string of a TXT record, its key included
MAX_LABEL_BYTES = 63  # RFC 1035 section 2.3.4
MAX_RENAMES = 100
_GOODBYE_SECONDS = 2.0
_ASK_AGAIN_SECONDS = (1.5, 2.5, 8.0)
_QUERY, _SRV, _INTERNET = 0x0000, 33, 1  # RFC 1035 section 4.1.1, RFC 2782, RFC 1035 section 3.2.4
_FIRST_RETRY_SECONDS = 1.0
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Reach:
    """Where mDNS is spoken, and under which addresses the box says it can be reached.

    Attributes:
        bind: IPv4 addresses, and for IPv6 the indexes of interfaces.
        advertised: addresses in text form; what they name has a listener.
    """

    bind: tuple[str | int, ...]
    advertised: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Address:
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    interface: str
    index: int

    def spoken(self) -> str | int:
        return str(self.ip) if self.ip.version == 4 else self.index


def _addresses(adapters: Iterable[ifaddr.Adapter]) -> list[_Address]:
    found = []
    for adapter in adapters:
        for item in adapter.ips:
            text = item.ip if isinstance(item.ip, str) else item.ip[0]
            found.append(_Address(ipaddress.ip_address(text.partition("%")[0]), adapter.name, adapter.index or 0))
    return found


def _host_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The one address that a listener is bound to; None when it is bound to all (or to a name we do not look up)."""
    if host == "localhost":
        return ipaddress.ip_address(_LOOPBACK)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if address.is_unspecified else address


def choose(adapters: Iterable[ifaddr.Adapter], http_host: str, interfaces: Sequence[str]) -> Reach:
    """Pick interfaces and addresses: those asked for, that the HTTP listener answers on, that others can use.

    Raises:
        TransportError: this machine has no such address now.
    """
    host = _host_address(http_host)
    if host is not None and host.is_loopback:
        return Reach((_LOOPBACK,), (str(host),))
    wanted = [a for a in _addresses(adapters) if not interfaces or {a.interface, str(a.ip)} & set(interfaces)]
    if not wanted:
        raise TransportError(
            f"none of [discovery] interfaces ({', '.join(interfaces)}) exists on this machine now"
            if interfaces
            else "this machine has no network address"
        )
    # A listener on 0.0.0.0 does not answer on IPv6, so IPv6 addresses are named only where it does.
    usable = [a for a in wanted if a.ip == host or (host is None and (a.ip.version == 4 or ":" in http_host))]
    best = (
        [a for a in usable if not a.ip.is_loopback and not a.ip.is_link_local]
        # Two machines on one cable have IPv4 link-local addresses only; a machine with no network has its loopback.
        or [a for a in usable if not a.ip.is_loopback and a.ip.version == 4]
        or [a for a in usable if a.ip == ipaddress.ip_address(_LOOPBACK)]
    )
    if not best:
        raise TransportError(f"no network address of this machine belongs to the HTTP listener on {http_host}")
    return Reach(tuple(dict.fromkeys(a.spoken() for a in best)), tuple(dict.fromkeys(str(a.ip) for a in best)))


def cut_names(models: Iterable[str], room: int) -> str:
    """As many whole names as fit into `room` bytes, joined by commas, in their order."""
    taken: list[str] = []
    for model in models:
        if len(",".join([*taken, model]).encode()) > room:
            break
        taken.append(model)
    return ",".join(taken)


def instance_label(device: str, number: int = 1) -> str:
    """The DNS label for a box: its name, and from the second box of that name on with "-2", "-3", ...

    Dots become hyphens: zeroconf takes a dot for the end of a label.
    """
    suffix = "" if number == 1 else f"-{number}"
    label = device.replace(".", "-").replace("\x7f", "-")
    return label.encode()[: MAX_LABEL_BYTES - len(suffix)].decode(errors="ignore") + suffix


class _ConflictWatch(RecordUpdateListener):
    """Sets `seen` when another host announces a service under our name."""

    def __init__(self, name: str, server: str) -> None:
        super().__init__()
        self._name = name.lower()
        self._server = server.lower()
        self.seen = asyncio.Event()
        self.other = ""

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:  # noqa: ARG002 - zeroconf's interface
        """Called by zeroconf for each batch of records that came in."""
        for update in records:
            record = update.new
            server = getattr(record, "server", "").lower()  # only SRV records have one
            if server and server != self._server and record.name.lower() == self._name and record.ttl:
                self.other = server
                self.seen.set()

    @property
    def yields(self) -> bool:
        """Whether it is us who take another name: both sides decide alike."""
        return self._server > self.other


@dataclass
class _Session:
    """One registration: the sockets, the record and the watch over its name."""

    zeroconf: AsyncZeroconf
    reach: Reach
    info: ServiceInfo
    watch: _ConflictWatch
    announcing: "asyncio.Future[None] | None" = None


class Advertiser:
    """Keeps the box advertised: through absent networks, changing addresses and other boxes of the same name."""

    def __init__(
        self,
        config: DiscoveryConfig,
        *,
        device: str,
        device_id: str,
        version: str,
        http_host: str,
        http_port: int,
        grpc_port: int,
        models: Callable[[], list[str]],
    ) -> None:
        self._config = config
        self._device = device
        self._id = device_id
        self._version = version
        self._http_host = http_host
        self._http_port = http_port
        self._grpc_port = grpc_port
        self._models = models
        # A host name of our own: avahi on this box owns the machine's.
        self._server = f"edge-{device_id[:8].lower()}.local."
        self._number = 1
        self._problem: str | None = "mDNS: not started"
        self._session: _Session | None = None
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._task: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()

    @property
    def name(self) -> str:
        """The instance name that was taken; it differs from the device's name where another box had that."""
        return instance_label(self._device, self._number)

    def problem(self) -> str | None:
        """Why the box cannot be discovered at the moment; None when it can."""
        return self._problem

    async def start(self) -> None:
        """Register, and keep at it in the background; returns after the first attempt, never raises."""
        self._task = asyncio.create_task(self._keep(), name="mdns")
        await self._attempted.wait()

    async def update(self) -> None:
        """Announce the present models; never raises."""
        session = self._session
        if session is None:
            return  # the next registration asks for the models itself
        try:
            session.info = self._info(self._number, session.reach)
            await self._announce(session)
        except Exception as error:  # noqa: BLE001 - as in _keep
            log.warning("mDNS: the new list of models could not be announced: %r", error)

    async def stop(self) -> None:
        """Say goodbye and close the sockets; never raises."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._session:
            await self._close(self._session)
        self._task = None
        self._problem = "mDNS: stopped"

    async def _keep(self) -> None:
        self._retry_seconds = _FIRST_RETRY_SECONDS
        while True:
            try:
                await self._advertise()
            except Exception as error:  # noqa: BLE001 - whatever it is, a box that is not advertised serves, and retries
                self._failed(error, self._retry_seconds)
                self._attempted.set()
                await asyncio.sleep(self._retry_seconds)
                self._retry_seconds = min(self._retry_seconds * 2, self._config.retry_max_seconds)

    async def _advertise(self) -> None:
        """Be registered until that must be made anew."""
        session = self._session = await self._open()
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._problem = None
        self._attempted.set()
        log.info("mDNS: advertised as %r at %s", self.name, ", ".join(session.reach.advertised))
        asking = asyncio.create_task(_ask_who_else(session), name="mdns conflicts")
        try:
            await self._hold(session)
        except Exception:
            await self._close(session)
            raise
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await self._close(session)

    def _failed(self, error: Exception, delay: float) -> None:
        problem = f"mDNS: not advertised: {str(error) or type(error).__name__}"
        if problem != self._problem:
            log.warning("%s; next attempt in %g s", problem, delay)
        self._problem = problem

    async def _open(self) -> _Session:
        reach = choose(ifaddr.get_adapters(), self._http_host, self._config.interfaces)
        both = any(isinstance(item, int) for item in reach.bind)
        zeroconf = AsyncZeroconf(interfaces=list(reach.bind), ip_version=IPVersion.All if both else IPVersion.V4Only)
        try:
            return await self._register(zeroconf, reach)
        except BaseException:
            await zeroconf.async_close()
            raise

    async def _register(self, zeroconf: AsyncZeroconf, reach: Reach) -> _Session:
        await zeroconf.zeroconf.async_wait_for_start()
        # zeroconf probes with "answer me alone" questions; where several programs on one machine share port 5353 the
        # answer may reach another of them. A browser's question is answered to all, and fills the cache it probes.
        async with AsyncServiceBrowser(
            zeroconf.zeroconf, names.SERVICE_TYPE, [_ignore], question_type=DNSQuestionType.QM
        ):
            return await self._take_name(zeroconf, reach)

    async def _take_name(self, zeroconf: AsyncZeroconf, reach: Reach) -> _Session:
        for number in range(self._number, self._number + MAX_RENAMES):
            info = self._info(number, reach)
            try:
                announcing = await zeroconf.async_register_service(info)
            except NonUniqueNameException:
                continue
            self._number = number
            watch = _ConflictWatch(info.name, self._server)
            zeroconf.zeroconf.async_add_listener(watch, None)
            return _Session(zeroconf, reach, info, watch, asyncio.ensure_future(_finish(announcing)))
        raise TransportError(f"{MAX_RENAMES} boxes named {self._device!r} are on this network: set [device] name")

    async def _hold(self, session: _Session) -> None:
        """Return when the registration must be made anew: the addresses changed, or we give up the name."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.rescan_seconds):
                    await session.watch.seen.wait()
            if session.watch.seen.is_set():
                if session.watch.yields:
                    self._give_up_name(session)
                    return
                session.watch.seen.clear()
                await self._announce(session)
            if self._moved(session.reach):
                return

    def _moved(self, reach: Reach) -> bool:
        try:
            return choose(ifaddr.get_adapters(), self._http_host, self._config.interfaces) != reach
        except TransportError:
            return True
        except OSError as error:  # no file descriptor left, say: what was registered is still right
            log.warning("mDNS: the addresses of this machine cannot be read: %s", error)
            return False

    def _give_up_name(self, session: _Session) -> None:
        log.warning("mDNS: another box (%s) is named %r, too; taking another name", session.watch.other, self.name)
        # No goodbye: it would withdraw the other box's pointer, which is the same record.
        session.zeroconf.zeroconf.registry.async_remove(session.info)
        self._number += 1

    async def _announce(self, session: _Session) -> None:
        if session.announcing:
            session.announcing.cancel()  # or it would repeat the old record
        announcing = await session.zeroconf.async_update_service(session.info)
        session.announcing = asyncio.ensure_future(_finish(announcing))

    async def _close(self, session: _Session) -> None:
        if session.announcing:
            session.announcing.cancel()
            await asyncio.gather(session.announcing, return_exceptions=True)
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await session.zeroconf.async_close()
        except Exception as error:  # noqa: BLE001 - as in _keep
            log.warning("mDNS: no goodbye was sent: %r", error)
        self._session = None

    def _info(self, number: int, reach: Reach) -> ServiceInfo:
        label = instance_label(self._device, number)
        return ServiceInfo(
            names.SERVICE_TYPE,
            f"{label}.{names.SERVICE_TYPE}",
            port=self._http_port,
            properties=self._txt(),
            server=self._server,
            parsed_addresses=list(reach.advertised),
        )

    def _txt(self) -> dict[str, str]:
        return {
            "txtvers": names.TXT_VERSION,
            "id": self._id,
            "ver": self._version,
            "api": names.API,
            "path": "/v2",
            "grpc": str(self._grpc_port),
            "tls": "0",
            "models": cut_names(self._models(), MAX_TXT_BYTES - len("models=")),
        }


def _ignore(**_: object) -> None:
    """A browser must have a handler."""


async def _ask_who_else(session: _Session) -> None:
    """Ask for the holder of our name again, some time after the probe: an answer to that may have been lost.

    The first question waits longer than the second for which a responder may hold back an answer that it has just given
    (RFC 6762 section 6).
    """
    for seconds in _ASK_AGAIN_SECONDS:
        await asyncio.sleep(seconds)
        question = DNSOutgoing(_QUERY)
        question.add_question(DNSQuestion(session.info.name, _SRV, _INTERNET))
        session.zeroconf.zeroconf.async_send(question)


async def _finish(announcing: Awaitable[None]) -> None:
    await announcing
