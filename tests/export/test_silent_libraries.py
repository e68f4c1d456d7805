"""What other people's libraries leave behind in the process that uses them: nothing."""

import logging
import os

import pytest

from edgekit.export.targets.silent_openvino import silent_converter
from edgekit.quiet import quiet


def logging_state():
    root = logging.root
    return root.manager.disable, root.level, list(root.filters), list(root.handlers)


def test_what_the_block_changes_of_the_log_is_undone():
    before = logging_state()
    with quiet():
        logging.root.setLevel(logging.CRITICAL)
        logging.root.addFilter(lambda record: False)
        logging.root.addHandler(logging.NullHandler())
    assert logging_state() == before


def test_a_conversion_that_fails_leaves_the_log_as_it_was(tmp_path):
    bad = tmp_path / "model.onnx"
    bad.write_bytes(b"this is no network")
    before = logging_state()
    with silent_converter() as convert_model, pytest.raises(Exception, match="recognize"):
        convert_model(bad)
    assert logging_state() == before


@pytest.mark.parametrize("set_before", [None, "false"])
def test_the_converter_may_not_report_home(monkeypatch, set_before):
    telemetry = pytest.importorskip("openvino_telemetry")
    if set_before is None:
        monkeypatch.delenv("CI", raising=False)
    else:
        monkeypatch.setenv("CI", set_before)
    with silent_converter():
        reports = telemetry.Telemetry(
            tid="none", backend="ga4", enable_opt_in_dialog=False, disable_in_ci=True
        )
        assert not reports.consent
    assert os.environ.get("CI") == set_before
