"""Masks passwords in addresses before an address is shown or recorded.

`postgresql://me:secret@host/db` works as a tracking URI. A better place for credentials is the environment
(MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, PGPASSWORD), which is never recorded.
"""

import re

_USER_AND_PASSWORD = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/:@'\"]*):(?P<password>[^\s/'\"]+)@"
)


def masked(text: str) -> str:
    """Return the text with `***` in place of the password of each URI in it."""
    return _USER_AND_PASSWORD.sub(r"\g<scheme>\g<user>:***@", text)
