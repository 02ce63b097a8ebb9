"""The one exception that means "the user can fix this"."""

LONGEST = 800
"""Most characters of a message. A longer one is cut in the middle: its start says where, its end says the remedy."""


class UserError(ValueError):
    """Bad input, told in one line: the field or file:line, the value and the remedy.

    Jobs print it as ``error: <message>`` on standard error and exit with status 2, without a traceback. Whatever bytes
    the value has, the message is one printable line: line ends and control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        if len(message) > 4 * LONGEST:  # before each character is looked at
            message = f"{message[: 2 * LONGEST]}{message[-2 * LONGEST :]}"
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} … {line[-297:]}")
