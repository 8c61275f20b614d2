"""Foreign peers in the lab: identities signed by the lab's development CA, clients and servers that are not Fairlead."""
import contextlib
import os
import selectors
import socket
import ssl
import tempfile
import threading

from bed import shell
import h2peer
from h2peer import Peer

HBONE = 15008


class Identity:
    """A key and a certificate for `spiffe://cluster.local/ns/NS/sa/SA`, as the controller would sign it."""

    def __init__(self, bed, namespace, account, directory):
        self.uri = f"spiffe://cluster.local/ns/{namespace}/sa/{account}"
        state = os.path.join(bed.names.controller_directory(), "state")
        self.root = os.path.join(state, "root-cert.pem")
        self.key = os.path.join(directory, f"{namespace}.{account}.key")
        self.chain = os.path.join(directory, f"{namespace}.{account}.pem")
        shell.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                  "-CA", self.root, "-CAkey", os.path.join(state, "root-key.pem"), "-subj", "/",
                  "-addext", f"subjectAltName=critical,URI:{self.uri}", "-addext", "keyUsage=critical,digitalSignature",
                  "-addext", "extendedKeyUsage=serverAuth,clientAuth", "-addext", "basicConstraints=critical,CA:FALSE",
                  "-keyout", self.key, "-out", self.chain)

    def context(self, server):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # a FIN without close_notify must show as one
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.root)
        context.load_cert_chain(self.chain, self.key)
        context.set_alpn_protocols(["h2"])
        return context


def peer_uri(sock):
    return [value for kind, value in sock.getpeercert()["subjectAltName"] if kind == "URI"]


def inside(netns, function):
    """Runs a function in a thread that lives in the network namespace; sockets stay where they were made."""
    outcome = {}

    def run():
        try:
            shell.enter_netns(netns)
            outcome["value"] = function()
        except BaseException as error:
            outcome["error"] = error
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


class Relay(Peer):
    """A workload's tunnel end: each CONNECT becomes a connection to the application beside it."""

    def on_connect(self, stream):
        host, _, port = stream.header(":authority").rpartition(":")
        try:
            stream.app = socket.create_connection((host.strip("[]"), int(port)), timeout=5)
        except OSError:
            return self.respond(stream, 503, end=True)
        stream.app.setblocking(False)
        stream.to_app, stream.app_over = bytearray(), False
        self.extra[stream.app] = lambda: self.from_app(stream)
        self.respond(stream, 200)

    def on_data(self, stream, data):
        stream.to_app += data
        self.push(stream)

    def on_end(self, stream):
        if hasattr(stream, "app"):
            self.push(stream)

    def push(self, stream):
        try:
            while stream.to_app:
                sent = stream.app.send(stream.to_app)
                del stream.to_app[:sent]
                self.give(stream, sent)
        except BlockingIOError:
            self.extra_write[stream.app] = lambda: self.push(stream)
            return
        except OSError:
            return self.app_broke(stream)
        self.extra_write.pop(stream.app, None)
        if stream.ended and not stream.app_over:
            stream.app_over = True
            with contextlib.suppress(OSError):
                stream.app.shutdown(socket.SHUT_WR)

    def from_app(self, stream):
        if len(stream.pending) > 1 << 18:  # no credit: wait for some
            self.extra.pop(stream.app)
            return
        try:
            data = stream.app.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            return self.app_broke(stream)
        if not data:
            self.extra.pop(stream.app)
        self.write(stream, data, end=not data)

    def flush(self, stream):
        super().flush(stream)
        app = getattr(stream, "app", None)
        if app is not None and not stream.end_wanted and len(stream.pending) <= 1 << 18:
            self.extra.setdefault(app, lambda: self.from_app(stream))

    def app_broke(self, stream):
        self.let_go(stream, reset=False)
        if stream.reset is None:
            self.reset(stream, h2peer.CONNECT_ERROR)

    def on_reset(self, stream):
        if hasattr(stream, "app"):
            self.let_go(stream, reset=True)

    def let_go(self, stream, reset):
        self.extra.pop(stream.app, None)
        self.extra_write.pop(stream.app, None)
        stream.end_wanted = stream.end_sent = True
        if reset:
            stream.app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, h2peer.struct.pack("ii", 1, 0))
        stream.app.close()


class Server:
    """Plays the tunnel end of a pod that another implementation serves. `make(sock)` gives the Peer of a connection; `plain`
    talks to the bare socket instead."""

    def __init__(self, bed, pod, identity, make=None, plain=None):
        found = bed.pod(pod)
        self.netns = bed.names.pod_netns(found["metadata"]["namespace"], found["metadata"]["name"])
        self.plain, self.make = plain, make or (lambda sock: Relay(sock, server=True))
        self.peers, self.errors, self.identities = [], [], []
        self._context = identity.context(server=True)
        self._stop, self._wake = socket.socketpair()
        self._threads = []
        self.listener = inside(self.netns, lambda: socket.create_server(("::", HBONE), family=socket.AF_INET6, dualstack_ipv6=True))
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self):
        shell.enter_netns(self.netns)  # the applications' sockets are made here
        with selectors.DefaultSelector() as wait:
            wait.register(self.listener, selectors.EVENT_READ)
            wait.register(self._stop, selectors.EVENT_READ)
            while True:
                if any(key.fileobj is self._stop for key, _ in wait.select()):
                    return
                sock, _ = self.listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,))
                thread.start()
                self._threads.append(thread)

    def _serve(self, sock):
        peer = None
        try:
            sock.settimeout(10)
            if self.plain:
                return self.plain(sock)
            secure = self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
            self.identities += peer_uri(secure)
            peer = self.make(secure)
            self.peers.append(peer)
            stopping = []
            peer.extra[self._stop] = lambda: stopping.append(True)
            while not peer.ended and not stopping:
                peer.turn(1)
        except (OSError, ValueError) as error:
            self.errors.append(f"{error!r}")
        except AssertionError as error:
            self.errors.append(f"judged: {error}")
        finally:
            sock.close()
            if peer is not None:
                peer.sock.close()

    def connects(self):
        return [stream for peer in self.peers for stream in peer.streams.values()]

    def close(self):
        self._wake.send(b"x")
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(10)
        self.listener.close()
        self._stop.close()
        self._wake.close()


class Foreigner:
    """What a module's tests need: identities, clients, servers; everything is closed behind a test."""

    def __init__(self, bed):
        self.bed = bed
        self._directory = tempfile.TemporaryDirectory()
        self._identities, self._open = {}, []

    def identity(self, name="front/web"):
        if name not in self._identities:
            self._identities[name] = Identity(self.bed, *name.split("/"), self._directory.name)
        return self._identities[name]

    def client(self, to="back/hbone", name="front/web", pod="outside/client", family="4", port=HBONE, kind=Peer, **how):
        """A client in a pod that Fairlead does not serve, with the identity of one that it does."""
        found = self.bed.pod(pod)
        netns = self.bed.names.pod_netns(found["metadata"]["namespace"], found["metadata"]["name"])
        identity, address = self.identity(name), (self.bed.ip(to, family), port)
        peer = kind(inside(netns, lambda: h2peer.client_socket(identity, address)), **how)
        self._open.append(peer)
        return peer

    def server(self, pod, name, make=None, plain=None):
        made = Server(self.bed, pod, self.identity(name), make, plain)
        self._open.append(made)
        return made

    def close_all(self):
        for item in self._open:
            item.close() if isinstance(item, Server) else item.close("cut")
        self._open.clear()

    def close(self):
        self.close_all()
        self._directory.cleanup()
