"""The whole journey on this machine: quantize, sign, serve, find, push, ask, and hear the same over MQTT.

    python examples/demo.py [--stay]

Everything runs on 127.0.0.1 with state in a temporary folder, and is gone at the end.
"""

import argparse
import io
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import urllib3
from digits import data
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
SHADES = " .:-=+*#%@"
READY_SECONDS = 60.0
RESULT_SECONDS = 20.0
MODEL = "digits"


def say(text: str) -> None:
    """Print one step."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def run(*command: str | Path) -> None:
    """Show a command and run it; the demo ends if it fails."""
    words = [str(word) for word in command]
    print("$ " + " ".join(words), flush=True)
    subprocess.run([str(BIN / words[0]), *words[1:]], check=True)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def daemon(config: Path, url: str, log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in a process of its own, ready to be asked; stopped by SIGTERM at the end."""
    with log_path.open("wb") as log:
        command = [str(BIN / "edge-runtime"), "serve", "--config", str(config)]
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            wait_ready(process, url, log_path)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    """Return when /v2/health/ready says so; raises SystemExit with the log if the daemon ends before."""
    http, deadline = urllib3.PoolManager(), time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if http.request("GET", f"{url}/v2/health/ready", retries=False, timeout=1.0).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.05)
    raise SystemExit(f"the daemon did not become ready:\n{log_path.read_text()}")


