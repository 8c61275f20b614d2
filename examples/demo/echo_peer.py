#!/usr/bin/python3
"""A small HTTP server on the given ports: answers with the client's address as accept() showed it, and logs it."""
import http.server
import socket
import sys
import threading


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # dual-stack: IPv4 clients come as ::ffff:a.b.c.d


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello {self.client_address[0].removeprefix('::ffff:')} port {self.server.server_port}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


servers = [Server(("::", int(port)), Handler) for port in sys.argv[1:]]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
