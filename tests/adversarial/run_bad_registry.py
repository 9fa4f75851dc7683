#!/usr/bin/env python3
"""Pulls from, or pushes to, every fault mode of bad_registry.py and judges what the client does.  python3, stdlib only.

  run_bad_registry.py --dist BINARY [--work DIR] [--only MODE[,MODE]] [--jobs 8] [--seconds 20] [-- FLAG...]

FLAGs stand before the command and set short timeouts.  Judged for each mode: the exit code (a set where more than
one is honest), that every blob in the store is what its name says, that no credential, cookie or body reached the
other host, that nothing secret or unprintable is in the output, no panic, peak memory, time.
Run it in a network namespace of its own (unshare --net): it brings the loopback up, and a client that follows a
redirect to a link-local address then reaches nothing.
"""
import argparse, base64, concurrent.futures, fcntl, gzip, hashlib, io, json, os, queue, random, re, resource
import shutil, signal, socket, struct, subprocess, sys, tarfile, tempfile, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dist", required=True)
parser.add_argument("--work")
parser.add_argument("--only", default="")
parser.add_argument("--jobs", type=int, default=8)
parser.add_argument("--seconds", type=float, default=20)
parser.add_argument("--rss-mib", type=int, default=128)
parser.add_argument("flags", nargs="*")
args = parser.parse_args()

NETWORK = 5
# Which exit codes are honest for a mode that must be refused; {5} where nothing is said.
CODES = {
    "len-short": {5, 6}, "len-long": {5, 6}, "len-two": {5, 6}, "infinite-blob": {6}, "infinite-manifest": {6},
    "huge-manifest": {6}, "wrong-blob": {6}, "wrong-manifest": {6}, "digest-header-evil": {6},
    "digest-header-other": {6}, "swap": {6}, "mt-lie": {6}, "html": {5, 6}, "html-401": {4}, "json-error": {3},
    "realm-file": {4}, "realm-meta": {4}, "realm-other": {4}, "realm-huge": {4, 5}, "realm-none": {4}, "realm-loop": {4},
    "realm-param": {4, 5}, "realm-scope": {0, 4}, "foreign": {3}, "basic-down": {4, 5}, "header-inject": {3, 5},
    "tag-moves": {0, 6}, "status-100": {0, 5}, "up-digest": {6}, "up-413": {5, 6}, "up-lost": {3, 5},
}
LEFT_OUT = re.compile(r"^tags-")
PUSHES = re.compile(r"^(up-|mount-lie$)")
LOGIN = base64.b64encode(b"user:secret").decode()


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(s, 0x8913, request))[1]
        if not flags & 1:
            fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))


def make_layout(path, seed=0):
    """Two layers; the second is the one the modes spoil."""
    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        os.makedirs(f"{path}/blobs/sha256", exist_ok=True)
        with open(f"{path}/blobs/sha256/{digest}", "wb") as f:
            f.write(data)
        return "sha256:" + digest, len(data)

    def layer(name, size):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = size, 1500000000
            tar.addfile(info, io.BytesIO(random.Random(size + seed).randbytes(size)))
        return out.getvalue()

    prefix = "application/vnd.oci.image."
    tars = [layer("small", 20_000), layer("big", 600_000)]
    layers = []
    for tar in tars:
        digest, size = blob(gzip.compress(tar, 1, mtime=0))
        layers.append({"mediaType": prefix + "layer.v1.tar+gzip", "digest": digest, "size": size})
    config = {"architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(t).hexdigest() for t in tars]}}
    digest, size = blob(json.dumps(config).encode())
    manifest = {"schemaVersion": 2, "mediaType": prefix + "manifest.v1+json", "layers": layers,
                "config": {"mediaType": prefix + "config.v1+json", "digest": digest, "size": size}}
    digest, size = blob(json.dumps(manifest).encode())
    with open(f"{path}/index.json", "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [{"mediaType": manifest["mediaType"], "digest": digest, "size": size,
                   "annotations": {"org.opencontainers.image.ref.name": "t"}}]}, f)
    with open(f"{path}/oci-layout", "w") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')
    return digest, len(layers) + 2, layers[-1]["digest"]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Server:
    """One bad registry of its own for each worker: its /v2/ answers as one mode at a time."""

    def __init__(self, layout, log):
        self.port, self.other = free_ports(2)
        self.log = log
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, f"{HERE}/bad_registry.py", layout, "--port", str(self.port),
             "--port2", str(self.other), "--log", log], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if "modes on" not in self.process.stdout.readline():
            sys.exit("the bad registry did not start")
        deadline = time.monotonic() + 10
        while True:  # it says so a moment before it listens
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise

    def as_mode(self, mode):
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_ping/{mode}", timeout=5).read()

    def lines(self):
        with open(self.log) as f:
            return [json.loads(line) for line in f]


