"""Requests over MQTT, as another program sends them through mosquitto."""

import asyncio
from typing import Any

from brokers import Mosquitto
from mqtt_peers import DEVICE, DIGITS, EVENTS, Box, Watcher, until
from paho.mqtt.enums import MQTTProtocolVersion

ANSWERS = "caller/answers"
PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def serve(box: Box, broker: Mosquitto, act: Any, **config: Any) -> Watcher:
    """Run a link and `await act(watcher)` beside it; returns what the watcher saw."""

    async def scenario() -> None:
        with watcher:
            link = box.link(broker.url, **config)
            await link.start()
            await until(lambda: watcher.payloads(f"edge/{DEVICE}/status"))
            try:
                await act(watcher)
            finally:
                await link.stop(1.0)

    watcher = Watcher(broker.port)
    asyncio.run(scenario())
    return watcher


def test_answer_goes_to_the_response_topic(box: Box, broker: Mosquitto) -> None:
    """The answer has the request's correlation data and QoS; the result is reported, too."""

    async def act(watcher: Watcher) -> None:
        for qos in (0, 1):
            watcher.request("digits", PICTURE, qos=qos, ResponseTopic=ANSWERS, CorrelationData=b"\0%d" % qos)
        await until(lambda: len(watcher.payloads(ANSWERS)) == 2 and len(watcher.payloads(DIGITS)) == 2)

    watcher = serve(box, broker, act)
    expected = {"model": "digits", "version": "1.0.0", "result": {"bytes": 28}, "latency_ms": 1.5}
    assert watcher.documents(ANSWERS) == [expected, expected]
    answers = [message for message in watcher.messages if message.topic == ANSWERS]
    assert sorted((a.correlation, a.qos) for a in answers) == [(b"\x000", 0), (b"\x001", 1)]
    assert {result["source"] for result in watcher.documents(DIGITS)} == {"mqtt"}


def test_content_type_is_handed_on(box: Box, broker: Mosquitto) -> None:
    """The MQTT 5 content type reaches the service as it is."""

    async def act(watcher: Watcher) -> None:
        watcher.request("digits", b"[1]", ContentType="application/json", MessageExpiryInterval=60)
        await until(lambda: watcher.payloads(DIGITS))

    serve(box, broker, act)
    assert [sample.content_type for sample in box.service.samples] == ["application/json"]


def test_answer_without_response_topic_is_a_result(box: Box, broker: Mosquitto) -> None:
    """A program that speaks 3.1.1 reads the answer from results/{model}."""

    async def scenario() -> None:
        with Watcher(broker.port, version=MQTTProtocolVersion.MQTTv311) as watcher:
            link = box.link(broker.url, protocol="3.1.1")
            await link.start()
            await until(lambda: link.connected)
            watcher.client.publish(f"edge/{DEVICE}/infer/digits", b"[1, 2]", qos=1)
            await until(lambda: watcher.payloads(DIGITS))
            await link.stop(1.0)
        (result,) = watcher.documents(DIGITS)
        assert (result["source"], result["seq"], result["result"]) == ("mqtt", 1, {"bytes": 6})

    asyncio.run(scenario())


def test_tensor_request(box: Box, broker: Mosquitto) -> None:
    """An Open Inference Protocol request is answered in kind, or reported as a result where nobody waits."""
    request = b' {"id": "7", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2.5]}]}'

    async def act(watcher: Watcher) -> None:
        watcher.request("digits", request, ResponseTopic=ANSWERS)
        await until(lambda: watcher.payloads(ANSWERS))
        watcher.request("digits", request)
        await until(lambda: watcher.payloads(DIGITS))

    watcher = serve(box, broker, act)
    (answer,) = watcher.documents(ANSWERS)
    assert answer["id"] == "7"
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2], "data": [2.0, 5.0]}]
    (result,) = watcher.documents(DIGITS)
    assert result["result"]["outputs"] == answer["outputs"]


def test_bad_requests_are_answered(box: Box, broker: Mosquitto) -> None:
    """Whatever is wrong is told to whoever asked: refused by the model, too large, no such name, our own fault."""
    wrong = [
        ("digits", b"null", "invalid_input"),
        ("digits", b'{"inputs": [', "invalid_input"),
        ("digits", b'{"inputs": [{"name": "z"}]}', "invalid_input"),
        ("digits", b"x" * 1001, "too_large"),
        (".hidden", b"[1]", "not_found"),
        ("digits", b"bug", "internal"),
    ]

    async def act(watcher: Watcher) -> None:
        for model, payload, code in wrong:
            watcher.request(model, payload, ResponseTopic=f"caller/{code}", CorrelationData=payload[:9])
        await until(lambda: sum(m.topic.startswith("caller/") for m in watcher.messages) == len(wrong))

    watcher = serve(box, broker, act, request_max_bytes=1000)
    answers = [message for message in watcher.messages if message.topic.startswith("caller/")]
    assert sorted((a.topic, a.correlation) for a in answers) == sorted((f"caller/{c}", p[:9]) for _, p, c in wrong)
    for message in answers:
        assert all(document["error"] for document in watcher.documents(message.topic))


