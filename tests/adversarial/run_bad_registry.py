#!/usr/bin/env python3
"""Pulls from every fault mode of bad_registry.py with `dist` and judges what it does.  python3, stdlib only.

  run_bad_registry.py --dist target/release/dist [--only SUBSTR] [--jobs 8]

Every mode gets a store of its own and short timeouts. Judged: the exit code (a set of right ones for each
mode), the time, the memory, the output (no panic, no raw control characters, no secret), the store afterwards (every
blob has the digest of its name, no image was registered by a failed pull) and the log of the registry (no
credential or cookie reached the other host, no token was asked for a foreign scope). Upload and tag-list
modes are for other commands and left out.
"""
import argparse, concurrent.futures, hashlib, io, json, os, re, shutil, signal, socket, subprocess, sys, tarfile, tempfile, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
OK, NOT_FOUND, AUTH, NETWORK, CONTENT = 0, 3, 4, 5, 6
LIMIT_SECONDS, LIMIT_RSS_MIB = 45, 128
# What may be the exit code of each mode; anything else is a failure.
CODES = {
    "slow-head": {NETWORK}, "slow-body": {NETWORK}, "stall": {NETWORK}, "slow-manifest": {NETWORK}, "cut": {NETWORK},
    "cut-tls": {NETWORK}, "len-short": {NETWORK, CONTENT}, "len-long": {NETWORK, CONTENT}, "len-bad": {NETWORK}, "len-two": {NETWORK, CONTENT},
    "infinite-blob": {CONTENT}, "infinite-manifest": {CONTENT}, "infinite-header": {NETWORK}, "huge-manifest": {CONTENT},
    "wrong-blob": {CONTENT}, "wrong-manifest": {CONTENT}, "digest-header-evil": {CONTENT}, "digest-header-other": {CONTENT},
    "swap": {CONTENT}, "tag-moves": {OK, CONTENT}, "mt-lie": {CONTENT}, "mt-none": {OK, CONTENT, NETWORK},
    "html": {NETWORK, CONTENT}, "html-401": {AUTH}, "json-error": {NOT_FOUND}, "encoding": {OK, NETWORK, CONTENT},
    "range-lie": {OK, NETWORK, CONTENT}, "range-total": {OK, NETWORK, CONTENT},
    "redirect-loop": {NETWORK}, "redirect-many": {NETWORK}, "redirect-file": {NETWORK}, "redirect-meta": {NETWORK}, "redirect-crlf": {NETWORK},
    "redirect-auth": {OK, AUTH, NETWORK}, "redirect-back": {OK, AUTH, NETWORK}, "cookie": {OK, NETWORK}, "basic-down": {AUTH, NETWORK},
    "realm-other": {AUTH}, "realm-file": {AUTH}, "realm-meta": {AUTH}, "realm-scope": {OK, AUTH}, "realm-huge": {AUTH, NETWORK}, "realm-none": {AUTH},
    "realm-loop": {AUTH}, "realm-param": {AUTH, NETWORK}, "retry-far": {NETWORK}, "retry-bad": {NETWORK},
    "status-100": {OK, NETWORK}, "status-600": {NETWORK}, "no-status": {NETWORK}, "http2-preface": {NETWORK}, "header-inject": {NOT_FOUND, NETWORK},
    "foreign": {NOT_FOUND},
}
LEFT_OUT = re.compile(r"^(up-|tags-|mount-lie$)")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def layout(root):
    """An image of three layers with a body large enough to be cut, as an OCI layout."""
    blobs = os.path.join(root, "blobs", "sha256")
    os.makedirs(blobs)

    def put(data):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as f:
            f.write(data)
        return "sha256:" + digest

    layers, diffs = [], []
    for number, size in ((0, 10), (1, 5000), (2, 300_000)):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo(f"file{number}")
            info.size = size
            tar.addfile(info, io.BytesIO(hashlib.shake_128(b"%d" % number).digest(size)))
        data = out.getvalue()
        diffs.append(put(data))
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diffs[-1], "size": len(data)})
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                           "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(config), "size": len(config)}, "layers": layers}).encode()
    index = {"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": put(manifest), "size": len(manifest),
                                                "annotations": {"org.opencontainers.image.ref.name": "t"}}]}
    with open(os.path.join(root, "index.json"), "w") as f:
        json.dump(index, f)
    with open(os.path.join(root, "oci-layout"), "w") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


