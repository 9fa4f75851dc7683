"""The report: what the results say, as tables and plots."""
import datetime, os
from statistics import median

from .bars import DEFAULT, NONE, Bars, floor_of
from .machine import span
from .missed import missed
from .network import NAMES, transfer_seconds
from .plot import Plot
from .scenes import Scene

MIB = 1 << 20
STAGES = {"inflate": "inflate", "hash_tar": "hash tar", "untar": "make files", "hash_blob": "hash blob", "write_blob": "write blob", "read": "read"}


class Report:
    def __init__(self, results, wanted):
        self.results, self.bars, self.wanted = results, Bars(results, wanted), wanted
        self.tools = list(dict.fromkeys(run["tool"] for run in results.runs if run["tool"] != "floor"))
        self.scenes = sorted(dict.fromkeys(Scene(*run["scene"]) for run in results.runs), key=lambda s: (list(NAMES).index(s.network), s.state != "cold"))

    def write(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        stem = path.removesuffix(".md")
        plots = [f"![{what}]({os.path.basename(name)})" for what, name in self.plots(stem)]
        text = "\n".join([*self.head(), *self.set_bars(), *missed(self), *self.beyond_floor(), *plots, "", *(line for scene in self.scenes for line in self.scene(scene))]) + "\n"
        with open(path, "w") as f:
            f.write(text)
        return text

    def there(self, scene):
        return [tool for tool in self.tools if self.results.of(scene, tool)]

    def runs(self, scene, tool):
        return self.results.counted(scene, tool, self.wanted)[0]

    def head(self):
        facts, runs = self.results.facts, self.results.runs
        day = datetime.date.fromtimestamp(max([run["at"] for run in runs] + [item["at"] for item in self.results.items.values()])).isoformat()
        versions = {run["tool"]: run["version"] for run in runs}
        yield f"# Pulls compared, {day}\n"
        yield ("Made by `make bench` (`benches/compare`), which says how it measures. Medians of interleaved runs "
               "(smallest–largest), each on a new journaled ext4. *none* is `dist --durability none`.\n")
        yield f"- machine: {facts['machine']}; registry on loopback, its blobs in the page cache"
        yield from (f"- {tool}: {versions[tool]}" for tool in self.tools)
        yield from (f"- small things: {version}" for version in sorted({item["version"] for item in self.results.items.values()}))
        if len({version for tool, version in versions.items() if tool.startswith("dist")}) > 1:
            yield "- **dist's rows are of several versions, measured at different times: ratios between them are no like for like**"
        yield f"- made {self.times(runs)}; of that dist's {self.times([run for run in runs if run['tool'].startswith('dist')])}"
        yield f"- decompressors at hand: {', '.join(facts['decompressors']) or 'none'}; used: {self.decompressors()}"
        skeletons = sorted({run["skeleton"] for run in runs if run.get("skeleton")})
        if skeletons:
            yield (f"- inodes: files and directories that the image added, on the disk after the pull; not the {' or '.join(map(str, skeletons))} of an empty "
                   "store of dist's, which a cold pull makes too, nor what a containerd makes when it starts; podman's and umoci's with all that they make")
        calibrators = [run["calibrator"] for run in runs]
        if calibrators:
            steady = sum(c <= self.results.limit() for c in calibrators)
            yield (f"- calibrator (all cores inflate and hash 64 MiB): {span(calibrators, 3)} s; {steady} of {len(calibrators)} runs were at most "
                   f"10 % over its best tenth and count; where a tool has fewer than {self.wanted} of these, its steadiest others stand in and are called unsteady\n")

    def times(self, runs):
        ends = [datetime.datetime.fromtimestamp(end(run["at"] for run in runs)) for end in (min, max)] if runs else []
        return " to ".join(f"{time:%H:%M}" for time in ends) or "never"

    def decompressors(self):
        used = {tool: sorted({name for run in self.results.runs if run["tool"] == tool for name in run["processes"]} & {"igzip", "unpigz"}) for tool in self.tools}
        return "; ".join(f"{tool} {names[0] if names else 'its own'}" for tool, names in used.items() if not tool.startswith("dist"))

    def set_bars(self):
        yield "## Bars\n\n| measure | bar, at most | measured | |\n|---|--:|---|---|"
        yield from filter(None, self.bars.rows())
        yield ""

    def beyond_floor(self):
        """What wall time consists of, where L is not reached: all that all cores did meanwhile."""
        cores, rows = self.results.facts["cores"], []
        for scene in (scene for scene in self.scenes if (scene.network, scene.state) == ("loopback", "cold")):
            runs = [run for run in self.results.accepted(scene, NONE) if "idle" in run]
            floors = self.results.accepted(scene, "floor")
            if not runs or not floors:
                continue
            wall, cpu, others, idle, stolen = (median(run[key] for run in runs) for key in ("wall", "cpu", "others", "idle", "stolen"))
            busy = median(run["busy"] for run in floors)
            rest = wall * cores - cpu - others - idle - stolen
            parts = (busy, cpu - busy, others, rest, idle, stolen)
            rows.append(f"| {scene.image} | {len(runs)} | {wall:.2f} | " + " | ".join(f"{part / cores:.2f}" for part in parts) + f" | {wall * cores / busy:.2f} |")
        if not rows:
            return
        yield "## What wall time has beyond L\n"
        yield (f"`dist --durability none`, medians, seconds of wall time: core seconds ÷ {cores}. The floor's pass reads layers from the page cache, in one thread "
               "a core, and has no registry beside it: the second column of parts is what dist does more (sockets, HTTP, rings between threads, a store, a database), "
               "the third what the registry on the same cores took to send the bytes, with what measuring took, the fourth the kernel's own threads (writeback, interrupts).\n")
        yield "| image | runs | wall | the floor's CPU | dist's CPU beyond it | registry, measuring | kernel | idle | stolen | wall × cores ÷ the floor's CPU |"
        yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        yield from rows
        yield ""

    def plots(self, stem):
        colds = [scene for scene in self.scenes if (scene.network, scene.state) == ("loopback", "cold")]
        for key, what, unit in (("wall", "Wall time of a pull, cold, over loopback", "s"), ("cpu", "CPU seconds of a pull, all processes of the client", "CPU-s")):
            plot = Plot(what)
            for scene in colds:
                base = self.bars.middle(scene, NONE, key) or self.bars.middle(scene, self.there(scene)[0], key)
                rows = []
                for tool in self.there(scene):
                    values = [run[key] for run in self.runs(scene, tool)]
                    colour = 0 if tool == DEFAULT else 1 if tool == NONE else 2 if tool.startswith("dist") else 3
                    rows.append((tool, colour, median(values), min(values), max(values), f"{median(values):.2f} {unit}, × {median(values) / base:.2f}"))
                plot.bars(scene.image, rows)
            if colds:
                plot.write(f"{stem}-{key}.svg")
                yield what, f"{stem}-{key}.svg"
        rows = [row for scene in colds if (row := self.stages(scene))]
        if rows:
            plot = Plot("Where the CPU seconds of dist --durability none go: the stages of the floor, and the rest")
            plot.stacks([*STAGES.values(), "the rest of dist"], rows)
            plot.write(f"{stem}-stages.svg")
            yield "Where the time goes", f"{stem}-stages.svg"

    def stages(self, scene):
        floors, cpu = self.runs(scene, "floor"), self.bars.middle(scene, NONE, "cpu")
        if not floors or not cpu:
            return None
        parts = [median(sum(layer["seconds"][stage] for layer in run["layers"]) for run in floors) for stage in STAGES]
        rest = max(0, cpu - sum(parts))
        total = sum(parts) + rest
        return scene.image, [part / total for part in [*parts, rest]], f"{cpu:.2f} CPU-s"

    def scene(self, scene):
        size, layers = self.results.facts["sizes"][scene.image]
        least = transfer_seconds(scene.network, size)
        yield f"## {scene}\n\n{size / 1e6:.1f} MB compressed, {layers} layer{'s' if layers > 1 else ''}" + (f"; the bytes alone take {least:.2f} s" if least and scene.state == "cold" else "") + ".\n"
        middle = lambda tool, key: self.bars.middle(scene, tool, key)
        yield "| tool | runs | wall s | CPU s | peak MiB | wire MB | written MB | flushes | inodes | wall: dist ÷ this | none ÷ this | CPU: none ÷ this |"
        yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        for tool in self.there(scene):
            runs, loud = self.results.counted(scene, tool, self.wanted)
            ratio = lambda base, key: f"{middle(base, key) / middle(tool, key):.2f}" if middle(base, key) is not None else ""
            of = lambda key, digits, unit=1: span([run[key] / unit for run in runs], digits)
            yield (f"| {tool} | {len(runs)}{f', {loud} unsteady' if loud else ''} | {of('wall', 2)} | {of('cpu', 2)} | {of('peak', 0, MIB)} "
                   f"| {middle(tool, 'wire') / 1e6:.1f} | {middle(tool, 'written') / 1e6:.0f} | {middle(tool, 'flushes'):.0f} | {middle(tool, 'inodes'):.0f} "
                   f"| {ratio(DEFAULT, 'wall')} | {ratio(NONE, 'wall')} | {ratio(NONE, 'cpu')} |")
        yield ""
        if scene.state != "cold" and "skopeo + umoci" in self.there(scene):
            yield "skopeo copies what the layout lacks; umoci has no store of layers and unpacks all of them each time.\n"
        yield from self.floor(scene)

    def floor(self, scene):
        floors = self.runs(scene, "floor")
        if not floors:
            return
        cores = self.results.facts["cores"]
        limit, cpu, busy = (median(get(run) for run in floors) for get in (lambda run: floor_of(run, cores), lambda run: run["cpu"], lambda run: run["busy"]))
        parts = ", ".join(f"{name} {median(sum(layer['seconds'][stage] for layer in run['layers']) for run in floors):.2f}" for stage, name in STAGES.items())
        yield f"Floor: L = **{limit:.2f} s** on {cores} cores: {busy:.2f} CPU-s for a pass in one thread while each core does one; {cpu:.2f} CPU-s with the others idle: {parts}."
        if "igzip" in floors[0]:
            yield f"`igzip` alone inflates these layers in {median(run['igzip'] for run in floors):.2f} CPU-s."
        ratios = ", ".join(f"{tool} {self.bars.middle(scene, tool, 'wall') / limit:.2f} ({self.bars.middle(scene, tool, 'cpu') / busy:.2f})" for tool in self.there(scene))
        yield f"Wall ÷ L (and CPU ÷ the floor's CPU, all cores busy): {ratios}.\n"
