#!/usr/bin/env python3
"""A model hub on 127.0.0.1 that misbehaves on purpose. Standard library only.

Prints "HUB_PORT CDN_PORT" and serves until its standard input closes. Two servers: the hub, and a "CDN"
of another origin that large files are redirected to. Tests talk to it by two more paths of the hub:

  POST /_control  {"repos": {id: {"files": {name: {"size": n, "seed": s} | {"text": t}}, "refs": {...}}},
                   "faults": [{"match": regexp on "METHOD path", "times": n, "do": kind, ...}], "reset": true}
  GET  /_log      [{"server", "method", "path", "range", "authorization", "sent"}]

Faults (the first that matches and has times left; times -1 is for ever):
  status      {"status", "headers", "error_code"}    answer so
  truncate    {"after"}      promise the whole body, close after so many bytes
  short       {"after"}      promise and send only so many bytes
  no_range    ignore Range: 200 and the whole file
  corrupt     one byte of the body is another
  wrong_range 206 with another Content-Range than asked
  etag        {"value"}      serve under another ETag
  trickle     {"bytes", "pause_s"}   so many bytes at a time
  stall       {"after", "pause_s"}   say nothing for a while in the middle
  reset       close without an answer
"""
import hashlib
import http.server
import json
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse

GATED_TOKEN = "hf_right"


def content(spec):
    """The bytes of a file: given text, or noise that a seed decides."""
    if "text" in spec:
        return spec["text"].encode()
    block = hashlib.sha256(str(spec.get("seed", 0)).encode()).digest()
    out = bytearray()
    counter = 0
    while len(out) < spec["size"]:
        out += hashlib.sha256(block + counter.to_bytes(8, "big")).digest() * 8
        counter += 1
    return bytes(out[: spec["size"]])


class File:
    def __init__(self, spec):
        self.data = content(spec)
        self.lfs = spec.get("lfs", "size" in spec)
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        self.git_sha1 = hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()
        self.listed_size = spec.get("listed_size", len(self.data))
        self.linked_size = spec.get("linked_size", len(self.data))
        self.listed = spec.get("listed", True)
        self.has_checksum = spec.get("checksum", True)
        self.etag = spec.get("etag", self.sha256 if self.lfs else self.git_sha1)


