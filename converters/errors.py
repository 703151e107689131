"""The converter's errors: what a person can act on, as one clear line."""


class ConvertError(Exception):
    """The conversion cannot go on; the message says what is wrong, with the value, and what to do."""


class GateError(ConvertError):
    """The converted model lost more than the gate allows; no bundle is written."""