class Subscriber:
    """Hears everything under edge/# and keeps the results."""

    def __init__(self, port: int) -> None:
        self.results: queue.Queue[tuple[float, str, dict[str, Any]]] = queue.Queue()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.on_connect = lambda client, *_: client.subscribe("edge/#", qos=1)
        self._client.on_message = self._keep
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _keep(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if "/results/" in message.topic:
            self.results.put((time.perf_counter(), message.topic, json.loads(message.payload)))

    def next_result(self, source: str) -> tuple[float, str, dict[str, Any]]:
        """The next result from `source`; raises SystemExit if none comes."""
        deadline = time.monotonic() + RESULT_SECONDS
        while True:
            try:
                found = self.results.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise SystemExit(f"no result from {source} arrived over MQTT") from None
            if found[2]["source"] == source:
                return found

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


def draw(picture: NDArray[np.uint8]) -> str:
    """An 8 x 8 picture (uint8, 0..255) in characters."""
    return "\n".join("    " + "".join(SHADES[int(p) * (len(SHADES) - 1) // 255] * 2 for p in row) for row in picture)


def png(picture: NDArray[np.uint8]) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def convert(folder: Path) -> tuple[Path, Path]:
    """Key pair, calibration data, quantized and signed bundle; returns the bundle and the folder of the public key."""
    say("On the host: a key pair, then float -> int8, compared, with golden vectors, signed")
    keys = folder / "keys"
    run("edgectl", "keygen", "demo", "--dir", keys)
    calibrate, evaluate = data.write(folder)
    bundle = folder / f"{MODEL}-1.0.0.edgemodel"
    run(
        *("edge-convert", HERE / "digits/digits_float.tflite", "-o", bundle, "--quantize", "int8"),
        *("--calibrate", calibrate, "--evaluate", evaluate, "--labels", HERE / "digits/labels.txt"),
        *("--task", "classification", "--input", "image", "--mean", "0", "--std", "255", "--sign", keys / "demo.key"),
    )
    return bundle, keys


def write_config(folder: Path, name: str, ports: tuple[int, int], keys: Path, sensor: str) -> Path:
    """The daemon's configuration: loopback only, embedded broker, one serial sensor of 8 rows of 8 pixels."""
    config = folder / "config.toml"
    config.write_text(f"""
[device]
name = "{name}"
state_dir = "{folder / "state"}"

[http]
host = "127.0.0.1"
port = {ports[0]}

[mqtt]
url = "embedded"
embedded_port = {ports[1]}

[trust]
keys = ["{keys}/*.pub"]

[[pipeline]]
name = "scanner"
model = "{MODEL}"
source = {{ type = "serial", port = "{sensor}", baud = 115200 }}
window = {{ count = 8 }}
""")
    return config


def find(name: str) -> None:
    """Find the box by mDNS, as `edgectl push --to NAME` will."""
    say("Find it by mDNS")
    run("edgectl", "discover", "--wait", "3")
    listed = subprocess.run([str(BIN / "edgectl"), "discover", "--json"], check=True, capture_output=True).stdout
    if name not in listed.decode():
        raise SystemExit(f"{name} was not found by mDNS")


def ask(url: str, subscriber: Subscriber, picture: NDArray[np.uint8], label: int) -> tuple[float, float]:
    """Show a digit, ask over HTTP, hear it over MQTT; returns both latencies in milliseconds."""
    say("A digit that the model has never seen")
    print(draw(picture))
    say("Ask for its class over HTTP, as a picture")
    http = urllib3.PoolManager()
    started = time.perf_counter()
    answer = http.request(
        "POST", f"{url}/models/{MODEL}/predict", body=png(picture), headers={"content-type": "image/png"}
    ).json()
    http_ms = (time.perf_counter() - started) * 1000
    print(json.dumps(answer, indent=2)[:400])
    say("The same result, arriving over MQTT")
    arrived, topic, message = subscriber.next_result("http")
    mqtt_ms = (arrived - started) * 1000
    print(topic, json.dumps(message)[:300])
    if answer["result"]["label"] != str(label) or message["result"] != answer["result"]:
        raise SystemExit(f"expected {label} over both, got {answer['result']['label']} and {message['result']}")
    return http_ms, mqtt_ms


def http_latency(url: str, pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[float, int]:
    """Ask about every picture on one connection; returns the median in milliseconds and how many were right."""
    http, latencies, right = urllib3.PoolManager(), [], 0
    for picture, label in zip(pictures, labels, strict=True):
        body = json.dumps(picture.tolist()).encode()
        started = time.perf_counter()
        answer = http.request("POST", f"{url}/models/{MODEL}/predict", body=body).json()
        latencies.append((time.perf_counter() - started) * 1000)
        right += answer["result"]["label"] == str(label)
    return median(latencies), right


def scan(sensor: int, subscriber: Subscriber, picture: NDArray[np.uint8], label: int) -> float:
    """Send one digit row by row over the serial line; returns the milliseconds from the last row to the result."""
    say(f"A serial sensor sends another digit, row by row (a {label})")
    for row in picture[:-1]:
        os.write(sensor, ",".join(map(str, row)).encode() + b"\n")
    started = time.perf_counter()
    os.write(sensor, ",".join(map(str, picture[-1])).encode() + b"\n")
    arrived, topic, message = subscriber.next_result("pipeline:scanner")
    print(topic, json.dumps(message)[:300])
    if message["result"]["label"] != str(label):
        raise SystemExit(f"expected {label} from the sensor, got {message['result']['label']}")
    return (arrived - started) * 1000


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stay", action="store_true", help="leave it running until Ctrl-C")
    stay = parser.parse_args().stay
    began = time.perf_counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-demo-")))
        bundle, keys = convert(folder)
        say("On the box: the daemon, with an embedded broker and a (pseudo-terminal) serial sensor")
        sensor, device = os.openpty()
        stack.callback(os.close, sensor)
        stack.callback(os.close, device)
        name, http_port, mqtt_port = f"demo-{secrets.token_hex(2)}", free_port(), free_port()
        url = f"http://127.0.0.1:{http_port}"
        config = write_config(folder, name, (http_port, mqtt_port), keys, os.ttyname(device))
        print(f"$ edge-runtime serve --config {config}", flush=True)
        stack.enter_context(daemon(config, url, folder / "daemon.log"))
        find(name)
        say("Push the signed bundle to it by name")
        started = time.perf_counter()
        run("edgectl", "push", bundle, "--to", name)
        push_seconds = time.perf_counter() - started
        subscriber = Subscriber(mqtt_port)
        stack.callback(subscriber.close)
        pictures, labels = data.held_out_pictures()
        http_ms, mqtt_ms = ask(url, subscriber, pictures[0], int(labels[0]))
        median_ms, right = http_latency(url, pictures[:200], labels[:200])
        serial_ms = scan(sensor, subscriber, pictures[1], int(labels[1]))
        say("Measured on this machine")
        print(f"push, from the command to COMMITTED    {push_seconds:8.2f} s (mDNS, upload, probe, trial)")
        print(f"first picture over HTTP                {http_ms:8.2f} ms; the same result over MQTT {mqtt_ms:.2f} ms")
        print(f"next 200 over HTTP in JSON, median     {median_ms:8.2f} ms; {right} of 200 right")
        print(f"last row on the wire to MQTT result    {serial_ms:8.2f} ms")
        print(f"the whole demo                         {time.perf_counter() - began:8.1f} s")
        if stay:
            wait_for_interrupt(name, url, mqtt_port)
    return 0


def wait_for_interrupt(name: str, url: str, mqtt_port: int) -> None:
    """Leave everything running until Ctrl-C."""
    say("It stays until Ctrl-C")
    print(f"  {BIN}/edgectl status --to {name}\n  curl {url}/models\n  mosquitto_sub -p {mqtt_port} -t 'edge/#' -v")
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nstopping")


if __name__ == "__main__":
    sys.exit(main())
