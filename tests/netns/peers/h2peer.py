"""A second implementation of HBONE for the tests, from the RFCs: one end of an HTTP/2 connection over Python's ssl, client or
server, with frames by hyperframe and HPACK by hpack (both of Debian's python3-h2). It does what it is told and judges what the
other end does: a frame that RFC 9113 does not allow here is an AssertionError."""
import hashlib
import selectors
import socket
import ssl
import struct
import time

from hpack import Decoder, Encoder
from hyperframe import frame as frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TABLE, PUSH, STREAMS, WINDOW, FRAME, LIST = 1, 2, 3, 4, 5, 6  # SETTINGS
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 10, 11
KEEP = 1 << 20  # bytes of a stream that are kept to be looked at; all are hashed
MAX_WINDOW = (1 << 31) - 1


def raw_frame(kind, flags=0, stream=0, body=b"", length=None):
    """A frame of any type and length, whatever its body is."""
    length = len(body) if length is None else length
    return length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


class Stream:
    def __init__(self, number, send_window, receive_window):
        self.id, self.send_window, self.receive_window = number, send_window, receive_window
        self.headers, self.interim, self.status = [], [], None
        self.data, self.count, self.digest = bytearray(), 0, hashlib.sha256()
        self.ended, self.reset = False, None  # by the other end
        self.pending, self.end_wanted, self.end_sent = bytearray(), False, False
        self.pad = None

    def header(self, name):
        return dict(self.headers).get(name)

    @property
    def received(self):
        return self.count, self.digest.hexdigest()


