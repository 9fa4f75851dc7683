"""The way to the registry: loopback, or a link that `shape` (crates/dist-testutil/examples) makes slow and distant."""
import subprocess

from . import machine, processes

# Megabits per second of payload, and milliseconds of a round trip.
SHAPES = {"1 Gbit/s, 1 ms": (1000, 1), "100 Mbit/s, 20 ms": (100, 20)}
NAMES = {"loopback": "loopback", "1g": "1 Gbit/s, 1 ms", "100m": "100 Mbit/s, 20 ms"}


class Network:
    """In front of a registry, while it is entered."""

    def __init__(self, name, shape, registry):
        self.name, self.shape, self.registry = name, shape, registry

    def __enter__(self):
        self.port = self.registry.port
        if self.name != "loopback":
            rate, delay = SHAPES[NAMES[self.name]]
            command = [self.shape, f"127.0.0.1:{self.registry.port}", str(rate), str(delay)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.others.add(self.process.pid)
            self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_):
        if self.name != "loopback":
            self.process.stdin.close()
            self.process.wait()

    def bytes(self):
        """Bytes both ways so far: payload over a shaped link, else all of loopback with its headers."""
        if self.name == "loopback":
            return machine.loopback_bytes()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        down, up, _ = self.process.stdout.readline().split()
        return int(down) + int(up)


def transfer_seconds(name, count):
    """How long a shaped link takes for so many bytes at least; None for loopback."""
    shape = SHAPES.get(NAMES[name])
    return shape and count * 8 / (shape[0] * 1e6)