def test_failed_request_without_response_topic_is_an_event(box: Box, broker: Mosquitto) -> None:
    """Where nobody waits for the answer, the error goes to the events."""

    async def act(watcher: Watcher) -> None:
        watcher.request("digits", b"null")
        await until(lambda: watcher.payloads(EVENTS))

    (event,) = serve(box, broker, act).documents(EVENTS)
    assert (event["kind"], event["model"], event["code"]) == ("request_failed", "digits", "invalid_input")


def test_overload_is_told_at_once(box: Box, broker: Mosquitto) -> None:
    """Beyond the bound a request is refused immediately, and served again once there is room."""

    async def act(watcher: Watcher) -> None:
        box.service.hold = asyncio.Event()
        for number in range(5):
            watcher.request("digits", b"[1]", ResponseTopic=ANSWERS, CorrelationData=b"%d" % number)
        await until(lambda: len(watcher.payloads(ANSWERS)) == 3)
        assert all(document["code"] == "overloaded" for document in watcher.documents(ANSWERS))
        box.service.hold.set()
        await until(lambda: len(watcher.payloads(ANSWERS)) == 5)
        watcher.request("digits", b"[1]", ResponseTopic=ANSWERS, CorrelationData=b"5")
        await until(lambda: len(watcher.payloads(ANSWERS)) == 6)

    watcher = serve(box, broker, act, requests_max_concurrent=2)
    assert len(watcher.payloads(DIGITS)) == 3


def test_stopping_box_refuses(box: Box, broker: Mosquitto) -> None:
    """After `refuse` requests are told that the box is stopping; one that is being served still gets its answer."""

    async def scenario() -> None:
        with Watcher(broker.port) as watcher:
            link = box.link(broker.url)
            await link.start()
            await until(lambda: link.connected)
            box.service.hold = asyncio.Event()
            watcher.request("digits", b"[1]", ResponseTopic="caller/first")
            await until(lambda: box.service.samples)
            link.refuse()
            watcher.request("digits", b"[1]", ResponseTopic="caller/second")
            await until(lambda: watcher.payloads("caller/second"))
            box.service.hold.set()
            await link.stop(1.0)
            await until(lambda: watcher.payloads("caller/first"))
        assert watcher.documents("caller/second")[0]["code"] == "unavailable"
        assert watcher.documents("caller/first")[0]["result"] == {"bytes": 3}

    asyncio.run(scenario())


def test_huge_request_is_not_read(box: Box) -> None:
    """In MQTT 3.1.1 no broker keeps a huge message from us: the connection is given up before it is in memory."""

    async def send_huge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        # CONNACK, accepted; PUBLISH at QoS 0 with 200 MiB to come.
        writer.write(b"\x20\x02\x00\x00" + b"\x30\x80\x80\x80\x64" + b"\x00\x16edge/kitchen/infer/digits"[:24])
        await reader.read()
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(send_huge, "127.0.0.1", 0) as server:
            link = box.link(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", protocol="3.1.1")
            await link.start()
            await until(lambda: "209715200 bytes" in (link.problem() or ""))
            await link.stop(0.0)

    asyncio.run(scenario())


def test_retained_request_is_not_served(box: Box, broker: Mosquitto) -> None:
    """A retained request would be served again at every reconnect, so it is served never."""

    async def scenario() -> None:
        with Watcher(broker.port) as watcher:
            watcher.request("digits", b"[1]", retain=True)
            await until(lambda: len(watcher.messages) == 1)
            link = box.link(broker.url)
            await link.start()
            await until(lambda: link.connected)
            watcher.request("digits", b"[1, 2]")
            await until(lambda: watcher.payloads(DIGITS))
            await link.stop(1.0)
        assert [sample.data for sample in box.service.samples] == [b"[1, 2]"]

    asyncio.run(scenario())


def test_response_topic_cannot_forge_reports(box: Box, broker: Mosquitto) -> None:
    """A caller cannot make the box speak on the topics of its own reports, or ask itself."""
    forged = ("status", "info", "models", "events", "results/x", "infer/digits")

    async def act(watcher: Watcher) -> None:
        for level in forged:
            watcher.request("digits", b"[1]", ResponseTopic=f"edge/{DEVICE}/{level}", CorrelationData=b"forged")
        watcher.request("digits", b"[1]", ResponseTopic=f"edge/{DEVICE}/infer/digits/answer", CorrelationData=b"fine")
        await until(lambda: watcher.payloads(f"edge/{DEVICE}/infer/digits/answer"))
        await until(lambda: len(watcher.payloads(DIGITS)) == len(forged) + 1)

    watcher = serve(box, broker, act)
    answers = [message for message in watcher.messages if message.correlation == b"forged"]
    assert {message.topic for message in answers} == {f"edge/{DEVICE}/infer/digits"}, "only the requests themselves"
    assert len(answers) == len(forged)
