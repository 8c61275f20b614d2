"""What is compared: a lab of its own with a client pod, a server pod, and what stands between them."""
import os
import subprocess

from labtool import cgroups, lab, pods, state as memory
from labtool.paths import Names
from labtool.shell import run, wait_until
from . import crowd

KINDS = ["direct", "fairlead", "haproxy"]
HTTP, IPERF, ECHO = 8080, 5201, 7000
TLS_OFFSET = 1000  # haproxy: the plain port + this speaks TLS


MANIFEST = """
apiVersion: v1
kind: Namespace
metadata: {name: bench, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: bench}
spec: {nodeName: node1, serviceAccountName: client}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: bench}
spec: {nodeName: node2, serviceAccountName: server}
---
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: outside}
spec: {nodeName: node2}
"""

NGINX = """
daemon off; worker_processes 1; error_log stderr crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; tcp_nodelay on;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  server {{ listen [::]:{port} ipv6only=off backlog=4096; location /1k {{ return 200 "{body}"; }} }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 9400
  stats socket {dir}/{side}.sock
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  maxconn 9400
"""
CLIENT_SIDE = """listen c{port}
  bind 127.0.0.1:{port}
  server s {server}:{tls} ssl crt {dir}/client.pem ca-file {dir}/ca.pem verify required ssl-min-ver TLSv1.3 no-ssl-reuse
"""
SERVER_SIDE = """listen s{port}
  bind {server}:{tls} ssl crt {dir}/server.pem ca-file {dir}/ca.pem verify required ssl-min-ver TLSv1.3 no-tls-tickets
  server a 127.0.0.1:{port}
"""


class Contender:
    """One lab of its own with a client pod, a server pod, and what stands between them."""

    def __init__(self, kind, build, near=False):
        """`near`: the two pods are joined by a veth pair; else by that of each pod, its node and a bridge between the nodes."""
        self.kind, self.build, self.near = kind, build, near
        self.meshed = kind in ("fairlead", *crowd.KINDS)
        self.lab = f"bench{os.getpid()}-{kind}"  # several may run at once
        self.names = Names(self.lab)
        self.directory = os.path.join(self.names.state, "bench")

    def up(self):
        lab.down(self.lab)
        manifest = f"/run/fairlead-{self.lab}.yaml"
        with open(manifest, "w") as file:
            file.write(MANIFEST)
        lab.up(self.lab, [manifest], with_mesh=self.meshed, stand_in="none")
        os.unlink(manifest)
        os.makedirs(self.directory)
        state = memory.load(self.names)
        self.client, self.server = (memory.find_pod(state, "bench/" + name) for name in ("client", "server"))
        self.outside = memory.find_pod(state, "outside/server")
        self.server_ip = addresses(self.server)[0]
        if self.near:
            self.join()
        self.target = "127.0.0.1" if self.kind == "haproxy" else self.server_ip
        with open(os.path.join(self.directory, "nginx.conf"), "w") as file:
            file.write(NGINX.format(dir=self.directory, port=HTTP, body="x" * 1024))
        for pod in (self.server, self.outside):
            self.start(pod, ["nginx", "-c", os.path.join(self.directory, "nginx.conf"), "-g", f"pid {self.directory}/{pod['metadata']['namespace']}.pid;"])
            self.start(pod, [self.load_tool(), "echo", str(ECHO)])
        self.start(self.server, ["iperf3", "-s", "-p", str(IPERF)])
        if self.kind == "haproxy":
            self.start_haproxy()
        wait_until(lambda: self.run(self.client, ["curl", "-s", "-m", "2", "-o", "/dev/null", f"http://{self.target}:{HTTP}/1k"]).returncode == 0,
                   15, f"{self.kind}: the server does not answer")
        if self.kind in crowd.KINDS:
            crowd.add(self.names, self.kind)

    def join(self):
        """Pods keep their addresses; a route of its own leads from each to the other."""
        ends = [(self.names.pod_netns(pod["metadata"]["namespace"], pod["metadata"]["name"]), f"near{index}", f"02:00:00:00:00:0{index}", addresses(pod))
                for index, pod in enumerate((self.client, self.server))]
        (netns, name, mac, _), (other, peer, other_mac, _) = ends
        run("ip", "-netns", netns, "link", "add", name, "address", mac, "type", "veth", "peer", "name", peer, "address", other_mac, "netns", other)
        for (netns, name, _, _), (_, _, mac, there) in (ends, reversed(ends)):
            run("ip", "-netns", netns, "link", "set", name, "up")
            for address in there:
                run("ip", "-netns", netns, "neighbour", "replace", address, "lladdr", mac, "dev", name)
                run("ip", "-netns", netns, "route", "replace", address, "dev", name)

    def load_tool(self):
        return os.path.join(self.build, "tests", "bench", "fairlead-load")

    def start_haproxy(self):
        make_certificates(self.directory)
        for side, template, pod in (("client", CLIENT_SIDE, self.client), ("server", SERVER_SIDE, self.server)):
            path = os.path.join(self.directory, side + ".cfg")
            with open(path, "w") as file:
                file.write(HAPROXY.format(dir=self.directory, side=side))
                for port in (HTTP, IPERF, ECHO):
                    file.write(template.format(port=port, tls=port + TLS_OFFSET, server=self.server_ip, dir=self.directory))
            self.start(pod, ["haproxy", "-db", "-f", path])

    def start(self, pod, command):
        with open(os.path.join(self.directory, "log"), "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=lambda: pods.enter(self.names, pod))

    def run(self, pod, command, timeout=120):
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, preexec_fn=lambda: pods.enter(self.names, pod))

    def proxies(self):
        """Processes between client and server."""
        names = ("fairlead-agent", "fairlead-proxy") if self.meshed else ("haproxy",)
        return [pid for pid in cgroups.processes(cgroups.lab_root(self.lab)) if command_name(pid) in names]

    def user_seconds(self):
        with open(os.path.join(cgroups.lab_root(self.lab), "cpu.stat")) as file:
            return next(int(line.split()[1]) for line in file if line.startswith("user_usec")) / 1e6


def addresses(pod):
    return [entry["ip"] for entry in pod["status"]["podIPs"]]


def command_name(pid):
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def make_certificates(directory):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=bench")
    for side in ("client", "server"):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", side + ".key", "-out", side + ".csr", "-subj", "/CN=" + side)
        openssl("x509", "-req", "-in", side + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", side + ".crt", "-days", "2")
        with open(os.path.join(directory, side + ".pem"), "w") as out:
            for part in (".crt", ".key"):
                with open(os.path.join(directory, side + part)) as file:
                    out.write(file.read())
