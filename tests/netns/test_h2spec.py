"""h2spec (generic, HTTP/2 and HPACK cases, strict ones, too) against port 15008 of a pod, twice: with its requests as they are (GET
and POST, which are answered 400), and made CONNECT requests on the way, so that its streams are tunnels. Every case passes
as it is, or as a tunnel where the stream must be open for it, or is named below with the reason why it does not apply."""
import concurrent.futures
import json
import os
import subprocess

import pytest

from bed import pods
from foreign import Foreigner

BUILDER = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "scripts", "h2spec")

# A stream that is answered 400 is over: these want one that is open, or has DATA of the server's.
AS_TUNNEL = {"generic/2/2", "generic/2/3", "http2/5.1/8", "http2/5.1/9", "http2/5.1.2/1", "http2/6.5.3/1", "http2/6.9/2",
             "http2/6.9.1/1", "http2/6.9.1/3", "http2/6.9.2/1", "http2/6.9.2/2", "http2/8.1/1", "http2/8.1.2.1/3"}
NOT_APPLICABLE = {
    "http2/5.3.1/1": "RFC 9113 §5.3.2 has done away with priorities: their content is not looked at",
    "http2/5.3.1/2": "the same",
    "http2/8.1.2.6/1": "CONNECT has no content that content-length could speak of (RFC 9110 §9.3.6); other methods get 400 at once",
    "http2/8.1.2.6/2": "the same",
}


@pytest.fixture(scope="module")
def outcomes(bed):
    runner = subprocess.run([BUILDER], check=True, capture_output=True, text=True, timeout=300).stdout.strip()
    foreign = Foreigner(bed)
    try:
        identity, ip = foreign.identity("front/web"), bed.ip("back/hbone")
        command = [runner, "-target", f"{ip}:15008", "-cert", identity.chain, "-key", identity.key, "-root", identity.root]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            plain = pool.submit(cases, bed, command)
            tunnel = pool.submit(cases, bed, [*command, "-connect", f"{ip}:9000"])
            yield {"as it is": plain.result(), "as a tunnel": tunnel.result()}
    finally:
        foreign.close()


def cases(bed, command):
    pod = bed.pod("outside/client")
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, preexec_fn=lambda: pods.enter(bed.names, pod))
    assert done.returncode == 0, done.stderr[-2000:]
    return {one["case"]: one for one in map(json.loads, done.stdout.splitlines())}


def test_every_case_ran(outcomes):
    assert len(outcomes["as it is"]) == len(outcomes["as a tunnel"]) == 146


def test_every_case_passes(outcomes):
    failed = {}
    for case, one in outcomes["as it is"].items():
        if case in AS_TUNNEL:
            one = outcomes["as a tunnel"][case]
        if one["result"] != "passed" and case not in NOT_APPLICABLE:
            failed[case] = (one["text"], one["result"], one.get("why"))
    assert not failed, json.dumps(failed, indent=1)


def test_the_lists_of_exceptions_are_no_longer_than_needed(outcomes):
    plain = outcomes["as it is"]
    assert AS_TUNNEL | set(NOT_APPLICABLE) <= set(plain)
    assert not [case for case in AS_TUNNEL | set(NOT_APPLICABLE) if plain[case]["result"] == "passed"]
