import pytest

# Otherwise an assert there fails without showing the values.
pytest.register_assert_rewrite("tests.support")
