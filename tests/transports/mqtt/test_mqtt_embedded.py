"""The embedded broker, end to end, and TLS with certificates made on the spot."""

import asyncio
import builtins
import datetime as dt
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mqtt_peers import DEVICE, DIGITS, STATUS, Box, Watcher, until
from paho.mqtt.enums import MQTTProtocolVersion

from edge_runtime.errors import ConfigError
from edge_runtime.transports.mqtt.embedded import EmbeddedBroker


def test_embedded_broker_end_to_end(box: Box) -> None:
    """A box with no broker is its own: others subscribe, ask and get answers from it."""
    pytest.importorskip("amqtt")

    async def scenario() -> None:
        link = box.link("embedded", embedded_port=0)
        await link.start()
        await until(lambda: link.connected)
        assert link.address is not None
        with Watcher(link.address.port, version=MQTTProtocolVersion.MQTTv311) as watcher:
            await until(lambda: watcher.payloads(STATUS) == [b"online"])
            watcher.client.publish(f"edge/{DEVICE}/infer/digits", b"[1, 2]", qos=1)
            await until(lambda: watcher.payloads(DIGITS))
            await link.stop(1.0)
            await until(lambda: watcher.payloads(STATUS) == [b"online", b"offline"])
        assert watcher.documents(DIGITS)[0]["result"] == {"bytes": 6}

    asyncio.run(scenario())


def test_fallback_to_3_1_1(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker elsewhere that refuses MQTT 5 is spoken to in 3.1.1."""
    monkeypatch.setattr("edge_runtime.transports.mqtt.link.CONNACK_BEFORE_FALLBACK_SECONDS", 0.3)
    pytest.importorskip("amqtt")

    async def scenario() -> None:
        broker = EmbeddedBroker("127.0.0.1", 0)
        address = await asyncio.to_thread(broker.start)
        link = box.link(f"mqtt://127.0.0.1:{address.port}")
        await link.start()
        await until(lambda: link.connected)
        box.produce(3)
        await until(lambda: link.outbox_depth == 0)
        await link.stop(1.0)
        await asyncio.to_thread(broker.stop)

    asyncio.run(scenario())


def test_embedded_broker_without_the_extra(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where amqtt is not installed, the error names the extra."""
    real_import = builtins.__import__

    def without_amqtt(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("amqtt"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_amqtt)
    with pytest.raises(ConfigError, match=r"edge-runtime\[broker\]"):
        asyncio.run(box.link("embedded").start())


def test_embedded_broker_on_a_taken_port(box: Box, broker: Mosquitto) -> None:
    """A taken port is named together with the keys that choose it."""
    pytest.importorskip("amqtt")
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{broker.port} \(mqtt\.embedded_host"):
        asyncio.run(box.link("embedded", embedded_port=broker.port).start())


def test_tls(box: Box, make_broker: Callable[..., Mosquitto], tmp_path: Path) -> None:
    """mqtts:// checks the broker's certificate against `ca` and shows our own."""
    make_certificates(tmp_path)

    async def scenario() -> None:
        broker = make_broker(
            f"cafile {tmp_path}/ca.pem",
            f"certfile {tmp_path}/broker.pem",
            f"keyfile {tmp_path}/broker.key",
            "require_certificate true",
        ).start()
        url = f"mqtts://127.0.0.1:{broker.port}"
        stranger = box.link(url)
        await stranger.start()
        await until(lambda: "certificate" in (stranger.problem() or "").lower())
        await stranger.stop(0.0)
        own = {"cert": f"{tmp_path}/box.pem", "key": f"{tmp_path}/box.key"}
        link = box.link(url, boot="boot-2", ca=f"{tmp_path}/ca.pem", **own)
        await link.start()
        await until(lambda: link.connected)
        box.produce(200)
        await until(lambda: link.outbox_depth == 0)
        await link.stop(1.0)

    asyncio.run(scenario())


def make_certificates(folder: Path) -> None:
    """ca.pem, and for broker and box NAME.pem and NAME.key signed by it."""
    authority, authority_key = certify(folder, "ca", None)
    for name in ("broker", "box"):
        certify(folder, name, (authority, authority_key))


def certify(
    folder: Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make a key and a certificate for 127.0.0.1, signed by `issuer` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    parent, parent_key = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    authority_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(parent_key.public_key())
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_key_id, critical=False)
        .add_extension(
            x509.KeyUsage(
                **dict.fromkeys(unused, False),
                digital_signature=True,
                key_cert_sign=issuer is None,
                crl_sign=issuer is None,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(parent_key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, key
