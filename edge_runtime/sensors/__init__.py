"""Sensors: a link gives bytes, a decoder makes frames of them, frames become readings, readings become windows.

Decoders and windows are pure. What they cannot use they count by reason and go on: a sensor's noise never raises.
"""
