#!/usr/bin/env python3
"""A token server for docker-registry 2.8: RS256 JSON Web Tokens, signed by openssl.

  token_server.py --cert CA.pem --key CA.key --login USER:PASSWORD
                  [--valid SECONDS] [--claim SECONDS] [--log FILE] [--anonymous]

GET /token?service=&scope=...   with Basic credentials
POST /token                     OAuth2: grant_type=password or refresh_token
The registry allows 60 s of clock skew; "--valid" takes that into account, so a token is refused
after that many seconds indeed, whatever "--claim" (expires_in) told the client.
"""
import argparse, base64, json, os, subprocess, time, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--cert", required=True)
parser.add_argument("--key", required=True)
parser.add_argument("--login", required=True)
parser.add_argument("--valid", type=int, default=300)
parser.add_argument("--claim", type=int, default=300)
parser.add_argument("--log", default="/dev/null")
parser.add_argument("--anonymous", action="store_true", help="pull tokens for everyone")
args = parser.parse_args()
LEEWAY = 60
REFRESH = "refresh-" + base64.urlsafe_b64encode(os.urandom(9)).decode()
USER, PASSWORD = args.login.split(":", 1)
CHAIN = ["".join(line.strip() for line in open(args.cert) if "-----" not in line)]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(access, account):
    now = int(time.time())
    header = {"typ": "JWT", "alg": "RS256", "x5c": CHAIN}
    claims = {
        "iss": "test-issuer", "aud": "test-registry", "sub": account, "jti": b64(os.urandom(9)),
        "iat": now, "nbf": now - LEEWAY, "exp": now + args.valid - LEEWAY, "access": access,
    }
    body = ".".join(b64(json.dumps(part).encode()) for part in (header, claims))
    signature = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", args.key], input=body.encode(), capture_output=True, check=True
    ).stdout
    return body + "." + b64(signature)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def grant(self, account, allowed, scopes):
        access = []
        for scope in " ".join(scopes).split():
            kind, rest = scope.split(":", 1)
            name, actions = rest.rsplit(":", 1)
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        with open(args.log, "a") as log:
            log.write(json.dumps({"method": self.command, "account": account, "scopes": scopes, "allowed": allowed}) + "\n")
        if not allowed:
            return self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong user or password"}]})
        token = sign(access, account)
        body = {"token": token, "access_token": token, "expires_in": args.claim}
        if self.command == "POST":
            body["refresh_token"] = REFRESH
        self.answer(200, body)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        header = self.headers.get("Authorization") or ""
        account, allowed = "", args.anonymous
        if header.startswith("Basic "):
            account, _, password = base64.b64decode(header[6:]).decode().partition(":")
            allowed = (account, password) == (USER, PASSWORD)
        self.grant(account, allowed, query.get("scope", []))

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        first = lambda key: form.get(key, [""])[0]
        if first("grant_type") == "refresh_token":
            account, allowed = "", first("refresh_token") == REFRESH
        else:
            account, allowed = first("username"), (first("username"), first("password")) == (USER, PASSWORD)
        self.grant(account, allowed, form.get("scope", []))


ThreadingHTTPServer.daemon_threads = True
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("listening on %s:%d" % server.server_address, flush=True)
server.serve_forever()
