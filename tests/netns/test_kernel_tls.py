"""Kernel TLS and splice, on a kernel that has them: bulk goes by there, whole and in order, and nothing behaves otherwise.

On a kernel without: the same transfers in user space, and an agent that says why.
"""
import pytest

from bed import eventually
from test_data import MIB, PATHS, check_duplex, whole

NODES = ("node1", "node2")


def support(bed, node="node1"):
    return bed.proxy(node, "status")["kernelTls"]


@pytest.fixture
def kernel_tls(bed):
    if not support(bed)["active"]:
        pytest.skip("kernel TLS: " + support(bed)["detail"])


def grown(bed, before, *names):
    after = bed.counters()
    return [after[name] - before[name] for name in names]


def test_the_agent_says_whether_and_why(bed):
    for node in NODES:
        told = support(bed, node)
        assert told["active"] == (told["support"] == "usable"), told
        assert told["active"] or told["detail"], told


@pytest.mark.parametrize("path", PATHS)
def test_bulk_goes_by_the_kernel_both_ways(bed, kernel_tls, path):
    before = bed.counters()
    check_duplex(bed, path, 16 * MIB, 60)
    transmits, receives, spliced, refused = grown(bed, before, "ktls_transmit", "ktls_receive", "bytes_spliced", "ktls_refused")
    assert transmits >= 2 and receives >= 2 and refused == 0, (transmits, receives, refused)
    assert spliced > 16 * MIB, "of 64 MiB that pass two proxies"


def test_little_stays_in_user_space(bed, kernel_tls):
    before = bed.counters()
    for _ in range(20):
        answer = bed.call("front/web", "client_first", to=["near.back", 80], size=20000)
        assert whole(answer, 20000, "down"), answer
    assert grown(bed, before, "ktls_transmit", "ktls_receive", "bytes_spliced") == [0, 0, 0]
