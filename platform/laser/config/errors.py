"""The one exception that means "the user can fix this"."""


class UserError(ValueError):
    """Bad input: one line that names the field or file:line, the value and the remedy.

    Jobs print it as ``error: <message>`` on standard error and exit with status 2, without a traceback.
    """
