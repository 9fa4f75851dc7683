"""Small commands, and those that look at a whole store: how long each takes, and whether it grows as its store does."""
import os, subprocess, sys, time

from . import client
from .machine import Disk, calibrate, sh, wait_for
from .registry import Registry

SMALL, LARGE = 20, 5
# Images, each with ten blobs; the smaller store tells what grows.
IMAGES = 10_000


def seconds(command, times):
    """Wall seconds of a command, with nothing beside it but its start."""
    walls = []
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    for _ in range(times):
        started = time.monotonic()
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=quiet)
        _, status = os.waitpid(pid, 0)
        walls.append(time.monotonic() - started)
        if status:
            raise RuntimeError(f"{' '.join(command)}: status {status}")
    return walls


class Items:
    def __init__(self, dist, work, images, results):
        self.dist, self.work, self.images, self.results = dist, work, images, results
        self.version = sh(dist, "version")

    def run(self):
        for measure in (self.start_up, self.all_there, self.large):
            before = calibrate()
            for name, values, more in measure():
                self.results.append({"item": name, "values": values, "version": self.version, "calibrator": max(before, calibrate()), "at": time.time()} | more)
                print(f"{name:40} {sorted(values)[len(values) // 2] * 1000:8.1f} ms  {more or ''}", file=sys.stderr, flush=True)

    def start_up(self):
        with Disk(self.work, 512) as disk:
            root = f"{disk.path}/root"
            for number in range(10):
                sh(self.dist, "--root", root, "ingest", f"bench-{number}", input=f"{number}\n")
            yield "dist --version", seconds([self.dist, "--version"], SMALL), {}
            yield "dist list, 10 blobs", seconds([self.dist, "--root", root, "list"], SMALL), {}

    def all_there(self):
        with Disk(self.work, 2048) as disk, Registry(self.work, self.images.storage, log=f"{self.work}/requests") as registry:
            command = [self.dist, "--root", f"{disk.path}/root", "pull", "--progress", "none", f"localhost:{registry.port}/library/redis:7"]
            sh(*command)
            before = registry.requests()
            walls = seconds(command, SMALL)
            yield "dist pull redis:7, all there", walls, {"requests": (registry.requests() - before) / SMALL}

    def large(self):
        program = client.build(self.work)
        for count in (IMAGES // 10, IMAGES):
            with Disk(self.work, 4096) as disk:
                root, socket = f"{disk.path}/root", f"{self.work}/fill.sock"
                daemon = subprocess.Popen([self.dist, "--root", root, "--durability", "none", "--log-level", "error", "daemon", "--address", socket])
                try:
                    wait_for(lambda: os.path.exists(socket))
                    sh(program, "fill", socket, str(count))
                finally:
                    daemon.terminate()
                    daemon.wait()
                disk.sync()
                for name, command in ((f"dist list, {10 * count:,} blobs", "list"), (f"dist images, {count:,} images", "images"),
                                      (f"dist gc, {10 * count:,} blobs, {count:,} images", "gc")):
                    yield name, seconds([self.dist, "--root", root, command], LARGE), {}
