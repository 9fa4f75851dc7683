#!/usr/bin/env python3
"""Cuts the power at the flush points of eight pulls and checks what is left.  python3, root, crash_rig.py's tools.

  power_cut.py --dist target/release/dist [--durability content] [--points flushes|marks] [--images 8]

Eight images are pulled from a real registry onto an ext4 whose every block write is recorded. At each chosen
point the disk is rebuilt from what had been flushed by then, mounted, and looked at as after a reboot (another
boot id). Every image whose pull had exited 0 must be registered, every blob must have the digest of its name,
and every root must come out whole, without a network: as it was, or rebuilt from its blobs.
"""
import argparse, hashlib, io, json, os, shutil, signal, socket, stat, subprocess, sys, tarfile, tempfile, time, urllib.request, uuid

HERE = os.path.dirname(os.path.abspath(__file__))
RIG = os.path.join(HERE, "crash_rig.py")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
FILES = 60


def sh(*command, **more):
    return subprocess.run(command, check=True, text=True, capture_output=True, **more).stdout


def layer(seed, prefix):
    """A tar of FILES small files; returns it with the tree it makes."""
    out, tree = io.BytesIO(), {}
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(FILES):
            data = hashlib.shake_128(f"{seed} {number}".encode()).digest(100 + number * 211 % 9000)
            info = tarfile.TarInfo(f"{prefix}/d{number % 7}/f{number}")
            info.size, info.mode, info.mtime = len(data), 0o640, 1_000_000_000 + number
            tar.addfile(info, io.BytesIO(data))
            tree[info.name] = hashlib.sha256(data).hexdigest()
    return out.getvalue(), tree


def make_images(work, count):
    """`count` images with a common base as OCI layouts, and the trees that they stand for."""
    trees = {}
    base, base_tree = layer("base", "base")
    for number in range(count):
        root = os.path.join(work, f"image{number}")
        blobs = os.path.join(root, "blobs", "sha256")
        os.makedirs(blobs)

        def put(data, media_type):
            digest = hashlib.sha256(data).hexdigest()
            with open(os.path.join(blobs, digest), "wb") as f:
                f.write(data)
            return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

        own, own_tree = layer(f"image {number}", "own")
        layers = [put(data, "application/vnd.oci.image.layer.v1.tar") for data in (base, own)]
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "n": number,
                             "rootfs": {"type": "layers", "diff_ids": [d["digest"] for d in layers]}}).encode()
        manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                               "config": put(config, "application/vnd.oci.image.config.v1+json"), "layers": layers}).encode()
        target = put(manifest, "application/vnd.oci.image.manifest.v1+json")
        target["annotations"] = {"org.opencontainers.image.ref.name": "t"}
        with open(os.path.join(root, "index.json"), "w") as f:
            json.dump({"schemaVersion": 2, "manifests": [target]}, f)
        with open(os.path.join(root, "oci-layout"), "w") as f:
            f.write('{"imageLayoutVersion":"1.0.0"}')
        trees[f"image{number}"] = {"manifest": target["digest"], "files": {**base_tree, **own_tree}}
    return trees


