"""What dist has set itself, as rows of a table: measure, bar, what was measured, and whether that is enough."""
from statistics import median

from .images import REAL
from .network import NAMES, transfer_seconds
from .scenes import IMAGES, Scene

DEFAULT, NONE, EROFS = "dist", "dist --durability none", "dist --snapshotter erofs"
PEERS = {"ctr images pull": 0.25, "podman pull": 0.15, "skopeo + umoci": 0.18}


class Bars:
    def __init__(self, results, wanted):
        self.results, self.wanted = results, wanted

    def middle(self, scene, tool, key):
        """The median; None where the tool wasn't run."""
        runs, _ = self.results.counted(scene, tool, self.wanted)
        return median(run[key] for run in runs) if runs else None

    def ratio(self, images, key, tool, base):
        """Of each image: what `tool` took, for each unit that `base` took."""
        found = {}
        for image in images:
            scene = Scene(image, "loopback", "cold")
            one, other = self.middle(scene, tool, key), self.middle(scene, base, key)
            if one is not None and other:
                found[image] = one / other
        return found

    def to_floor(self, scene, tool, key="busy"):
        """Wall time for each second of L."""
        floors, _ = self.results.counted(scene, "floor", self.wanted)
        wall = self.middle(scene, tool, "wall")
        return wall / median(floor_of(run, self.results.facts["cores"], key) for run in floors) if floors and wall else None

    def cpu_to_floor(self, scene):
        """CPU seconds for each of the floor, of steady runs alone."""
        runs, floors = (self.results.accepted(scene, tool) for tool in (NONE, "floor"))
        return median(run["cpu"] for run in runs) / median(run["busy"] for run in floors) if runs and floors else None

    def rows(self):
        for peer, bar in PEERS.items():
            yield row(f"wall, none ÷ `{peer}`", bar, self.ratio(REAL, "wall", NONE, peer))
        for peer in dict.fromkeys(run["tool"] for run in self.results.runs if run["tool"].endswith(", tuned")):
            yield row(f"wall, none ÷ {peer}", 0.48, self.ratio(REAL, "wall", NONE, peer))
        yield row("wall, default durability ÷ none", 1.15, self.ratio(REAL, "wall", DEFAULT, NONE))
        yield row("the same, synthetic images", 1.15, self.ratio([image for image in IMAGES if image not in REAL], "wall", DEFAULT, NONE))
        yield row("CPU, none ÷ `ctr images pull`", 0.3, self.ratio(REAL, "cpu", NONE, "ctr images pull"))
        others = [image for image in REAL if image != "node-app:1"]
        yield row("wall, erofs ÷ overlayfs", 0.8, self.ratio(["node-app:1"], "wall", EROFS, DEFAULT))
        yield row("the same", 1.05, self.ratio(others, "wall", EROFS, DEFAULT))
        yield row("CPU, erofs ÷ overlayfs", 0.75, self.ratio(["node-app:1"], "cpu", EROFS, DEFAULT))
        colds = [Scene(image, "loopback", "cold") for image in IMAGES]
        for tool, bar in ((EROFS, 9), (DEFAULT, None)):
            inodes = {s.image: self.middle(s, tool, "inodes") for s in colds}
            real, shapes = ({image: n for image, n in inodes.items() if (image in REAL) == wanted} for wanted in (True, False))
            name = "erofs" if tool == EROFS else "overlayfs"
            yield row(f"files and directories that an image adds, {name}", bar, real, digits=0)
            yield row("the same, synthetic images", None, shapes, digits=0)
        for what, bar, several in (("several layers", 1.15, True), ("one layer", 1.35, False)):
            scenes = [s for s in colds if s.image in self.results.facts["sizes"] and (self.results.facts["sizes"][s.image][1] > 1) == several]
            yield row(f"wall ÷ L, none, {what}", bar, {s.image: self.to_floor(s, NONE) for s in scenes})
            yield row("the same, L of a pass with the other cores idle", None, {s.image: self.to_floor(s, NONE, "cpu") for s in scenes})
        beyond = {s.image: self.cpu_to_floor(s) for s in colds}
        yield row("CPU, none ÷ the floor's: network, store and metadata cost", 1.05, beyond)
        for peer in PEERS:
            least = {image: self.to_floor(Scene(image, "loopback", "cold"), peer) for image in REAL}
            yield row(f"L ÷ `{peer}`: no pull with these libraries gets below", None, {image: ratio and 1 / ratio for image, ratio in least.items()})
        for tool, name in ((DEFAULT, "overlayfs"), (EROFS, "erofs")):
            peaks = {s.image: self.middle(s, tool, "peak") for s in colds}
            yield row(f"peak memory, MiB, {name}", 32, {image: peak and peak / (1 << 20) for image, peak in peaks.items()}, digits=0)
        far = {}
        for image in IMAGES:
            runs, _ = self.results.counted(Scene(image, "100m", "cold"), DEFAULT, self.wanted)
            if runs:
                far[image] = median(run["wall"] / transfer_seconds("100m", run["wire"]) for run in runs)
        yield row(f"wall ÷ transfer time, {NAMES['100m']}", 1.03, far, digits=3)
        yield from self.of_items()

    def of_items(self):
        bars = {"dist --version": 5, "dist list, 10 blobs": 8, "dist pull redis:7, all there": 10, "dist list, 100,000 blobs": 150,
                "dist images, 10,000 images": 150, "dist gc, 100,000 blobs, 10,000 images": 1500}
        for name, item in self.results.items.items():
            yield row(f"`{name}`, ms", bars.get(name), {"": median(item["values"]) * 1000}, digits=1)
            if "requests" in item:
                yield row("requests of that", 1, {"": item["requests"]}, digits=0)


def floor_of(run, cores, key="busy"):
    """L: the CPU seconds of one pass (by `busy` while each core does one, by `cpu` while the others are idle)
    on all cores, or the slowest stage of any layer."""
    slowest = max(max(layer["seconds"].values()) for layer in run["layers"])
    return max(run[key] / cores, slowest)


def row(measure, bar, found, digits=2):
    """None where nothing was measured and nothing is asked for."""
    found = {image: value for image, value in found.items() if value is not None}
    if not found:
        return None if bar is None else f"| {measure} | {bar} | | not measured |"
    # As many digits as it takes to see on which side of the bar it is.
    while bar is not None and digits < 4 and any(value != bar and round(value, digits) == bar for value in found.values()):
        digits += 1
    values = ", ".join(f"{image} {value:.{digits}f}".strip() for image, value in found.items())
    missed = [image for image, value in found.items() if bar is not None and value > bar]
    verdict = "" if bar is None else "met" if not missed else "missed" if len(missed) == len(found) else f"missed: {', '.join(missed)}"
    return f"| {measure} | {'' if bar is None else bar} | {values} | {verdict} |"
