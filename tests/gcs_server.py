"""A server on this machine that speaks the protocol of Google Cloud Storage, as far as gcsfs needs.

`gcs_server` gives what `STORAGE_EMULATOR_HOST` is set to. Objects are in memory. Unlike emulators
that can be had, it minds ranges and the condition that an object is not there yet.
"""

import contextlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PATH = r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o)?(?:/(.+))?"


class Bucket:
    """What the server keeps, and the requests that it got: (method, name).

    An object with `stalled` in its name isn't kept; `reached` is set then, and nothing answered.
    """

    stalled = None

    def __init__(self):
        self.reached = threading.Event()
        self.objects, self.requests, self.uploads = {}, [], {}
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket = None

    def log_message(self, *arguments):
        pass

    def answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def metadata(self, name):
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": "bucket",
            "size": str(len(self.bucket.objects[name])),
            "generation": "1",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def missing(self):
        self.answer(404, {"error": {"code": 404, "message": "Not Found"}})

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def parts(self):
        address = urlsplit(self.path)
        found = re.fullmatch(
            r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o)?(?:/(.+))?", address.path
        )
        options = {key: values[0] for key, values in parse_qs(address.query).items()}
        name = unquote(found[2]) if found and found[2] else options.get("name")
        self.bucket.requests.append((self.command, name))
        body = self.body()
        if found is None or unquote(found[1]) != "bucket":
            return None, None, None
        return name, options, body

    def do_GET(self):
        name, options, _ = self.parts()
        if options is None:
            return self.missing()
        if name is None and "/o" not in self.path:
            return self.answer(200, {"kind": "storage#bucket", "name": "bucket"})
        with self.bucket.lock:
            if name is None:
                return self.listing(options)
            if name not in self.bucket.objects:
                return self.missing()
            if options.get("alt") != "media":
                return self.answer(200, self.metadata(name))
            content = self.bucket.objects[name]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return self.answer(200, content, Content_Type="application/octet-stream")
        begin, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        end = min(end, len(content) - 1)
        if begin > end:
            return self.answer(416)
        span = f"bytes {begin}-{end}/{len(content)}"
        self.answer(206, content[begin : end + 1], Content_Range=span)

    def listing(self, options):
        begin, delimiter = options.get("prefix", ""), options.get("delimiter")
        items, folders = [], {}
        for name in sorted(self.bucket.objects):
            if not name.startswith(begin):
                continue
            rest = name[len(begin) :]
            if delimiter and delimiter in rest:
                folders[begin + rest.partition(delimiter)[0] + delimiter] = None
            else:
                items.append(self.metadata(name))
        self.answer(200, {"kind": "storage#objects", "items": items, "prefixes": list(folders)})

    def do_POST(self):
        name, options, body = self.parts()
        if options is None:
            return self.missing()
        if "upload_id" in options:
            return self.upload(options, body)
        if "/rewriteTo/" in (name or "") or "/copyTo/" in (name or ""):
            return self.copy(name)
        if options["uploadType"] == "multipart":
            mark = re.search(r'boundary="([^"]+)"', self.headers["Content-Type"])[1].encode()
            _, about, rest = body.split(b"--" + mark + b"\n", 2)
            content = rest.partition(b"\n\n")[2].removesuffix(b"\n--" + mark + b"--")
            return self.keep(json.loads(about.partition(b"\n\n")[2])["name"], content, options)
        number = str(len(self.bucket.uploads))
        self.bucket.uploads[number] = (name, b"")
        host = f"http://{self.headers['Host']}/upload/storage/v1/b/bucket/o"
        condition = "&ifGenerationMatch=0" if options.get("ifGenerationMatch") == "0" else ""
        address = f"{host}?uploadType=resumable&upload_id={number}{condition}"
        self.answer(200, b"", Location=address)

    def upload(self, options, body):
        name, before = self.bucket.uploads[options["upload_id"]]
        content = before + body
        self.bucket.uploads[options["upload_id"]] = (name, content)
        if (self.headers.get("Content-Range") or "").endswith("/*"):
            return self.answer(308, Range=f"bytes=0-{len(content) - 1}")
        self.keep(name, content, options)

    def keep(self, name, content, options):
        if self.bucket.stalled is not None and self.bucket.stalled in name:
            self.bucket.reached.set()
            self.close_connection = True
            self.rfile.read(1)  # until the client has gone
            return None
        with self.bucket.lock:
            if options.get("ifGenerationMatch") == "0" and name in self.bucket.objects:
                said = {"code": 412, "message": "conditionNotMet"}
                return self.answer(412, {"error": said})
            self.bucket.objects[name] = content
        return self.answer(200, self.metadata(name))

    def copy(self, name):
        source, target = re.fullmatch(r"(.+)/(?:rewriteTo|copyTo)/b/bucket/o/(.+)", name).groups()
        with self.bucket.lock:
            self.bucket.objects[target] = self.bucket.objects[source]
            self.answer(200, {"done": True, "resource": self.metadata(target)})

    def do_DELETE(self):
        name, options, _ = self.parts()
        with self.bucket.lock:
            if options is None or self.bucket.objects.pop(name, None) is None:
                return self.missing()
        self.answer(204)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client may leave before its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def gcs_server():
    """A context with the address of a server, and the `Bucket` called "bucket" that it keeps."""
    bucket = Bucket()
    handler = type("HandlerOfOne", (Handler,), {"bucket": bucket})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