def bad_blobs(root):
    wrong, count = [], 0
    top = f"{root}/content/blobs"
    for algorithm in os.listdir(top) if os.path.isdir(top) else []:
        for name in os.listdir(f"{top}/{algorithm}"):
            count += 1
            with open(f"{top}/{algorithm}/{name}", "rb") as f:
                if hashlib.new(algorithm, f.read()).hexdigest() != name:
                    wrong.append(name[:12])
    return wrong, count


def make_store(path):
    """A store with an image that the bad registry has nothing of."""
    make_layout(f"{path}/other", 1)
    with tarfile.open(f"{path}/other.tar", "w") as tar:
        for name in sorted(os.listdir(f"{path}/other")):
            tar.add(f"{path}/other/{name}", name)
    environment = {"PATH": os.environ["PATH"], "HOME": path, "DIST_ROOT": f"{path}/store"}
    subprocess.run([args.dist, "import", "--no-unpack", "--base-name", "localhost/other", f"{path}/other.tar"], env=environment,
                   check=True, capture_output=True)


def judge(mode, expect, server, manifest, blobs, big):
    root = tempfile.mkdtemp(dir=args.work, prefix=mode + ".")
    host = f"127.0.0.1:{server.port}"
    os.makedirs(f"{root}/home/.docker")
    with open(f"{root}/home/.docker/config.json", "w") as f:
        json.dump({"auths": {host: {"auth": LOGIN}}}, f)
    os.chmod(f"{root}/home/.docker/config.json", 0o600)
    environment = {"PATH": os.environ["PATH"], "HOME": f"{root}/home", "DIST_ROOT": f"{root}/store"}
    pushes = bool(PUSHES.match(mode))
    if pushes:
        shutil.copytree(f"{args.work}/store", f"{root}/store")
    if mode == "mount-lie":  # what was sent to another repository is taken from there
        subprocess.run([args.dist, *args.flags, "push", "localhost/other:t", f"{host}/ok/img:other"], env=environment, cwd=root,
                       check=True, capture_output=True)
    server.as_mode(mode)
    seen = len(server.lines())
    name = f"{host}/{mode}/img" + (f"@{manifest}" if mode == "swap" else ":t")
    with open(f"{root}/out", "wb") as out, open(f"{root}/err", "wb") as err:
        start = time.monotonic()
        process = subprocess.Popen([args.dist, *args.flags, *(["push", "localhost/other:t"] if pushes else ["pull"]), name], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                   env=environment, cwd=root, start_new_session=True)
        hang = False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > args.seconds:
                hang = True
                os.killpg(process.pid, signal.SIGKILL)
                _, status, usage = os.wait4(process.pid, 0)
                break
            time.sleep(0.01)
        process.returncode = 0
    took = time.monotonic() - start
    code = os.waitstatus_to_exitcode(status)
    server.as_mode("ok")
    with open(f"{root}/err", "rb") as f:
        said = f.read().decode("utf-8", "replace")
    with open(f"{root}/out", "rb") as f:
        text = said + f.read().decode("utf-8", "replace")
    lines = server.lines()[seen:]
    bad = []
    if hang:
        bad.append(f"still running after {args.seconds} s")
    elif code < 0:
        bad.append(f"ended by signal {-code}")
    if expect == "accept" and code:
        bad.append(f"refused what is good, exit {code}")
    if not hang and (expect == "reject" or mode in CODES):
        wanted = CODES.get(mode, {NETWORK})
        if code not in wanted:
            bad.append(f"exit {code}, wanted {sorted(wanted)}")
    if expect in ("contain", "no-leak") and code not in (0, 3, 4, 5, 6):
        bad.append(f"exit {code}")
    if code and not said.strip():
        bad.append("no message")
    if "panicked" in text:
        bad.append("panic")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text.replace("\r", "")):
        bad.append("control characters in the output")
    if "user:secret" in text or LOGIN in text:
        bad.append("the password is in the output")
    wrong, count = bad_blobs(f"{root}/store")
    if wrong:
        bad.append(f"wrong bytes under {wrong}")
    if code == 0 and count < blobs:
        bad.append(f"exit 0 with {count} of {blobs} blobs")
    if code and not hang and not pushes:
        named = subprocess.run([args.dist, "images", "-q"], env=environment, capture_output=True, text=True).stdout.strip()
        if named:
            bad.append(f"failed, and registered {named}")
    if usage.ru_maxrss >> 10 > args.rss_mib:
        bad.append(f"{usage.ru_maxrss >> 10} MiB of memory")
    for line in lines:
        if line["at"] == "OTHER" and (line["auth"] or line["cookie"] or (int(line["len"] or 0) and not pushes)):  # content may go where a registry says
            bad.append(f"LEAK: {line['method']} {line['path'][:60]} with {line['auth'] or line['cookie'] or 'a body'}")
        if "/token" in line["path"] and re.search("secret" if pushes else "secret|push", line["path"]):
            bad.append(f"asked for a token for {line['path'][:80]}")
    gets = [l for l in lines if l["at"] == "registry" and l["method"] == "GET" and big in l["path"]]
    if mode == "ok-cutresume" and not any(l["range"] for l in gets):
        bad.append("did not resume with a Range")
    if mode == "ok-token-expire" and sum(l["path"].startswith("/token/") for l in lines) > 4:
        bad.append("asked for tokens in a loop")
    if len(lines) > 200:
        bad.append(f"{len(lines)} requests")
    shutil.rmtree(root, ignore_errors=True)
    last = next((l for l in reversed(said.strip().splitlines()) if not l.startswith("hint:")), "")
    return mode, expect, code, took, bad, last


