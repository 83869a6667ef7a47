"""The errors that a person can act upon."""

__all__ = ["PolytempoError"]


class PolytempoError(Exception):
    """Something expected went wrong: what it is, and what to do about it.

    The command line shows both as plain lines and exits with code 2, without a traceback. Any other exception is a
    fault of the program and keeps its traceback.

    Args:
        message: what is wrong, in one sentence.
        hint: what to do about it; empty when the message says it already.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()
