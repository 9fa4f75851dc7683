"""What every benchmark stands on: a corner of the machine for itself, new disks, and how steady it is."""
import fcntl, os, signal, socket, statistics, struct, subprocess, sys, time

PRIVATE = "DIST_BENCH_IS_PRIVATE"


def sh(*command, **more):
    return subprocess.run(command, check=True, text=True, capture_output=True, **more).stdout.strip()


def wait_for(ready, seconds=20):
    deadline = time.time() + seconds
    while not ready():
        if time.time() > deadline:
            raise TimeoutError(f"not ready after {seconds} s")
        time.sleep(0.01)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def span(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def be_private():
    """Starts this program again in namespaces of its own: mounts, loopback and processes are nobody else's and
    end with it."""
    if os.geteuid():
        sys.exit("needs root, for loop devices and for unpacking owners")
    if PRIVATE not in os.environ:
        os.environ[PRIVATE] = "1"
        unshare = ["unshare", "--mount", "--propagation", "slave", "--net", "--pid", "--fork", "--kill-child=TERM", "--mount-proc"]
        os.execvp("unshare", [*unshare, sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running


def loopback_bytes():
    """Bytes that went over loopback since the start: nobody but this benchmark has this one."""
    with open("/proc/net/dev") as f:
        line = next(line for line in f if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


class Disk:
    """A new ext4 with a journal on a loop device with direct I/O, mounted; gone when it is left.

    The loop device and its file have no other user than the mount, so that nothing stays behind a benchmark
    that is killed."""

    def __init__(self, work, mib):
        self.path, self.mib = os.path.join(work, "disk"), mib
        self.image = os.path.join(work, "disk.img")

    def __enter__(self):
        os.makedirs(self.path, exist_ok=True)
        with open(self.image, "wb") as f:
            f.truncate(self.mib << 20)
        sh("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        loop = sh("losetup", "-f", "--show", "--direct-io=on", self.image)
        sh("mount", loop, self.path)
        sh("losetup", "-d", loop)
        os.unlink(self.image)
        self.stat = f"/sys/block/{os.path.basename(loop)}/stat"
        os.makedirs(f"{self.path}/tmp")
        self.sync()
        return self

    def __exit__(self, *_):
        sh("umount", self.path)

    def sync(self):
        sh("sync", "-f", self.path)

    def counters(self):
        """Bytes written and cache flushes by the device's own count; files and directories by the file system's."""
        fields = [int(field) for field in open(self.stat).read().split()]
        room = os.statvfs(self.path)
        return {"written": fields[6] * 512, "flushes": fields[15], "inodes": room.f_files - room.f_ffree}


CALIBRATOR = """
import hashlib, os, time, zlib
data = zlib.compress(os.urandom(1 << 20) * 8 + bytes(56 << 20), 1)
print(flush=True)
input()
started = time.monotonic()
hashlib.sha256(zlib.decompress(data)).digest()
print(time.monotonic() - started)
"""


def calibrate():
    """Seconds to inflate and hash 64 MiB on every core at once, the slowest core's."""
    cores = [subprocess.Popen([sys.executable, "-c", CALIBRATOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(os.cpu_count())]
    for core in cores:
        core.stdout.readline()
    for core in cores:
        core.stdin.write("\n")
        core.stdin.flush()
    return max(float(core.communicate()[0]) for core in cores)
