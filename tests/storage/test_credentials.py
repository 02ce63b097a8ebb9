"""Passwords in addresses."""

import pytest

from laser.storage.credentials import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@db:5432/mlflow", "postgresql://me:***@db:5432/mlflow"),
        ("tracking.uri='https://:a%40b@x' and s3+x://u:p:q@y", "tracking.uri='https://:***@x' and s3+x://u:***@y"),
        ("http://127.0.0.1:5000/path@v1", "http://127.0.0.1:5000/path@v1"),
        ("sqlite:////a/b.db; val/ndcg@10: .1", "sqlite:////a/b.db; val/ndcg@10: .1"),
    ],
)
def test_only_the_password_is_masked(text, shown):
    assert masked(text) == shown
