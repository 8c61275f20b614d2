"""Nodes and pods as network namespaces on a routed network.

    hub (bridge, 172.30.0.1, fd30::1) --- node1 (172.30.0.11) --- lxc… --- pod (10.244.1.10/32)
                                      \\-- node2 (172.30.0.12) --- lxc… --- pod (10.244.2.10/32)

Pods have host addresses and a default route to a gateway that is only a neighbour entry, as Cilium lays them out.
"""
import ipaddress
import os

from .shell import LabError, in_netns, ip_batch, run, sysctl

HUB4, HUB6 = "172.30.0.1", "fd30::1"
GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"


def node_addresses(index):
    return f"172.30.0.{10 + index}", f"fd30::{10 + index:x}"


def node_ranges(index):
    """Where the lab takes the addresses of a node's pods from; each node routes the others' ranges."""
    return ipaddress.ip_network(f"10.244.{index}.0/24"), ipaddress.ip_network(f"fd00:10:244:{index:x}::/64")


def is_of_node(address, index):
    return any(ipaddress.ip_address(address) in network for network in node_ranges(index))


def netns_names():
    try:
        return os.listdir("/run/netns")
    except FileNotFoundError:
        return []


def _settings(forward):
    def apply():
        # New namespaces inherit the machine's congestion control; bbr on a veth measures itself, not us.
        sysctl("net/ipv4/tcp_congestion_control", "cubic")
        sysctl("net/mptcp/enabled", 1)
        sysctl("net/ipv4/ip_local_port_range", "10000 65000")
        sysctl("net/ipv4/tcp_tw_reuse", 1)
        sysctl("net/ipv4/tcp_fastopen", 3)
        if forward:
            sysctl("net/ipv4/ip_forward", 1)
            sysctl("net/ipv6/conf/all/forwarding", 1)
        for name in ("all", "default"):
            sysctl(f"net/ipv6/conf/{name}/accept_dad", 0)
            sysctl(f"net/ipv4/conf/{name}/rp_filter", 0)
    return apply


def make_netns(name, forward=False):
    run("ip", "netns", "add", name)
    in_netns(name, _settings(forward))


def make_hub(names):
    make_netns(names.hub, forward=True)
    ip_batch(names.hub, ["link set lo up", "link add br0 type bridge", "link set br0 up",
                         f"addr add {HUB4}/24 dev br0", f"addr add {HUB6}/64 dev br0 nodad"])


def make_node(names, node, index, nodes):
    netns = names.node_netns(node)
    make_netns(netns, forward=True)
    ip_batch(names.hub, [f"link add n{index} type veth peer name up0 netns {netns}", f"link set n{index} master br0",
                         f"link set n{index} up"])
    address4, address6 = node_addresses(index)
    ip_batch(netns, ["link set lo up", "link set up0 up", f"addr add {address4}/24 dev up0",
                     f"addr add {address6}/64 dev up0 nodad", f"route add default via {HUB4}",
                     f"route add default via {HUB6}",
                     # A pod that is not there is unreachable, and not for the hub to send back.
                     *[f"route add unreachable {network}" for network in node_ranges(index)]])
    for other, other_index in nodes.items():
        if other == node:
            continue
        other4, other6 = node_addresses(other_index)
        ip_batch(netns, [f"route add 10.244.{other_index}.0/24 via {other4}",
                         f"route add fd00:10:244:{other_index:x}::/64 via {other6}"])


def route_hub(names, nodes):
    """The hub reaches pods, too: a place outside of every node, for probes and benchmarks."""
    for node, index in nodes.items():
        address4, address6 = node_addresses(index)
        ip_batch(names.hub, [f"route replace 10.244.{index}.0/24 via {address4}",
                             f"route replace fd00:10:244:{index:x}::/64 via {address6}"])


def make_pod(names, namespace, pod, node, addresses):
    netns, node_netns = names.pod_netns(namespace, pod), names.node_netns(node)
    interface = names.pod_interface(namespace, pod)
    if netns in netns_names():
        raise LabError(f"network namespace {netns} exists already: `lab --name {names.lab} down` first")
    make_netns(netns)
    ip_batch(node_netns, [f"link add {interface} type veth peer name eth0 netns {netns}", f"link set {interface} up"])
    host_mac = _mac(node_netns, interface)
    commands = ["link set lo up", "link set eth0 up"]
    host_routes = []
    for address in addresses:
        six = ":" in address
        gateway, length = (GATEWAY6, 128) if six else (GATEWAY4, 32)
        commands += [f"addr add {address}/{length} dev eth0" + (" nodad" if six else ""),
                     f"neigh replace {gateway} lladdr {host_mac} dev eth0 nud permanent",
                     f"route add {gateway} dev eth0" + ("" if six else " scope link"),
                     f"route add default via {gateway} dev eth0"]
        host_routes.append(f"route add {address}/{length} dev {interface}")
    ip_batch(netns, commands)
    pod_mac = _mac(netns, "eth0")
    host_routes += [f"neigh replace {address} lladdr {pod_mac} dev {interface} nud permanent" for address in addresses]
    ip_batch(node_netns, host_routes)


def route_pod(names, nodes, node, addresses, verb="replace"):
    """Addresses that a manifest brought and that are not of the node's range: a route of their own everywhere else."""
    strange = [address for address in addresses if not is_of_node(address, nodes[node])]
    if not strange:
        return
    address4, address6 = node_addresses(nodes[node])
    routes = [f"route {verb} {address} via {address6 if ':' in address else address4}" for address in strange]
    for netns in [names.hub] + [names.node_netns(other) for other in nodes if other != node]:
        ip_batch(netns, routes)


def _mac(netns, interface):
    words = run("ip", "-netns", netns, "-o", "link", "show", interface).split()
    return words[words.index("link/ether") + 1]


def remove_netns(name):
    run("ip", "netns", "delete", name, check=False)
