"""Peers that speak TLS and are not who they should be, at the real doors: the application's port and 15008."""
import itertools
import os
import socket
import ssl
import subprocess
import threading

import pytest

from bed import shell

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and empty SETTINGS
SETTINGS = 4
GOOD = "URI:spiffe://cluster.local/ns/front/sa/web"
PEERS = {
    # What it shows: (SANs, further lines of the certificate, days, signed by the mesh's root) and whether it is let in.
    "the right certificate": ((GOOD, "", 1, True), True),
    "none": (None, False),
    "of a foreign root": ((GOOD, "", 1, False), False),
    "expired": ((GOOD, "", -1, True), False),
    "of a foreign trust domain": (("URI:spiffe://elsewhere.local/ns/front/sa/web", "", 1, True), False),
    "with two identities": ((GOOD + ",URI:spiffe://cluster.local/ns/back/sa/api", "", 1, True), False),
    "with a DNS name beside": ((GOOD + ",DNS:web.front", "", 1, True), True),
    "without an identity": (("DNS:web.front", "", 1, True), False),
    "of a CA": ((GOOD, "basicConstraints=critical,CA:TRUE", 1, True), False),
    "that may sign": ((GOOD, "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature,keyCertSign", 1, True), False),
}
_numbers = itertools.count()


def openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def make_certificate(bed, directory, names, further, days, ours):
    """Path of a file with key and chain."""
    root = os.path.join(bed.names.controller_directory(), "state", "root-cert.pem")
    key = os.path.join(bed.names.controller_directory(), "state", "root-key.pem")
    if not ours:
        root, key = str(directory / "root.pem"), str(directory / "root.key")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", root, "-subj", "/O=x")
    leaf, request, extensions = directory / "leaf.pem", directory / "leaf.csr", directory / "extensions"
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(directory / "leaf.key"),
            "-out", str(request), "-subj", "/")
    extensions.write_text(f"subjectAltName=critical,{names}\n"
                          + (further or "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature")
                          + "\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("x509", "-req", "-in", str(request), "-CA", root, "-CAkey", key, "-set_serial", str(1000 + next(_numbers)), "-days", str(days),
            "-extfile", str(extensions), "-out", str(leaf))
    both = directory / "both.pem"
    with open(root) as chain:
        both.write_text((directory / "leaf.key").read_text() + leaf.read_text() + chain.read())
    return str(both)


def frame_of_server(netns, to, certificate, alpn):
    """Type of the first HTTP/2 frame that the server sends, or what became of the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(alpn)
    if certificate:
        context.load_cert_chain(certificate)
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    result = []

    def dial():
        shell.enter_netns(netns)
        try:
            with socket.socket(family) as plain:
                plain.settimeout(12)
                plain.connect(tuple(to))
                with context.wrap_socket(plain) as tls:
                    tls.sendall(PREFACE)
                    got = b""
                    while len(got) < 9 and (part := tls.recv(100)):
                        got += part
                    result.append(got[3] if len(got) >= 9 else "closed")
        except OSError as error:  # ssl.SSLError is one
            result.append(type(error).__name__)
    thread = threading.Thread(target=dial)
    thread.start()
    thread.join(30)
    return result[0]


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("door", ["in place", "15008"])
@pytest.mark.parametrize("peer", PEERS, ids=str)
def test_a_peer_is_let_in_by_its_certificate_alone(bed, tmp_path, peer, door, family):
    shown, welcome = PEERS[peer]
    certificate = make_certificate(bed, tmp_path, *shown) if shown else None
    to, alpn = {"in place": ((bed.ip("back/api-1", family), 8080), ["h2", "fairlead/1"]),
                "15008": ((bed.ip("back/hbone", family), 15008), ["h2"])}[door]
    before = bed.counters("node2")
    # In place only addresses of the mesh are waited for. This process is in the pod's namespace and not in its cgroup, so nothing
    # captures what it dials.
    source = ("front", "other") if door == "in place" else ("outside", "client")
    found = frame_of_server(bed.names.pod_netns(*source), to, certificate, alpn)
    after = bed.counters("node2")
    if welcome:
        assert found == SETTINGS
        assert after["inbound_tunnels"] == before["inbound_tunnels"] + 1
    else:
        assert found != SETTINGS
        assert after["inbound_tunnels"] == before["inbound_tunnels"]
        assert after["handshake_failed"] == before["handshake_failed"] + 1
    assert bed.call("front/web", "who", to=["far.back", 80]).get("pod") == "api-1", "the door is broken"
