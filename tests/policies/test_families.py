"""docs/models.md is what becomes of the families now: a part of it at each run, all with SMLIB_FAMILIES=all."""

import os

import pytest
import transformers

from tests.support.families import document, examine, read_rows
from tests.support.tiny_models import FAMILIES

SOME = ["cohere2", "deepseek_v3", "gemma2", "gpt_oss", "granite", "mamba", "modernbert-decoder", "nanochat"]
SOME += ["opt", "qwen2", "starcoder2"]


@pytest.fixture(scope="module")
def rows():
    from tests.conftest import REPOSITORY

    page = REPOSITORY / "docs" / "models.md"
    found = read_rows(page.read_text())
    assert page.read_text() == document(found), "written by hand, or for another release of transformers"
    return {row.family: row for row in found}


def test_the_page_has_every_family(rows):
    assert sorted(rows) == FAMILIES
    assert sum(row.accepted for row in rows.values()) >= 40
    assert transformers.__version__ in document([])


@pytest.mark.parametrize("family", FAMILIES if os.environ.get("SMLIB_FAMILIES") == "all" else SOME)
def test_a_row_is_what_becomes_of_its_family(family, rows):
    assert examine(family) == rows[family]
