#!/usr/bin/env python3
"""Pulls on a disk whose power fails at every flush, and looks at what is left.  python3, stdlib only, root.

  power_cut.py run   --dist BINARY --images IMAGES.json --work DIR [--mode durable] [-- FLAG...]
  power_cut.py check --dist BINARY --images IMAGES.json --root DIR   (one replayed disk; $RIG_ACKED names what was promised)

IMAGES.json: [{"name", "reference", "digest", "blobs": {digest: size}, "tree": DIR}].  "run" pulls each image on the rig
of crash_rig.py and marks it after its exit 0; then every flush point is replayed and checked as a new boot: the
checker has a mount namespace of its own in which another boot id lies over the kernel's.
Good is: each acknowledged image has its row, each of its blobs is there under its digest, and its unpacked root can
be mounted, without network, and equals TREE: a snapshot that was not durable is rebuilt from its blobs.
"""
import argparse, hashlib, json, os, stat, subprocess, sys, tempfile, uuid

HERE = os.path.dirname(os.path.abspath(__file__))
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("verb", choices=["run", "check"])
parser.add_argument("--root", help="check: where the replayed disk is mounted")
parser.add_argument("--dist", required=True)
parser.add_argument("--images", required=True)
parser.add_argument("--work")
parser.add_argument("--mode", default="durable")
parser.add_argument("--every", type=int, default=0, help="replay every so many entries and not the flushes")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--flag", action="append", default=[])
args = parser.parse_args()
with open(args.images) as f:
    IMAGES = json.load(f)
RIG = [sys.executable, f"{HERE}/crash_rig.py"]


def tree(root):
    """All below a root directory; the root itself is in no layer of these images."""
    found, inodes = {}, {}
    for base, dirs, files in sorted(os.walk(root)):
        for name in sorted(dirs + files):
            path = os.path.join(base, name)
            st = os.lstat(path)
            what = ""
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    what = hashlib.sha256(f.read()).hexdigest()
            elif stat.S_ISLNK(st.st_mode):
                what = os.readlink(path)
            elif not stat.S_ISDIR(st.st_mode):
                what = str(st.st_rdev)
            relative = os.path.relpath(path, root)
            same = inodes.setdefault(st.st_ino, relative) if not stat.S_ISDIR(st.st_mode) else ""
            found[relative] = (oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, what, same)
    return found


def dist(root, *command):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DIST_ROOT": root}
    done = subprocess.run([args.dist, *args.flag, *command], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"dist {' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def check(root):
    acknowledged = set(os.environ["RIG_ACKED"].split("\n"))
    store = f"{root}/store"
    if not os.path.isdir(store):
        promised = [i["name"] for i in IMAGES if i["name"] in acknowledged]
        return [f"{promised} were acknowledged and there is no store"] if promised else []
    bad = []
    listed = set(dist(store, "images", "-q").split())
    content = set(dist(store, "list", "-q").split())
    for digest in content:
        algorithm, name = digest.split(":")
        try:
            with open(f"{store}/content/blobs/{algorithm}/{name}", "rb") as f:
                if hashlib.new(algorithm, f.read()).hexdigest() != name:
                    bad.append(f"{digest} has other bytes")
        except OSError as error:
            bad.append(f"{digest} is listed: {error.strerror}")
    with tempfile.TemporaryDirectory() as view:
        for image in IMAGES:
            here = image["reference"] in listed
            if image["name"] in acknowledged and not here:
                bad.append(f"{image['name']} was acknowledged and has no row")
            if not here:
                continue
            gone = [digest for digest in image["blobs"] if digest not in content]
            if gone:
                bad.append(f"{image['name']} lacks {gone}")
                continue
            chain = dist(store, "rootfs", "unpack", image["digest"]).split()[-1]
            commands = dist(store, "rootfs", "prepare", "--view", chain, view)
            subprocess.run(["sh", "-ec", commands], check=True)
            try:
                left, right = tree(view), tree(image["tree"])
                for path in sorted(left.keys() | right.keys()):
                    if left.get(path) != right.get(path):
                        bad.append(f"{image['name']}: {path}: {left.get(path)} and not {right.get(path)}")
            finally:
                subprocess.run(["umount", view], check=True)
            dist(store, "snapshots", "rm", view)
    return bad


def run():
    rig = f"{args.work}/rig"
    subprocess.run([*RIG, "start", rig], check=True, stdout=subprocess.DEVNULL)
    try:
        for number, image in enumerate(IMAGES):
            if number % 2:
                # With this much still to be written dist leaves its sync to the next command.
                with open(f"{args.work}/dirt", "wb") as f:
                    f.write(os.urandom(1 << 20) * 96)
            dist(f"{rig}/mnt/store", "pull", image["reference"])
            subprocess.run([*RIG, "mark", rig, image["name"]], check=True, stdout=subprocess.DEVNULL)
    finally:
        subprocess.run([*RIG, "stop", rig], check=True)
    boot = f"{args.work}/boot_id"
    with open(boot, "w") as f:
        f.write(str(uuid.uuid4()) + "\n")
    flags = " ".join(f"--flag={flag}" for flag in args.flag)
    command = (f"unshare --mount --net sh -c 'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec {sys.executable} {__file__} "
               f"check --dist {args.dist} --images {args.images} {flags} --root {{mnt}}'")
    points = ["--every", str(args.every)] if args.every else ["--flushes"]
    return subprocess.run([*RIG, "check", rig, *points, "--mode", args.mode, "--seed", str(args.seed), "--cmd", command]).returncode


if args.verb == "run":
    sys.exit(1 if run() else 0)
problems = check(args.root)
print("\n".join(problems[:5]))
sys.exit(1 if problems else 0)