class World:
    def __init__(self):
        self.lock = threading.Lock()
        self.clear()

    def clear(self):
        self.repos, self.faults, self.log = {}, [], []

    def control(self, message):
        with self.lock:
            if message.get("reset"):
                self.clear()
            for repo_id, spec in message.get("repos", {}).items():
                files = {name: File(file) for name, file in spec.get("files", {}).items()}
                text = repo_id + json.dumps(spec, sort_keys=True)
                commit = spec.get("commit", hashlib.sha1(text.encode()).hexdigest())
                self.repos[repo_id] = {"files": files, "commit": commit, "gated": spec.get("gated", False),
                                       "private": spec.get("private", False),
                                       "refs": spec.get("refs", ["main"]), "moved": spec.get("moved")}
            if "faults" in message:
                self.faults = [dict(fault, times=fault.get("times", 1)) for fault in message["faults"]]

    def fault_for(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault["times"] != 0 and re.search(fault["match"], f"{method} {path}"):
                    fault["times"] -= 1
                    return fault
        return {"do": "none"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world = None
    name = ""
    cdn_port = 0

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.world.control(json.loads(body))
        self.answer(200, b"{}")

    def do_HEAD(self):
        self.handle_request(True)

    def do_GET(self):
        if self.path == "/_log":
            with self.world.lock:
                text = json.dumps(self.world.log)
            self.answer(200, text.encode())
            return
        self.handle_request(False)

    def handle_request(self, head):
        path = urllib.parse.unquote(self.path)
        self.entry = {"server": self.name, "method": self.command, "path": path, "range": self.headers["Range"],
                      "authorization": self.headers["Authorization"], "sent": 0}
        with self.world.lock:
            self.world.log.append(self.entry)
        fault = self.world.fault_for(self.command, path)
        if fault["do"] == "reset":
            # Linger of zero: the peer sees a reset, as with a server that died.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        if fault["do"] == "status":
            headers = dict(fault.get("headers", {}))
            if "error_code" in fault:
                headers["X-Error-Code"] = fault["error_code"]
            self.answer(fault["status"], b"trouble", headers)
            return
        if self.name == "cdn":
            self.serve_cdn(path, head, fault)
        elif match := re.fullmatch(r"/api/models/(.+?)/revision/([^?]+)(\?.*)?", path):
            self.serve_listing(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/(.+?)/tree/([^?/]+)(\?.*)?", path):
            self.serve_tree(match[1], match[2])
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self.serve_resolve(match[1], match[2], match[3], head, fault)
        else:
            self.answer(404, b"")

    def find_repo(self, repo_id):
        """The repository if this request may see it; else answers and returns None."""
        repo = self.world.repos.get(repo_id)
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if repo is None or (repo["private"] and token != GATED_TOKEN):
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        return repo

    def serve_listing(self, repo_id, revision):
        repo = self.find_repo(repo_id)
        if repo is None:
            return
        if repo["moved"]:
            self.answer(307, b"", {"Location": f"/api/models/{repo['moved']}/revision/{revision}?blobs=true"})
            return
        if revision not in repo["refs"] and revision != repo["commit"]:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for name, file in repo["files"].items():
            if not file.listed:
                continue
            entry = {"rfilename": name, "size": file.listed_size}
            if file.has_checksum:
                entry["blobId"] = file.git_sha1
            if file.lfs:
                entry["lfs"] = {"sha256": file.sha256, "size": file.listed_size, "pointerSize": 134}
            siblings.append(entry)
        self.answer(200, json.dumps({"id": repo_id, "sha": repo["commit"], "siblings": siblings}).encode(),
                    {"Content-Type": "application/json"})

    def serve_tree(self, repo_id, revision):
        repo = self.find_repo(repo_id)
        if repo is None:
            return
        entries = []
        for name, file in repo["files"].items():
            entry = {"type": "file", "path": name, "size": len(file.data), "oid": file.git_sha1}
            if file.lfs:
                entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": 134}
            entries.append(entry)
        self.answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def serve_resolve(self, repo_id, commit, name, head, fault):
        repo = self.find_repo(repo_id)
        if repo is None:
            return
        if repo["moved"]:
            self.answer(307, b"", {"Location": f"/{repo['moved']}/resolve/{commit}/{urllib.parse.quote(name)}"})
            return
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if repo["gated"] and token != GATED_TOKEN:
            self.answer(403 if token else 401, b"", {"X-Error-Code": "GatedRepo",
                                                     "X-Error-Message": "Access to this model is restricted"})
            return
        file = repo["files"].get(name)
        if file is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": repo["commit"]}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.linked_size),
                        "Location": f"http://127.0.0.1:{self.cdn_port}/{repo_id}/{file.sha256}?signature=1"}
            self.answer(302, b"", headers)
            return
        headers["ETag"] = f'W/"{file.etag}"'
        self.send_file(file, head, fault, headers)

    def serve_cdn(self, path, head, fault):
        match = re.fullmatch(r"/(.+)/([0-9a-f]{64})\?signature=1", path)
        repo = self.world.repos.get(match[1]) if match else None
        for file in repo["files"].values() if repo else ():
            if file.sha256 == match[2]:
                self.send_file(file, head, fault, {"ETag": '"cdn"'})
                return
        self.answer(404, b"")

    def send_file(self, file, head, fault, headers):
        data = file.data
        status = 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if asked and fault["do"] != "no_range":
            first = int(asked[1])
            last = min(int(asked[2]) if asked[2] else len(data) - 1, len(data) - 1)
            if first >= len(data):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            shift = 1 if fault["do"] == "wrong_range" else 0
            headers = dict(headers, **{"Content-Range": f"bytes {first + shift}-{last + shift}/{len(data)}"})
            data = data[first : last + 1]
        if fault["do"] == "etag":
            headers = dict(headers, ETag=fault["value"])
        if fault["do"] == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        promised = len(data)
        if fault["do"] == "short":
            data = data[: fault["after"]]
            promised = len(data)
        if fault["do"] == "truncate":
            data = data[: fault["after"]]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        if head:
            return
        self.send_body(data, fault)
        if len(data) < promised:
            self.close_connection = True

    def send_body(self, data, fault):
        step = fault["bytes"] if fault["do"] == "trickle" else 1 << 16
        for begin in range(0, len(data), step):
            if fault["do"] == "stall" and begin >= fault["after"]:
                time.sleep(fault["pause_s"])
            try:
                self.wfile.write(data[begin : begin + step])
            except OSError:
                self.close_connection = True
                return
            self.entry["sent"] += len(data[begin : begin + step])
            if fault["do"] == "trickle":
                time.sleep(fault["pause_s"])

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients may go away; bugs may not hide
            super().handle_error(request, client_address)


def start(world, name, cdn_port=0):
    handler = type(name, (Handler,), {"world": world, "name": name, "cdn_port": cdn_port})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def main():
    world = World()
    cdn_port = start(world, "cdn")
    hub_port = start(world, "hub", cdn_port)
    sys.stdout.write(f"{hub_port} {cdn_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
