"""A server on this machine with the few answers of the Hugging Face Hub that saving and loading ask
for; what is uploaded lies in `files`."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

SHA = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def hub():
    """The address of a running server, and its files, {repository: {name: bytes}}."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.files, server.asked = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server
    finally:
        server.shutdown()
        server.server_close()


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = self._path()
        if path == ["api", "repos", "create"]:
            sent = json.loads(body)
            name = "/".join(filter(None, [sent.get("organization"), sent["name"]]))
            self.server.files.setdefault(name, {})
            self._json({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
        elif path == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif path[:2] == ["api", "models"] and path[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files, "commitOid": SHA})
        elif path[:2] == ["api", "models"] and path[4] == "commit":
            rows = [row["value"] for row in map(json.loads, body.splitlines())
                    if row["key"] == "file"]  # fmt: skip
            content = {row["path"]: base64.b64decode(row["content"]) for row in rows}
            self.server.files["/".join(path[2:4])] |= content
            self._json(
                {"commitUrl": f"http://{self.headers['Host']}/ada/x/commit/{SHA}", "commitOid": SHA}
            )
        else:
            self._nothing()

    def do_GET(self):
        path = self._path()
        if path[:2] == ["api", "models"]:
            self._about("/".join(path[2:4]), path[4:])
        elif len(path) > 4 and path[2] == "resolve":
            self._file("/".join(path[:2]), "/".join(path[4:]))
        else:
            self._nothing()

    do_HEAD = do_GET

    def _about(self, name, rest):
        files = self.server.files.get(name)
        if files is None:
            self._nothing()
        elif rest[:1] == ["tree"]:
            self._json([
                {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}
                for path, content in files.items()
            ])  # fmt: skip
        else:
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "modelId": name, "sha": SHA, "siblings": siblings,
                        "private": False, "tags": [], "downloads": 0})  # fmt: skip

    def _file(self, name, path):
        content = self.server.files.get(name, {}).get(path)
        if content is None:
            return self._nothing()
        self._answer(200, content, {"X-Repo-Commit": SHA, "ETag": f'"{_digest(content)}"'})

    def _path(self):
        self.server.asked.append(f"{self.command} {self.path}")
        return urllib.parse.unquote(urllib.parse.urlparse(self.path).path).strip("/").split("/")

    def _json(self, value):
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _nothing(self):
        self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _answer(self, code, content, headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def _digest(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
