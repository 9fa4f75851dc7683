"""Runs as lines of JSON, so that a comparison can be made in slices and put together afterwards."""
import json, os
from dataclasses import dataclass, field

# A run counts while the machine was at most so much slower than in its best tenth: one lucky moment of a shared
# machine, faster than all others, must not take every other run away.
STEADY = 1.10


@dataclass
class Results:
    path: str
    runs: list = field(default_factory=list)
    items: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)

    @classmethod
    def open(cls, path):
        """Of a tool that was measured in several versions, only the last one's runs are kept."""
        results = cls(path)
        if os.path.exists(path):
            with open(path) as f:
                for line in f:
                    results.add(json.loads(line))
        results.keep({run["tool"]: run["version"] for run in results.runs})
        return results

    def keep(self, versions):
        """Drops the runs of tools that are there in another version now."""
        self.runs = [run for run in self.runs if versions.get(run["tool"], run["version"]) == run["version"]]

    def append(self, line):
        with open(self.path, "a") as f:
            f.write(json.dumps(line) + "\n")
        self.add(line)

    def add(self, line):
        if "facts" in line:
            self.add_facts(line["facts"])
        elif "item" in line:
            self.items[line["item"]] = line
        else:
            self.runs.append(line)

    def add_facts(self, facts):
        sizes = self.facts.get("sizes", {}) | facts.get("sizes", {})
        self.facts |= facts | {"sizes": sizes}

    def limit(self):
        """The slowest calibrator of a run that counts."""
        calibrators = sorted(run["calibrator"] for run in self.runs)
        return calibrators[len(calibrators) // 10] * STEADY if calibrators else 0

    def of(self, scene, tool):
        return [run for run in self.runs if run["scene"] == [scene.image, scene.network, scene.state] and run["tool"] == tool]

    def accepted(self, scene, tool):
        limit = self.limit()
        return [run for run in self.of(scene, tool) if run["calibrator"] <= limit]

    def counted(self, scene, tool, wanted):
        """The accepted runs; where too few were, the steadiest ones, and how many of them were not steady."""
        runs = self.accepted(scene, tool)
        if len(runs) >= wanted:
            return runs, 0
        steadiest = sorted(self.of(scene, tool), key=lambda run: run["calibrator"])[:wanted]
        return steadiest, max(0, len(steadiest) - len(runs))
