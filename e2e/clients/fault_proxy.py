"""A proxy before OpenSearch that misbehaves on demand. argv: UPSTREAM_PORT [CERT KEY [USER PASSWORD]]. Prints its port.

With CERT and KEY it speaks TLS, with USER and PASSWORD it lets only them in (HTTP Basic). What is asked of itself:
  GET /proxy/state    {"bulks": N, "in_flight": N, "busy_items": N, "hits": {KIND: N}}
  PUT /proxy/faults   {"kinds": [KIND...], "every": N, "hits": N}: each N-th bulk meets the next kind, until each was hit so often
  PUT /proxy/denied   true or false: whether everything is answered with 401

Kinds: what is said of a bulk is done by the node unless it says otherwise.
  429, 503     refused, the node never sees it (429 with Retry-After)
  unsent       the connection is reset before the node sees it
  done-503     answered with 503
  hang         never answered
  reset        the connection is reset instead of an answer
  truncate     half of the answer, then the end of the connection
  rollover     the data stream rolls over, then the connection is reset
"""
import base64
import http.client
import http.server
import itertools
import json
import re
import socket
import ssl
import struct
import sys
import threading

upstream = int(sys.argv[1])
tls = sys.argv[2:4]
allowed = sys.argv[4:6]
lock = threading.Lock()
state = {"bulks": 0, "in_flight": 0, "busy_items": 0, "hits": {}}
plan = {"kinds": [], "every": 1, "hits": 0}
turn = itertools.count()
denied = False


def next_fault():
    """What happens to this bulk, if anything."""
    with lock:
        state["bulks"] += 1
        left = [kind for kind in plan["kinds"] if state["hits"].get(kind, 0) < plan["hits"]]
        if not left or state["bulks"] % plan["every"]:
            return None
        kind = left[next(turn) % len(left)]
        state["hits"][kind] = state["hits"].get(kind, 0) + 1
        return kind


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    node = None

    def log_message(self, *_):
        pass

    def setup(self):
        if tls:
            self.request.settimeout(10)
            self.request.do_handshake()
            self.request.settimeout(None)
        super().setup()

    def serve(self):
        global denied
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.startswith("/proxy/"):
            what = self.path.removeprefix("/proxy/")
            with lock:
                if what == "faults":
                    plan.update(json.loads(body))
                    state["hits"] = {}
                elif what == "denied":
                    denied = json.loads(body)
                text = json.dumps(state)
            return self.answer(200, text.encode())
        if denied or not self.is_allowed():
            error = {"error": {"type": "security_exception", "reason": "unable to authenticate user"}, "status": 401}
            return self.answer(401, json.dumps(error).encode())
        if not self.path.startswith("/_bulk"):
            return self.pass_on(body)
        with lock:
            state["in_flight"] += 1
        try:
            self.bulk(body, next_fault())
        finally:
            with lock:
                state["in_flight"] -= 1

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = serve

    def is_allowed(self):
        if not allowed:
            return True
        wanted = "Basic " + base64.b64encode(":".join(allowed).encode()).decode()
        return self.headers.get("authorization") == wanted

    def bulk(self, body, fault):
        if fault in ("429", "503"):
            return self.answer(int(fault), b"", {"retry-after": "1"} if fault == "429" else {})
        if fault == "unsent":
            return self.reset()
        answered = self.ask(body)
        if answered is None:
            return self.reset()
        status, headers, answer = answered
        with lock:
            state["busy_items"] += answer.count(b'"status":429')
        if fault is None:
            self.answer(status, answer, headers)
        elif fault == "done-503":
            self.answer(503, b"upstream timed out")
        elif fault == "hang":
            # Until the other end has had enough.
            self.connection.settimeout(120)
            try:
                self.connection.recv(1)
            except OSError:
                pass
            self.close_connection = True
        elif fault == "truncate":
            self.answer(status, answer[: len(answer) // 2], headers, length=len(answer))
            self.close_connection = True
        else:
            if fault == "rollover":
                roll_over(answer)
            self.reset()

    def pass_on(self, body):
        answered = self.ask(body)
        if answered is None:
            return self.reset()
        status, headers, answer = answered
        self.answer(status, answer, headers)

    def ask(self, body):
        """Status, headers and body of the node's answer; None if there is none."""
        kept = ("content-type", "content-encoding", "accept")
        headers = {name: value for name, value in self.headers.items() if name.lower() in kept}
        try:
            if self.node is None:
                self.node = http.client.HTTPConnection("127.0.0.1", upstream, timeout=120)
            self.node.request(self.command, self.path, body or None, headers)
            answer = self.node.getresponse()
            return answer.status, {"content-type": answer.headers.get("content-type", "")}, answer.read()
        except (OSError, http.client.HTTPException):
            self.node = None
            return None

    def answer(self, status, body, headers=None, length=None):
        lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body) if length is None else length}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items() if value]
        try:
            self.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if self.command == "HEAD" else body))
        except OSError:
            self.close_connection = True

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def roll_over(answer):
    # A backing index is called .ds-STREAM-NUMBER.
    found = re.search(rb'"_index":"\.ds-([^"]+)-\d+"', answer)
    if found:
        node = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
        node.request("POST", f"/{found[1].decode()}/_rollover")
        node.getresponse().read()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


server = Server(("127.0.0.1", 0), Proxy)
if tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_port, flush=True)
server.serve_forever()