class Peer:
    """`settings`: what we tell; `credit`: whether data is acknowledged as it comes; `table`: the other end's table size."""

    strict = True  # frames on streams that were not opened here are judged

    def __init__(self, sock, server=False, settings=None, credit=True, start=True):
        self.sock, self.server, self.settings, self.credit = sock, server, dict(settings or {}), credit
        sock.setblocking(False)
        self.out, self.into, self.preface_left = bytearray(), bytearray(), len(PREFACE) if server else 0
        self.encoder, self.decoder = Encoder(), Decoder()
        self.decoder.max_allowed_table_size = self.decoder.header_table_size = 4096
        self.streams, self.next_id = {}, 1
        self.theirs, self.settings_acks, self.acknowledged = {}, 0, False
        self.goaways, self.pongs, self.seen = [], [], []
        self.ended = None  # close_notify, truncated, reset
        self.send_window, self.receive_window = 65535, 65535
        self.block = None  # a header block under way: (frame, fragments)
        self.answer_settings = True
        self.extra = {}  # sockets to wait for besides: {socket: function}
        self.extra_write = {}
        if start:
            self.start()

    def start(self):
        if not self.server:
            self.out += PREFACE
        self.send(frames.SettingsFrame(0, settings=self.settings))

    # ---- sending ----
    def send(self, *items):
        for item in items:
            self.out += item if isinstance(item, (bytes, bytearray)) else item.serialize()

    def headers(self, number, fields, end=False, pieces=1, pad=None, priority=False):
        """HEADERS and, in several pieces, CONTINUATION."""
        block = self.encoder.encode(fields)
        size = -(-len(block) // pieces)
        parts = [block[at:at + size] for at in range(0, len(block), size)] or [b""]
        first = frames.HeadersFrame(number, parts[0])
        if end:
            first.flags.add("END_STREAM")
        if pad is not None:
            first.flags.add("PADDED")
            first.pad_length = pad
        if priority:
            first.flags.add("PRIORITY")
            first.depends_on, first.stream_weight, first.exclusive = 0, 15, False
        items = [first] + [frames.ContinuationFrame(number, part) for part in parts[1:]]
        items[-1].flags.add("END_HEADERS")
        self.send(*items)

    def connect(self, authority, *more, end=False, **how):
        number, self.next_id = self.next_id, self.next_id + 2
        stream = self.streams[number] = Stream(number, self.theirs.get(WINDOW, 65535), self.settings.get(WINDOW, 65535))
        stream.end_sent = end
        self.headers(number, [(":method", "CONNECT"), (":authority", authority), *more], end, **how)
        return stream

    def respond(self, stream, status, *more, end=False, **how):
        self.headers(stream.id, [(":status", str(status)), *more], end, **how)
        stream.end_sent = stream.end_sent or (end and status >= 200)

    def write(self, stream, data, end=False):
        stream.pending += data
        stream.end_wanted = stream.end_wanted or end
        self.flush(stream)

    def flush(self, stream):
        """What windows and frame size allow."""
        pad = 0 if stream.pad is None else stream.pad + 1
        while stream.pending and not stream.end_sent and stream.reset is None:
            room = min(stream.send_window, self.send_window, self.theirs.get(FRAME, 16384)) - pad
            if room <= 0 or len(self.out) > 1 << 18:
                return
            item = frames.DataFrame(stream.id, bytes(stream.pending[:room]))
            del stream.pending[:room]
            if pad:
                item.flags.add("PADDED")
                item.pad_length = stream.pad
            if stream.end_wanted and not stream.pending:
                item.flags.add("END_STREAM")
                stream.end_sent = True
            stream.send_window -= item.flow_controlled_length
            self.send_window -= item.flow_controlled_length
            self.send(item)
        if stream.end_wanted and not stream.pending and not stream.end_sent and stream.reset is None:
            stream.end_sent = True
            self.send(frames.DataFrame(stream.id, b"", flags=["END_STREAM"]))

    def reset(self, stream, code=CANCEL):
        stream.end_sent = True
        stream.pending.clear()
        self.send(frames.RstStreamFrame(stream.id, error_code=code))

    def give(self, stream, amount):
        """Credit for a stream and for the connection."""
        if amount > 0:
            self.receive_window += amount
            self.send(frames.WindowUpdateFrame(0, window_increment=amount))
            if stream is not None and not stream.ended and stream.reset is None:
                stream.receive_window += amount
                self.send(frames.WindowUpdateFrame(stream.id, window_increment=amount))

    # ---- the other end's frames ----
    def on_connect(self, stream):
        """Server: a request came."""

    def on_data(self, stream, data):
        if self.credit:
            self.give(stream, len(data))

    def on_end(self, stream):
        pass

    def on_reset(self, stream):
        pass

    def feed(self, data):
        self.into += data
        if self.preface_left:
            taken = min(self.preface_left, len(self.into))
            at = len(PREFACE) - self.preface_left
            assert self.into[:taken] == PREFACE[at:at + taken], "no preface"
            del self.into[:taken]
            self.preface_left -= taken
        while len(self.into) >= 9:
            length = int.from_bytes(self.into[:3], "big")
            if len(self.into) < 9 + length:
                return
            assert length <= self.settings.get(FRAME, 16384), f"a frame of {length} bytes"
            item, _ = frames.Frame.parse_frame_header(memoryview(bytes(self.into[:9])))
            item.parse_body(memoryview(bytes(self.into[9:9 + length])))
            del self.into[:9 + length]
            self.take(item, length)

    def take(self, item, length):
        kind = type(item).__name__.removesuffix("Frame")
        if not self.seen:
            assert kind == "Settings" and "ACK" not in item.flags, f"begins with {kind}"
        if self.block is not None:
            assert kind == "Continuation" and item.stream_id == self.block[0].stream_id, f"{kind} inside a header block"
        if len(self.seen) < 5000:
            self.seen.append((kind, item.stream_id, getattr(item, "error_code", None)))
        getattr(self, "take_" + kind.lower())(item, length)

    def take_settings(self, item, _length):
        assert item.stream_id == 0
        if "ACK" in item.flags:
            self.settings_acks += 1
            self.acknowledged = True
            if TABLE in self.settings:
                self.decoder.max_allowed_table_size = min(4096, self.settings[TABLE])
            return
        old = self.theirs.get(WINDOW, 65535)
        self.theirs.update(item.settings)
        if self.server:
            assert self.theirs.get(PUSH, 1) == 0, "a client that wants pushes"
        else:
            assert PUSH not in item.settings, "a server that speaks of pushes"
        for stream in self.streams.values():
            stream.send_window += self.theirs.get(WINDOW, 65535) - old
        if self.answer_settings:
            self.send(frames.SettingsFrame(0, flags=["ACK"]))
        for stream in self.streams.values():
            self.flush(stream)

    def take_windowupdate(self, item, _length):
        if item.stream_id == 0:
            self.send_window += item.window_increment
            assert self.send_window <= MAX_WINDOW
            for stream in list(self.streams.values()):
                self.flush(stream)
        elif item.stream_id in self.streams:
            stream = self.streams[item.stream_id]
            stream.send_window += item.window_increment
            assert stream.send_window <= MAX_WINDOW
            self.flush(stream)

    def take_ping(self, item, _length):
        if "ACK" in item.flags:
            self.pongs.append(item.opaque_data)
        else:
            self.send(frames.PingFrame(0, opaque_data=item.opaque_data, flags=["ACK"]))

    def take_goaway(self, item, _length):
        if self.goaways:
            assert item.last_stream_id <= self.goaways[-1][0], "GOAWAY with a growing id"
        self.goaways.append((item.last_stream_id, item.error_code))

    def take_headers(self, item, _length):
        self.block = (item, bytearray(item.data))
        self.take_block(item)

    def take_continuation(self, item, _length):
        assert self.block is not None
        self.block[1].extend(item.data)
        self.take_block(item)

    def take_block(self, item):
        if "END_HEADERS" not in item.flags:
            return
        first, data = self.block
        self.block = None
        fields = [(name, value) for name, value in self.decoder.decode(bytes(data))]
        (self.take_request if self.server else self.take_answer)(first, fields)

    def take_request(self, first, fields):
        assert first.stream_id % 2 == 1 and first.stream_id >= self.next_id, "stream ids that do not grow"
        self.next_id = first.stream_id + 2
        assert [name for name, _ in fields if name.startswith(":")] == [":method", ":authority"], fields
        assert fields[0] == (":method", "CONNECT") and all(name == name.lower() for name, _ in fields), fields
        stream = self.streams[first.stream_id] = Stream(first.stream_id, self.theirs.get(WINDOW, 65535),
                                                        self.settings.get(WINDOW, 65535))
        stream.headers = fields
        self.on_connect(stream)
        if "END_STREAM" in first.flags:
            self.take_end(stream)

    def take_answer(self, first, fields):
        stream = self.stream_of(first)
        if stream is None:
            return
        assert not stream.ended and stream.reset is None, "HEADERS on a stream that is over"
        assert stream.status is None, "trailers on a tunnel"
        assert [name for name, _ in fields if name.startswith(":")] == [":status"], fields
        status = int(fields[0][1])
        if status < 200:
            stream.interim.append(status)
            return
        stream.status, stream.headers = status, fields
        if "END_STREAM" in first.flags:
            self.take_end(stream)

    def stream_of(self, item):
        return self.streams[item.stream_id] if self.strict else self.streams.get(item.stream_id)

    def take_data(self, item, length):
        stream = self.stream_of(item)
        if stream is None:
            return
        assert not stream.ended, "DATA behind END_STREAM"
        assert self.server or stream.status == 200, "DATA before the answer"
        self.receive_window -= length
        stream.receive_window -= length
        assert self.receive_window >= 0 and stream.receive_window >= 0, "more data than there is credit"
        stream.count += len(item.data)
        stream.digest.update(item.data)
        stream.data += item.data[:max(0, KEEP - len(stream.data))]
        if stream.reset is None:
            self.on_data(stream, item.data)
        if "END_STREAM" in item.flags:
            self.take_end(stream)

    def take_end(self, stream):
        stream.ended = True
        self.on_end(stream)

    def take_rststream(self, item, _length):
        stream = self.stream_of(item)
        if stream is None:
            return
        stream.reset = item.error_code
        self.on_reset(stream)

    # ---- the socket ----
    def pump(self, until, seconds=15):
        """Reads and writes until the condition holds; fails behind the deadline. An end of the connection is no error."""
        deadline = time.monotonic() + seconds
        while not until():
            if self.ended or not self.turn(deadline - time.monotonic()):
                assert until(), f"{'ended: ' + self.ended if self.ended else 'silence'}; last frames {self.seen[-8:]}"
                return
        self.drain_output()

    def settle(self, seconds=5):
        """Until the other end has read everything: it answers a PING behind it."""
        mark = struct.pack(">Q", len(self.pongs) + 1)
        self.send(frames.PingFrame(0, opaque_data=mark))
        self.pump(lambda: mark in self.pongs, seconds)

    def until_over(self, seconds=15):
        """Until the connection is over, whatever comes; what we say into it may be lost."""
        self.pump(lambda: self.ended, seconds)

    def turn(self, seconds):
        """False: the deadline passed."""
        if self.sock.pending() == 0:
            with selectors.DefaultSelector() as wait:
                wait.register(self.sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if self.out else 0))
                for sock in set(self.extra) | set(self.extra_write):
                    mask = (selectors.EVENT_READ if sock in self.extra else 0) | \
                        (selectors.EVENT_WRITE if sock in self.extra_write else 0)
                    wait.register(sock, mask)
                ready = wait.select(max(0, seconds))
                if not ready:
                    return False
                for key, mask in ready:
                    if key.fileobj is self.sock:
                        continue
                    if mask & selectors.EVENT_READ and key.fileobj in self.extra:
                        self.extra[key.fileobj]()
                    if mask & selectors.EVENT_WRITE and key.fileobj in self.extra_write:
                        self.extra_write[key.fileobj]()
        self.drain_output()
        self.read_once()
        return True

    def drain_output(self):
        try:
            while self.out:
                del self.out[:self.sock.send(bytes(self.out[:1 << 16]))]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError:  # the other end is gone; what it said before is still to be read
            self.out.clear()
            return
        for stream in [stream for stream in self.streams.values() if stream.pending]:
            self.flush(stream)

    def read_once(self):
        try:
            data = self.sock.recv(1 << 16)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except ssl.SSLEOFError:
            self.ended = "truncated"
            return
        except (ssl.SSLError, OSError) as error:
            self.ended = "reset" if isinstance(error, ConnectionError) else f"{error!r}"
            return
        if not data:
            self.ended = "close_notify"
            return
        self.feed(data)

    def close(self, how="orderly"):
        """orderly: close_notify; cut: a FIN without one; reset: an RST."""
        if how == "orderly":
            try:
                self.sock.unwrap()
            except (OSError, ValueError):
                pass
        if how == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def client_socket(identity, address, source=None, timeout=10):
    """A TLS client in the calling thread's network namespace; `identity` makes the context (foreign.py)."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.settimeout(timeout)
        if source:
            raw.bind(source)
        raw.connect(address)
        return identity.context(server=False).wrap_socket(raw, suppress_ragged_eofs=False)
    except BaseException:
        raw.close()
        raise
