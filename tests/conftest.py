"""What holds for every test: no network beyond this machine, no deadline that a busy machine could miss."""

from __future__ import annotations

import importlib.abc
import importlib.util
import ipaddress
import os
import re
import sys

import pytest
import structlog
from hypothesis import settings

settings.register_profile("llmprog", settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("llmprog")


def is_on_this_machine(host):
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def forbid_other_machines(event, arguments):
    """An audit hook, so that it holds for every library, whatever it calls the network through."""
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path or bytes is a local socket
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if not is_on_this_machine(host):
        raise ConnectionRefusedError(f"a test tried to reach {host!r}; tests talk to loopback servers only")


sys.addaudithook(forbid_other_machines)


class AbsentPackages(importlib.abc.MetaPathFinder):
    """The last to be asked for a module: remembers which packages were wanted that are not installed everywhere.

    There are Pythons for which no small build of torch exists. A test that fails after torch was asked for in vain is
    one that needs it: it is skipped, with this reason. What does not need torch runs, without any list of files.
    """

    def __init__(self):
        self.packages = {name for name in ("torch", "torchao") if importlib.util.find_spec(name) is None}
        self.wanted = set()

    def find_spec(self, fullname, path=None, target=None):
        self.wanted |= {fullname.partition(".")[0]} & self.packages

    def excuse(self, report):
        """Make a failed report a skipped one if it failed for want of a package."""
        text = report.longreprtext + "".join(content for _, content in report.sections) if report.failed else ""
        said = re.search(r"llmprog\[(local|cuda)\]", text)  # by another process
        if report.failed and (self.wanted or (said and "torch" in self.packages)):
            path, line = getattr(report, "location", (report.nodeid, 0))[:2]
            report.outcome = "skipped"
            report.longrepr = (str(path), line or 0, f"Skipped: needs {', '.join(sorted(self.wanted)) or 'torch'}")


absent = AbsentPackages()
sys.meta_path.append(absent)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    absent.wanted.clear()
    report = yield
    absent.excuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    absent.wanted.clear()
    return (yield)


def has_cuda():
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_cuda():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def log_lines_go_nowhere_else():
    """The command line directs log lines to its own stderr, which is gone when its test has ended."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True, scope="session")
def runs_are_kept_apart_from_the_users(tmp_path_factory):
    """The command line keeps runs among the user's data; a test's are its own."""
    before = os.environ.get("LLMPROG_STORE")
    os.environ["LLMPROG_STORE"] = str(tmp_path_factory.mktemp("runs"))
    yield
    del os.environ["LLMPROG_STORE"]
    if before is not None:
        os.environ["LLMPROG_STORE"] = before


@pytest.fixture(autouse=True)
def no_tracer_provider_is_left_behind():
    """OpenTelemetry lets a process set its provider once; a test's is not to trace the tests after it."""
    yield
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None and trace._TRACER_PROVIDER is not None:
        trace._TRACER_PROVIDER = None
        trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    absent.excuse(report)
    marker = item.get_closest_marker("fault")
    if marker is not None and (report.when == "call" or report.failed):
        report.fault = list(marker.args)  # travels with the report where tests run in several processes
    return report


class FaultTable:
    """The faults that were injected and what became of them, from the reports of every process that ran tests."""

    def __init__(self):
        self.held = {}

    def pytest_runtest_logreport(self, report):
        if hasattr(report, "fault"):
            fault = tuple(report.fault)
            self.held[fault] = self.held.get(fault, True) and report.passed

    def pytest_terminal_summary(self, terminalreporter):
        if not self.held:
            return
        terminalreporter.section("faults injected, and their outcomes")
        width = max(len(fault) for _, fault, _ in self.held) + 2
        for (group, fault, outcome), held in sorted(self.held.items()):
            terminalreporter.line(f"{'ok  ' if held else 'FAIL'} {group:<12}{fault:<{width}}{outcome}")


def pytest_configure(config):
    config.pluginmanager.register(FaultTable())
