"""An agent that leaves, as another implementation's client sees it: GOAWAY in two steps (RFC 9113 §6.8)."""
import json
import threading

import pytest

import h2peer
from bed import lab
from foreign import Foreigner


class Late(h2peer.Peer):
    """Does not answer pings until it is told to."""

    answers_pings = False

    def take_ping(self, item, length):
        if self.answers_pings or "ACK" in item.flags:
            super().take_ping(item, length)
        else:
            self.withheld = item

    def answer(self):
        self.answers_pings = True
        super().take_ping(self.withheld, 8)


@pytest.fixture
def foreign(own_bed):
    made = Foreigner(own_bed)
    yield made
    made.close()


def test_the_agent_leaves_in_two_steps(own_bed, foreign):
    target = f"{own_bed.ip('front/api')}:8080"
    peer = foreign.client("front/api", kind=Late)
    first = peer.connect(target)
    peer.write(first, b'{"do": "pingpong"}\n')
    peer.pump(lambda: first.status)
    leaving = threading.Thread(target=lab.agent, args=(own_bed.lab, "node2", "stop"))
    leaving.start()
    try:
        peer.pump(lambda: peer.goaways and hasattr(peer, "withheld"))
        assert peer.goaways == [(h2peer.MAX_WINDOW, h2peer.NO_ERROR)]
        second = peer.connect(target)  # it was on its way
        peer.write(second, json.dumps({"do": "who"}).encode() + b"\n", end=True)
        peer.answer()
        peer.pump(lambda: second.ended)
        assert second.status == 200 and json.loads(second.data)["pod"] == "api"
        peer.pump(lambda: len(peer.goaways) == 2)
        assert peer.goaways[1] == (second.id, h2peer.NO_ERROR)
        peer.write(first, b"still here\n")
        peer.pump(lambda: first.data)
        assert bytes(first.data) == b"still here\n"
        late = peer.connect(target)
        peer.pump(lambda: late.reset is not None)
        assert late.reset == h2peer.REFUSED_STREAM and late.status is None
        peer.write(first, b"", end=True)
        peer.pump(lambda: first.ended)
        peer.until_over(3)
        assert peer.ended == "close_notify", "behind its last stream the tunnel ends in order"
    finally:
        leaving.join(30)
        lab.agent(own_bed.lab, "node2", "start")
    assert not leaving.is_alive()


def test_streams_that_outlive_the_drain_are_reset(own_bed, foreign):
    target = f"{own_bed.ip('front/api')}:8080"
    peer = foreign.client("front/api")
    stream = peer.connect(target)
    peer.write(stream, b'{"do": "pingpong"}\n')
    peer.pump(lambda: stream.status)
    lab.agent(own_bed.lab, "node2", "stop")
    try:
        peer.until_over()
        assert peer.goaways == [(h2peer.MAX_WINDOW, h2peer.NO_ERROR)] and not stream.ended, "the PING was not answered"
        assert stream.reset is not None or peer.ended != "close_notify", "no clean end may be claimed"
    finally:
        lab.agent(own_bed.lab, "node2", "start")
