#!/usr/bin/python3
"""Watches an interface: how many packets hold a marker, and which TCP ports were seen. Says `ready`, ends on a line of stdin."""
import json
import select
import socket
import sys

ETH_P_ALL = 3


def tcp_ports(packet):
    """(source, destination) of a packet that carries TCP data; acknowledgements and keep-alives of other connections say
    nothing about the one that is watched."""
    if packet[12:14] == b"\x08\x00" and packet[23] == 6:
        at = 14 + (packet[14] & 15) * 4
        end = 14 + int.from_bytes(packet[16:18], "big")
    elif packet[12:14] == b"\x86\xdd" and packet[20] == 6:
        at = 54
        end = 54 + int.from_bytes(packet[18:20], "big")
    else:
        return None
    if end - at - (packet[at + 12] >> 4) * 4 <= 0:
        return None
    return int.from_bytes(packet[at:at + 2], "big"), int.from_bytes(packet[at + 2:at + 4], "big")


def main(interface, marker):
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    sock.bind((interface, 0))
    print("ready", flush=True)
    seen = {"packets": 0, "bytes": 0, "marked": 0, "ports": set()}
    stopping = False
    while True:
        ready, _, _ = select.select([sock] + ([] if stopping else [sys.stdin]), [], [], 0 if stopping else None)
        if not ready:
            break
        if sys.stdin in ready:
            stopping = True  # what was captured until now still counts
            continue
        packet = sock.recv(1 << 17)
        seen["packets"] += 1
        seen["bytes"] += len(packet)
        seen["marked"] += marker in packet
        seen["ports"].update(tcp_ports(packet) or ())
    lost = int.from_bytes(sock.getsockopt(263, 6, 8)[4:8], sys.byteorder)  # PACKET_STATISTICS: tp_drops
    print(json.dumps({**seen, "ports": sorted(seen["ports"]), "lost": lost}), flush=True)


main(sys.argv[1], sys.argv[2].encode())
