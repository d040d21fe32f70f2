import pytest

# Otherwise an assert there fails without showing the values.
pytest.register_assert_rewrite("tests.support")

from tests.support import grouped  # noqa: E402

# Here, so that it holds in the processes that tests start too.
if grouped.GROUPED:
    grouped.force()