def main():
    loopback_up()
    temporary = None
    if not args.work:
        temporary = args.work = tempfile.mkdtemp(prefix="bad-registry.", dir="/var/tmp")
    os.makedirs(args.work, exist_ok=True)
    layout = f"{args.work}/layout"
    manifest, blobs, big = make_layout(layout)
    make_store(args.work)
    modes = json.loads(subprocess.run([sys.executable, f"{HERE}/bad_registry.py", "--list"], capture_output=True, check=True).stdout)
    modes = {m: v["expect"] for m, v in modes.items() if not LEFT_OUT.match(m) and (not args.only or m in args.only.split(","))}
    servers = queue.SimpleQueue()
    all_servers = [Server(layout, f"{args.work}/log-{i}") for i in range(min(args.jobs, len(modes)))]
    for server in all_servers:
        servers.put(server)

    def one(item):
        server = servers.get()
        try:
            return judge(*item, server, manifest, blobs, big)
        finally:
            servers.put(server)

    failed = 0
    try:
        with concurrent.futures.ThreadPoolExecutor(len(all_servers)) as pool:
            for mode, expect, code, took, bad, last in pool.map(one, modes.items()):
                failed += bool(bad)
                print(f"{'FAIL' if bad else 'PASS'} {mode:20} {expect:8} exit {code} {took:5.1f} s  {'; '.join(bad)} | {last[:150]}")
    finally:
        for server in all_servers:
            server.process.kill()
            server.process.wait()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    print(f"{len(modes)} modes, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
