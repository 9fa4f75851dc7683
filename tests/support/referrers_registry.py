#!/usr/bin/env python3
"""A registry with the referrers API: passes everything on to a docker-registry, which has none, and lists
what refers to a manifest itself (distribution-spec 1.1, "Listing Referrers").  python3, stdlib only.

  referrers_registry.py --upstream HOST:PORT [--page N]

No package of Debian 12 offers a registry that does. Manifests with a subject that pass here are known; so they
are lost when this ends.
"""
import argparse, hashlib, http.client, json, re, sys, threading, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--upstream", required=True)
parser.add_argument("--page", type=int, default=2, help="entries of a page")
args = parser.parse_args()
INDEX = "application/vnd.oci.image.index.v1+json"
known, lock = {}, threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = next((v for n, v in headers if n.lower() == "content-length"), None)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def referrers(self, repository, digest, query):
        with lock:
            found = list(known.get((repository, digest), {}).values())
        headers = [("Content-Type", INDEX)]
        kind = query.get("artifactType", [None])[0]
        if kind:
            found = [entry for entry in found if entry.get("artifactType") == kind]
            headers.append(("OCI-Filters-Applied", "artifactType"))
        start = int(query.get("from", ["0"])[0])
        if start + args.page < len(found):
            headers.append(("Link", f'</v2/{repository}/referrers/{digest}?from={start + args.page}>; rel="next"'))
        page = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found[start:start + args.page]}
        self.answer(200, headers, json.dumps(page).encode())

    def read(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def go(self):
        url = urllib.parse.urlsplit(self.path)
        asked = re.fullmatch(r"/v2/(.+)/referrers/(sha256:[0-9a-f]{64})", url.path)
        if asked and self.command == "GET":
            return self.referrers(asked[1], asked[2], urllib.parse.parse_qs(url.query))
        body = self.read()
        upstream = http.client.HTTPConnection(args.upstream)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "transfer-encoding")}
        if accept := self.headers.get_all("Accept"):
            headers["Accept"] = ", ".join(accept)  # clients send one line each
        upstream.request(self.command, self.path, body, headers)
        response = upstream.getresponse()
        headers, content = response.getheaders(), response.read()
        upstream.close()
        put = re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", url.path)
        if put and self.command == "PUT" and response.status == 201:
            document = json.loads(body)
            if subject := document.get("subject"):
                digest = "sha256:" + hashlib.sha256(body).hexdigest()
                entry = {"mediaType": document.get("mediaType"), "digest": digest, "size": len(body),
                         "artifactType": document.get("artifactType") or document["config"]["mediaType"],
                         "annotations": document.get("annotations") or {}}
                with lock:
                    known.setdefault((put[1], subject["digest"]), {})[digest] = entry
                headers.append(("OCI-Subject", subject["digest"]))
        self.answer(response.status, headers, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = go


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on 127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
