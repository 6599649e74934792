"""What a user's mistake looks like: one line that says what is wrong."""

import contextlib
from collections.abc import Iterator

import pytest

from pgolf_core.base.files import UserError


@contextlib.contextmanager
def refused(message: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """That a UserError of one line is raised in the block, and matches."""
    with pytest.raises(UserError, match=message) as caught:
        yield caught
    assert "\n" not in str(caught.value)
