"""A stand-in for OpenSearch that only counts: takes every bulk, keeps nothing. Prints its port; GET /count says how many documents came."""
import http.server
import json
import threading
import zlib

lock = threading.Lock()
documents = 0


class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def serve(self):
        global documents
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.startswith(("/_bulk", "/app/_bulk")):
            if self.headers.get("content-encoding") == "gzip":
                body = zlib.decompress(body, 31)
            count = body.count(b"\n") // 2
            with lock:
                documents += count
            what = b"create" if body.startswith(b'{"create"') else b"index"
            item = b'{"%s":{"_index":".ds-app-000001","status":201}}' % what
            answer = b'{"took":1,"errors":false,"items":[' + b",".join([item] * count) + b"]}"
        elif self.path.startswith("/_data_stream/"):
            answer = b'{"data_streams":[{"indices":[{"index_name":".ds-app-000001"}]}]}'
        elif self.path == "/count":
            answer = json.dumps(documents).encode()
        else:
            answer = b'{"acknowledged":true}'
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
        self.wfile.write(head.encode() + (b"" if self.command == "HEAD" else answer))

    do_GET = do_POST = do_PUT = do_HEAD = serve


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", 0), Sink)
print(server.server_port, flush=True)
server.serve_forever()