def check_store(root):
    bad = []
    base = os.path.join(root, "content", "blobs")
    for folder, _, names in os.walk(base):
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                if hashlib.new(os.path.basename(folder), f.read()).hexdigest() != name:
                    bad.append(f"blob {name[:12]} is not what its name says")
    return bad


def run(dist, mode, port, manifest, work):
    root = os.path.join(work, mode)
    name = f"127.0.0.1:{port}/{mode}/img" + (f"@{manifest}" if mode == "swap" else ":t")
    command = [dist, "--root", root, "pull", "--progress", "none", "--user", "user:secret", "--platform", "linux/amd64", "--connect-timeout", "1s",
                "--stall-timeout", "1s", "--retries", "3", "--retry-delay", "50ms", name]
    started = time.time()
    out = tempfile.TemporaryFile()
    err = tempfile.TemporaryFile()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                               env={k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")})
    status = usage = None
    while time.time() - started < LIMIT_SECONDS:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.01)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    seconds = time.time() - started
    text = []
    for stream in (out, err):
        stream.seek(0)
        text.append(stream.read(1 << 20).decode("utf-8", "replace"))
        stream.close()
    bad = []
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    if seconds >= LIMIT_SECONDS:
        bad.append(f"ran longer than {LIMIT_SECONDS} s")
    elif code not in CODES.get(mode, {OK}):
        bad.append(f"exit code {code}, right would be {sorted(CODES.get(mode, {OK}))}")
    if usage.ru_maxrss >> 10 > LIMIT_RSS_MIB:
        bad.append(f"{usage.ru_maxrss >> 10} MiB of memory")
    joined = "".join(text)
    if re.search(r"panicked at|RUST_BACKTRACE", joined):
        bad.append("panic")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", joined):
        bad.append("raw control characters in the output")
    if "secret" in joined.replace("other/secret", "") or "Bearer good" in joined:
        bad.append("a secret in the output")
    if code and not text[1].strip():
        bad.append("no message")
    bad += check_store(root)
    if code and subprocess.run([dist, "--root", root, "images", "-q"], capture_output=True, text=True).stdout.strip():
        bad.append("a failed pull registered an image")
    last = next((line for line in reversed(text[1].splitlines()) if line.strip()), "")
    first = next((line for line in text[1].splitlines() if line.startswith("dist:") or line.startswith("error")), last)
    return mode, code, seconds, bad, first


def leaks(log):
    found = []
    with open(log) as f:
        for line in f:
            record = json.loads(line)
            if record["at"] == "OTHER" and (record["auth"] or record["cookie"]):
                found.append(f"{record['path']} on the other host got {record['auth'] or record['cookie']}")
            if "/token/" in record["path"] and re.search(r"secret|push", record["path"]):
                found.append(f"a token was asked for with {record['path']}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=8)
    args = parser.parse_args()
    dist = os.path.abspath(args.dist)
    work = tempfile.mkdtemp(prefix="dist-bad-registry-", dir="/var/tmp")
    server = None
    try:
        manifest = layout(os.path.join(work, "layout"))
        registry = os.path.join(HERE, "bad_registry.py")
        modes = json.loads(subprocess.run([sys.executable, registry, "--list"], capture_output=True, text=True, check=True).stdout)
        modes = [m for m in modes if not LEFT_OUT.match(m) and args.only in m]
        port, port2, log = free_port(), free_port(), os.path.join(work, "log")
        open(log, "w").close()
        server = subprocess.Popen([sys.executable, registry, os.path.join(work, "layout"), "--port", str(port), "--port2", str(port2), "--log", log],
                                  stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        deadline = time.time() + 10
        while time.time() < deadline:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/_ping/ok", timeout=1).read()
                break
            except OSError:
                pass
        passed = failed = 0
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for mode, code, seconds, bad, last in pool.map(lambda m: run(dist, m, port, manifest, work), modes):
                passed, failed = (passed, failed + 1) if bad else (passed + 1, failed)
                print(f"{'FAIL' if bad else 'ok  '} {mode:20} rc={code:<3} {seconds:5.1f}s {'; '.join(bad)}  | {ascii(last)[1:-1][:200]}", flush=True)
        found = leaks(log)
        for leak in found:
            print("LEAK", leak)
        print(f"{passed} passed, {failed + len(found)} failed")
        return 1 if failed or found else 0
    finally:
        if server:
            server.terminate()
            server.wait()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
