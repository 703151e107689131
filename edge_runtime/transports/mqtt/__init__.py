"""The link to the MQTT broker: status, results and events out, requests in."""

from edge_runtime.transports.mqtt.link import MqttLink

__all__ = ["MqttLink"]
