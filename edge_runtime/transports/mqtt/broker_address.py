"""Where the broker is and how to prove who we are to it."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edge_runtime.config import MqttConfig
from edge_runtime.errors import ConfigError

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Host, port, and whether to use TLS."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(url: str) -> BrokerAddress:
    """The address in an mqtt:// or mqtts:// URL that the configuration has checked."""
    parts = urlsplit(url)
    return BrokerAddress(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme], parts.scheme == "mqtts")


def credentials(config: MqttConfig) -> tuple[str, str | None] | None:
    """User name and password (read anew each time: secrets are rotated), or None.

    Raises:
        ConfigError: the password file cannot be read.
    """
    parts = urlsplit(config.url)
    username = config.username or unquote(parts.username or "")
    password: str | None = config.password or unquote(parts.password or "") or None
    if config.password_file:
        try:
            password = Path(config.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"mqtt.password_file {config.password_file}: {error}") from error
    return (username, password) if username or password else None


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which paho does not do."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - ssl's own signature
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(config: MqttConfig) -> ssl.SSLContext:
    """The TLS client context; made anew for each connection, since certificates are rotated.

    Raises:
        ConfigError: ca, cert or key cannot be read or do not fit together.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca or None)
        context.sslsocket_class = _TlsSocket
        if config.cert:
            context.load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"mqtt.ca {config.ca!r}, mqtt.cert {config.cert!r}, mqtt.key {config.key!r} are not usable: {error}"
        ) from error
    return context
