"""The examples in the documentation of the public API do what they say."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["edgekit.export", "edgekit.models"])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the bundles of the examples go
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