class Registry:
    def __init__(self, work):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        config = os.path.join(work, "registry.yml")
        with open(config, "w") as f:
            f.write(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
                    f"storage: {{filesystem: {{rootdirectory: {work}/registry}}}}\nhttp: {{addr: 127.0.0.1:{self.port}}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 20
        while True:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{self.port}/v2/", timeout=1)
                return
            except OSError:
                if time.time() > deadline:
                    raise

    def stop(self):
        self.process.terminate()
        self.process.wait()


def record(args, work):
    trees = make_images(work, args.images)
    registry = Registry(work)
    rig = os.path.join(work, "rig")
    started = False
    try:
        for name in trees:
            sh("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{work}/{name}:t", f"docker://127.0.0.1:{registry.port}/power/{name}:t")
        sh(sys.executable, RIG, "start", rig, "--size-mib", "256")
        started = True
        for name in trees:
            reference = f"127.0.0.1:{registry.port}/power/{name}:t"
            trees[name]["reference"] = reference
            subprocess.run([args.dist, "--root", f"{rig}/mnt/root", "--durability", args.durability, "pull", "--progress", "none",
                            "--platform", "linux/amd64", reference], check=True, stdout=subprocess.DEVNULL)
            sh(sys.executable, RIG, "mark", rig, name)
    finally:
        if started:
            sh(sys.executable, RIG, "stop", rig)
        registry.stop()
    with open(os.path.join(work, "trees.json"), "w") as f:
        json.dump(trees, f)
    return rig


def tree_of(root):
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb") as f:
                    found[os.path.relpath(path, root)] = hashlib.sha256(f.read()).hexdigest()
    return found


def check(args):
    """Runs in a mount namespace of its own, with another boot id, on one rebuilt disk."""
    root, failures = os.path.join(args.check, "root"), []
    with open(args.trees) as f:
        trees = json.load(f)
    acknowledged = [name for name in os.environ.get("RIG_ACKED", "").split("\n") if name in trees]
    if not acknowledged and not os.path.isdir(root):
        return 0

    def dist(*command):
        return subprocess.run([args.dist, "--root", root, *command], text=True, capture_output=True)

    listed = dist("images", "-q")
    if listed.returncode and acknowledged:
        failures.append(f"images: {listed.stderr.strip()}")
    names = listed.stdout.split()
    for name in acknowledged:
        if trees[name]["reference"] not in names:
            failures.append(f"{name}: acknowledged, not registered")
    for digest in dist("list", "-q").stdout.split():
        path = dist("path", digest).stdout.strip()
        algorithm, _, wanted = digest.partition(":")
        try:
            with open(path, "rb") as f:
                if hashlib.new(algorithm, f.read()).hexdigest() != wanted:
                    failures.append(f"{digest}: other bytes")
        except OSError as error:
            failures.append(f"{digest}: {error}")
    for name, tree in trees.items():
        if tree["reference"] not in names:
            continue
        unpacked = dist("rootfs", "unpack", tree["manifest"])
        if unpacked.returncode:
            failures.append(f"{name}: rootfs unpack: {unpacked.stderr.strip()}")
            continue
        chain = unpacked.stdout.split()[-1]
        with tempfile.TemporaryDirectory(dir="/var/tmp") as target:
            commands = dist("rootfs", "prepare", "--view", "--target", target, chain, f"check-{name}")
            mounted = subprocess.run(["sh", "-e", "-c", commands.stdout], text=True, capture_output=True)
            try:
                if commands.returncode or mounted.returncode:
                    failures.append(f"{name}: rootfs prepare: {commands.stderr.strip()} {mounted.stderr.strip()}")
                elif tree_of(target) != tree["files"]:
                    found = tree_of(target)
                    wrong = [f for f, digest in tree["files"].items() if found.get(f) != digest]
                    failures.append(f"{name}: {len(wrong)} of {len(tree['files'])} files lost or wrong, first {wrong[:1]}")
            finally:
                subprocess.run(["umount", target], capture_output=True)
    for failure in failures:
        print(f"{os.environ.get('RIG_ENTRY')}: {failure}", flush=True)
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", required=True)
    parser.add_argument("--durability", default="content")
    parser.add_argument("--points", choices=["flushes", "marks"], default="flushes")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--check", help=argparse.SUPPRESS)
    parser.add_argument("--trees", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.dist = os.path.abspath(args.dist)
    if args.check:
        return check(args)
    if os.geteuid():
        sys.exit("power_cut.py: needs root, for loop mounts")
    started = time.time()
    work = tempfile.mkdtemp(prefix="dist-power-cut-", dir="/var/tmp")
    try:
        rig = record(args, work)
        boot_id = os.path.join(work, "boot_id")
        with open(boot_id, "w") as f:
            f.write(f"{uuid.uuid4()}\n")
        checker = (f"unshare -m sh -c 'mount --bind {boot_id} {BOOT_ID} && exec {sys.executable} {os.path.abspath(__file__)} "
                   f"--dist {args.dist} --trees {work}/trees.json --check {{mnt}}'")
        result = subprocess.run([sys.executable, RIG, "check", rig, f"--{args.points}", "--mode", "durable", "--cmd", checker])
        print(f"power cut, durability {args.durability}: {time.time() - started:.0f} s")
        return result.returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
