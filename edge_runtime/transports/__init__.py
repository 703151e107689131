"""HTTP, MQTT and mDNS. They never import each other; they share `codec` and the error tables in `status`."""
