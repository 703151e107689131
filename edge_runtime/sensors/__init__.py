"""From bytes on a wire to a window of readings to an answer."""
