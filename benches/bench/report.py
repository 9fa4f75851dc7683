"""The report: what the results say, as tables."""
import datetime, os
from statistics import median

from .machine import span
from .results import STEADY
from .scenes import Scene

BASE = ["dist", "dist --durability none"]
MIB = 1 << 20


def write(results, wanted, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    text = "\n".join(lines(results, wanted)) + "\n"
    with open(path, "w") as f:
        f.write(text)
    print(text)


def lines(results, wanted):
    facts = results.facts
    day = datetime.date.fromtimestamp(max(run["at"] for run in results.runs)).isoformat()
    yield f"# Pulls compared, {day}\n"
    yield ("Made by `make bench` (`benches/compare`), which says how it measures. Medians of interleaved runs "
           "(smallest–largest), each on a new journaled ext4.\n")
    yield f"- machine: {facts['machine']}; registry on loopback, its blobs in the page cache"
    tools = list(dict.fromkeys(run["tool"] for run in results.runs if run["tool"] != "floor"))
    versions = {run["tool"]: run["version"] for run in results.runs}
    yield from (f"- {tool}: {versions[tool]}" for tool in tools)
    yield f"- decompressors that containerd finds: {', '.join(facts['decompressors']) or 'none, its own'} (1.x uses unpigz, 2.x igzip first)"
    calibrators = [run["calibrator"] for run in results.runs]
    steady = sum(c <= min(calibrators) * STEADY for c in calibrators)
    yield (f"- calibrator (all cores inflate and hash 64 MiB): {span(calibrators, 3)} s; {steady} of {len(calibrators)} runs "
           f"were at most 10 % over its best and count\n")
    for scene in dict.fromkeys(Scene(*run["scene"]) for run in results.runs):
        yield from of_scene(results, wanted, scene, tools)


def of_scene(results, wanted, scene, tools):
    size, layers = results.facts["sizes"][scene.image]
    yield f"## {scene}\n\n{size / 1e6:.1f} MB compressed, {layers} layers.\n"
    counted = {tool: results.counted(scene, tool, wanted) for tool in tools}
    there = [tool for tool in tools if counted[tool][0]]
    middle = lambda tool, key: median(run[key] for run in counted[tool][0])
    yield "| tool | runs | wall s | CPU s | peak MiB | wire MB | written MB | flushes | inodes | wall: dist ÷ this | none ÷ this | CPU: none ÷ this |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for tool in there:
        runs, loud = counted[tool]
        ratio = lambda base, key: f"{middle(base, key) / middle(tool, key):.2f}" if base in there else ""
        of = lambda key, digits, unit=1: span([run[key] / unit for run in runs], digits)
        yield (f"| {tool} | {len(runs)}{f', {loud} unsteady' if loud else ''} | {of('wall', 2)} | {of('cpu', 2)} | {of('peak', 0, MIB)} "
               f"| {middle(tool, 'wire') / 1e6:.1f} | {middle(tool, 'written') / 1e6:.0f} | {middle(tool, 'flushes'):.0f} | {middle(tool, 'inodes'):.0f} "
               f"| {ratio(BASE[0], 'wall')} | {ratio(BASE[1], 'wall')} | {ratio(BASE[1], 'cpu')} |")
    yield ""
    floors, _ = results.counted(scene, "floor", wanted)
    if floors:
        yield from of_floor(results, floors, there, middle)


def floor_of(run, cores):
    """L: the CPU seconds of one pass on all cores, or the slowest stage of any layer."""
    slowest = max(max(layer["seconds"].values()) for layer in run["layers"])
    return max(run["cpu"] / cores, slowest)


def of_floor(results, floors, there, middle):
    cores = results.facts["cores"]
    floor = median(floor_of(run, cores) for run in floors)
    stages = list(floors[0]["layers"][0]["seconds"])
    times = {stage: median(sum(layer["seconds"][stage] for layer in run["layers"]) for run in floors) for stage in stages}
    cpu = median(run["cpu"] for run in floors)
    parts = ", ".join(f"{stage.replace('_', ' ')} {seconds:.2f}" for stage, seconds in times.items())
    yield f"Floor: L = **{floor:.2f} s** on {cores} cores; {cpu:.2f} CPU-s in one thread: {parts}."
    if "igzip" in floors[0]:
        yield f"`igzip` alone inflates these layers in {median(run['igzip'] for run in floors):.2f} CPU-s."
    ratios = ", ".join(f"{tool} {middle(tool, 'wall') / floor:.2f} ({middle(tool, 'cpu') / cpu:.2f})" for tool in there)
    yield f"Wall ÷ L (and CPU ÷ the floor's CPU): {ratios}.\n"
