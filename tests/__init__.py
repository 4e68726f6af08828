"""Tests on real PostgreSQL."""

import pytest

# What helpers assert is explained as in the tests themselves.
pytest.register_assert_rewrite("tests.support")
