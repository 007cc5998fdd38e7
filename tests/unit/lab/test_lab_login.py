"""What the lab reads of the access file that the playbook wrote."""

from __future__ import annotations

import pytest

from lab.login import Access, read
from lab.report import LabError


def test_the_three_lines_are_read_and_the_rest_is_prose() -> None:
    text = "url: https://trading.lab.test/\nuser: admin\npassword: s3cr3t-Word\n\nA token: curl …\n"
    assert read(text) == Access("trading.lab.test", "admin", "s3cr3t-Word")


def test_a_missing_line_is_named() -> None:
    with pytest.raises(LabError, match="password:"):
        read("url: https://trading.lab.test/\nuser: admin\n")
