"""What the bars that are missed run into: the limit, what was reached, and what lies between."""
from statistics import median

from .bars import NONE, PEERS
from .images import REAL
from .scenes import IMAGES, Scene


def missed(report):
    lines = [*peers(report), *floor(report), *layers(report)]
    if lines:
        yield "## What is missed, and what stops it\n"
        yield from lines
        yield ""


def cold(image):
    return Scene(image, "loopback", "cold")


def listed(found, digits=2):
    return ", ".join(f"{image} {value:.{digits}f}" for image, value in found.items())


def best(report, image, base):
    return min(run["wall"] for run in report.runs(cold(image), NONE)) / base


def peers(report):
    for peer, bar in PEERS.items():
        reached = {image: ratio for image, ratio in report.bars.ratio(REAL, "wall", NONE, peer).items() if ratio > bar}
        if reached:
            fastest = {image: best(report, image, report.bars.middle(cold(image), peer, "wall")) for image in reached}
            least = {image: ratio and 1 / ratio for image in reached if (ratio := report.bars.to_floor(cold(image), peer))}
            yield (f"- **÷ `{peer}`, bar {bar}**: reached {listed(reached)}; the fastest run {listed(fastest)}. L, which inflates, hashes and makes the same "
                   f"files with the same libraries and has neither registry nor network nor store, is {listed(least)}.")


def spent(report, image):
    """Core seconds of a pull, as medians: the floor's, dist's, the registry's with measuring, and idle ones."""
    runs = [run for run in report.results.accepted(cold(image), NONE) if "idle" in run]
    floors = report.results.accepted(cold(image), "floor")
    if not runs or not floors:
        return None
    return (median(run["busy"] for run in floors), *(median(run[key] for run in runs) for key in ("cpu", "others", "idle")))


def floor(report):
    for several, bar in ((True, 1.15), (False, 1.35)):
        images = [i for i in IMAGES if i in report.results.facts["sizes"] and (report.results.facts["sizes"][i][1] > 1) == several]
        reached = {i: ratio for i in images if (ratio := report.bars.to_floor(cold(i), NONE)) and ratio > bar}
        parts = {i: found for i in reached if (found := spent(report, i))}
        if not parts:
            continue
        with_registry = {i: (busy + others) / busy for i, (busy, cpu, others, idle) in parts.items()}
        own = {i: cpu / busy for i, (busy, cpu, others, idle) in parts.items()}
        idle = {i: idle / report.results.facts["cores"] for i, (*_, idle) in parts.items()}
        fastest = {i: best(report, i, report.bars.middle(cold(i), NONE, "wall")) * reached[i] for i in parts}
        yield (f"- **÷ L, {'several layers' if several else 'one layer'}, bar {bar}**: reached {listed(reached)}; the fastest run {listed(fastest)}. The registry sends the bytes from "
               f"the same cores, and L leaves it out: with its CPU, and what measuring takes, nothing could be below {listed(with_registry)}. dist's own CPU "
               f"÷ the floor's is {listed(own)}: sockets, HTTP, the rings between threads, a store and a database. A core was idle for "
               f"{listed(idle)} s: while the name is resolved, while one layer alone is left, and while the disk is waited for.")


def layers(report):
    found = spent(report, "thin:1")
    if found:
        busy, cpu, others, _ = found
        count = report.results.facts["sizes"]["thin:1"][1]
        yield (f"- **thin:1** has {count} layers of next to nothing, so that L says nothing of it: a layer costs dist {(cpu - busy) / count * 1000:.1f} ms and the registry "
               f"{others / count * 1000:.1f} ms of CPU for a request, a file, a snapshot and its rows, and the floor, which has none of these, {busy / count * 1000:.1f} ms.")
