"""Runs tools in turn, each on a new disk, until every case has enough runs of a steady machine."""
import sys, time

from .images import changed, disk_mib
from .machine import Disk, calibrate
from .network import Network

# Of one case, at most so many runs for each one that is wanted.
TRIES = 2


class Runner:
    def __init__(self, work, images, results, registry, shape):
        self.work, self.images, self.results = work, images, results
        self.registry, self.shape = registry, shape
        self.calibrator = None

    def run(self, scenes, tools, wanted, seconds):
        """Rounds over all scenes and tools; stops before a run that would not end in `seconds`. Returns whether
        nothing is left to do."""
        deadline = time.monotonic() + seconds if seconds else None
        for number in range(wanted * TRIES):
            for scene in scenes:
                self.images.warm(scene.image)
                names = list(tools)
                for name in names[number % len(names):] + names[:number % len(names)]:
                    if name == "floor" and (scene.network, scene.state) != ("loopback", "cold"):
                        continue
                    runs = self.results.of(scene, name)
                    if len(runs) > number or len(self.results.accepted(scene, name)) >= wanted:
                        continue
                    if deadline and time.monotonic() + self.expected(runs) > deadline:
                        return False
                    self.once(scene, tools[name])
        return True

    def expected(self, runs):
        return 1.3 * max((run["took"] for run in runs), default=5)

    def once(self, scene, tool):
        started = time.monotonic()
        before = self.calibrator or calibrate()
        with Network(scene.network, self.shape, self.registry) as network, Disk(self.work, disk_mib(scene.image)) as disk:
            tool.start(disk.path, self.work)
            try:
                if scene.state != "cold":
                    tool.pull(scene.image, network.port, 0)
                disk.sync()
                at, wire = disk.counters(), network.bytes()
                wanted = changed(scene.image) if scene.state == "changed" else scene.image
                sample = tool.pull(wanted, network.port, 1)
                sample["wire"] = network.bytes() - wire
                sample["flushes"] = disk.counters()["flushes"] - at["flushes"]
                disk.sync()
                sample |= {key: disk.counters()[key] - at[key] for key in ("written", "inodes")}
                sample["skeleton"] = getattr(tool, "skeleton", 0) if scene.state == "cold" else 0
                sample["inodes"] -= sample["skeleton"]
            finally:
                tool.stop()
        self.calibrator = calibrate()
        sample |= {"scene": [scene.image, scene.network, scene.state], "tool": tool.name, "version": tool.version,
                   "calibrator": max(before, self.calibrator), "at": time.time(), "took": time.monotonic() - started}
        self.results.append(sample)
        print(f"{str(scene):40} {tool.name:26} {sample['wall']:7.2f} s {sample['cpu']:7.2f} CPU-s {sample['peak'] / (1 << 20):5.0f} MiB"
              f"  calibrator {sample['calibrator']:.3f}", file=sys.stderr, flush=True)
