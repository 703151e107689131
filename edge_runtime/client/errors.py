"""What can go wrong between a client and a box."""


class ClientError(Exception):
    """The box refused, or cannot be found; the message is for a person.

    Attributes:
        status: the HTTP status of the answer; 0 where there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(ClientError):
    """Nobody answered at the address, or the connection broke; the message says what to check."""
