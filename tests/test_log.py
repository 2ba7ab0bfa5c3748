from __future__ import annotations

import logging

import structlog
from structlog.testing import capture_logs

from llmprog.log import Log
from llmprog.redaction import register_secret


def test_without_configuration_lines_go_to_the_standard_library(caplog, capsys):
    register_secret("log-secret-1")
    with caplog.at_level(logging.INFO, logger="llmprog.test"):
        Log("llmprog.test").info("it happened", where="here log-secret-1", times=2)
        Log("llmprog.test").debug("not shown")
    assert [record.getMessage() for record in caplog.records] == ["it happened where='here [redacted]' times=2"]
    assert capsys.readouterr().out == ""


def test_a_configured_structlog_gets_them_with_their_details():
    structlog.configure()
    register_secret("log-secret-1")
    with capture_logs() as lines:
        Log("llmprog.test").warning("it happened", why="log-secret-1", times=2)
    assert lines == [{"event": "it happened", "log_level": "warning", "why": "[redacted]", "times": 2}]
