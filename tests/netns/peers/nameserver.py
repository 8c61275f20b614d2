"""A name server for one name: answers A questions for it with one address, everything else with NXDOMAIN.
Says "ready" when it listens, and every question that it gets. nameserver.py ADDRESS NAME ANSWER"""
import ipaddress
import socket
import struct
import sys

TYPE_A, NO_SUCH_NAME = 1, 3


def question(packet):
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1:at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    return ".".join(labels).lower(), struct.unpack_from("!H", packet, at + 1)[0], packet[12:at + 5]


def answer(packet, wanted, address):
    name, kind, asked = question(packet)
    print(name, kind, flush=True)
    records = b""
    if name == wanted and kind == TYPE_A:
        records = b"\xc0\x0c" + struct.pack("!HHIH", TYPE_A, 1, 1, 4) + address.packed
    code = 0 if name == wanted else NO_SUCH_NAME
    return packet[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, 1 if records else 0, 0, 0) + asked + records


def main():
    here, wanted, address = sys.argv[1], sys.argv[2], ipaddress.ip_address(sys.argv[3])
    with socket.socket(socket.AF_INET6 if ":" in here else socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((here, 53))
        print("ready", flush=True)
        while True:
            packet, peer = server.recvfrom(2048)
            server.sendto(answer(packet, wanted, address), peer)


main()
