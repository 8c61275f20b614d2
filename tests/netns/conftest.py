"""One lab for the session; tests that break things for everybody have labs of their own."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from bed import Bed, has_standin, sanitizers  # noqa: E402
from labtool.paths import binary  # noqa: E402

NODES = ("node1", "node2")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: minutes of load; run with --long")
    config.addinivalue_line("markers", "standin: needs the stand-in for Cilium")
    config.addinivalue_line("markers", "sanitizers: of the part of this tier that every change runs with sanitizers, too")
    config.addinivalue_line("markers", "unsanitized(reason): asserts what a sanitizer's build does not have")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests marked long, too")


def _refuse(reason):
    """With FAIRLEAD_TESTS_REQUIRE set (the tier that owns the privilege) a missing piece is a failure, not a skip."""
    if os.environ.get("FAIRLEAD_TESTS_REQUIRE"):
        pytest.exit(reason, returncode=1)
    pytest.skip(reason, allow_module_level=True)


def pytest_collection_modifyitems(config, items):
    if sanitizers.NAME:
        left_out = [item for item in items if "unsanitized" in item.keywords]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="long: run with --long"))


def pytest_runtest_setup(item):
    if os.geteuid() != 0:
        _refuse("needs root: network namespaces, cgroups and BPF")
    for program in ("fairlead-agent", "fairlead-controller"):
        if not os.access(binary(program), os.X_OK):
            _refuse(f"{binary(program)} is not built (FAIRLEAD_BUILD names the build directory)")
    if "standin" in item.keywords and not has_standin():
        _refuse(f"{binary('fairlead-standin')} is not built")


@pytest.fixture(scope="session")
def bed():
    made = Bed(f"nt{os.getpid()}")
    try:
        yield made.up()
    finally:
        made.down()


@pytest.fixture(scope="module")
def own_bed(request):
    """A lab of the module's own: it may kill what it likes there."""
    made = Bed(f"no{os.getpid()}-{request.module.__name__[-8:].replace('_', '-').strip('-')}", manifest="small.yaml")
    try:
        yield made.up()
    finally:
        made.down()


@pytest.fixture(autouse=True)
def no_report():
    """Whatever a sanitizer has to say, of any program of the labs, fails the test that made it say so (or the one after: a lab's last
    words come with its end)."""
    yield
    assert not (found := sanitizers.take()), "\n\n".join(found)


@pytest.fixture(scope="session", autouse=True)
def no_last_report():
    """Of labs that ended with the last test of all."""
    yield
    assert not (found := sanitizers.take()), "\n\n".join(found)


@pytest.fixture(autouse=True)
def healthy(request):
    """A test leaves the session's lab as it found it: no worker has crashed, nothing was forgotten."""
    if "bed" not in request.fixturenames:
        yield
        return
    bed = request.getfixturevalue("bed")
    before = {node: bed.keeper(node, "status")["proxyRestarts"] for node in NODES}
    yield
    after = {node: bed.keeper(node, "status")["proxyRestarts"] for node in NODES}
    assert after == before, "a proxy crashed during this test"
