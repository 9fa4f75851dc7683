"""What a client costs: wall time, CPU seconds and peak memory of all of its processes."""
import os, re, subprocess, threading, time

TICKS = os.sysconf("SC_CLK_TCK")
# Looks more often in the beginning, not to miss a client that is soon done.
INTERVAL, FIRST = 0.02, 0.002
MEMORY = re.compile(r"^Vm(HWM|RSS):\s+(\d+)", re.MULTILINE)
# Processes that are not on the client's side: this one, the registry, what shapes the network.
others = {os.getpid()}


class Sampler(threading.Thread):
    """Looks at the memory of every process of the client's side. Needs a /proc that shows no strangers.

    The peak is the largest sum of what is resident at one time, and at least the largest peak of one process."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.names, self.done = 0, set(), threading.Event()

    def run(self):
        started = time.monotonic()
        while True:
            total = 0
            for pid in filter(str.isdigit, os.listdir("/proc")):
                if int(pid) not in others:
                    text = status(pid)
                    memory = dict(MEMORY.findall(text))
                    self.names.add(text[6:text.find("\n")])
                    total += int(memory.get("RSS", 0))
                    self.peak = max(self.peak, int(memory.get("HWM", 0)))
            self.peak = max(self.peak, total)
            if self.done.wait(INTERVAL if time.monotonic() - started > 0.05 else FIRST):
                return


def status(pid):
    """Its first line is the process's name."""
    try:
        with open(f"/proc/{pid}/status") as f:
            return f.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_of(pid, children=True):
    """CPU seconds of a process and of those of its children that ended."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return sum(int(f) for f in fields[11:15 if children else 13]) / TICKS


def of_machine():
    """Seconds that cores did nothing, and that were taken from them, since the machine is up."""
    with open("/proc/stat") as f:
        times = [int(time) / TICKS for time in f.readline().split()[1:]]
    return {"idle": times[3] + times[4], "stolen": times[7]}


def around():
    """What else there is in a run: the cores' idle time, and what the registry and the measuring cost."""
    return of_machine() | {"others": sum(cpu_of(pid, children=False) for pid in others if os.path.exists(f"/proc/{pid}"))}


def measure(command, daemon=None, **more):
    """Runs a command, for which a daemon may work; returns what both cost."""
    before, machine = cpu_of(daemon) if daemon else 0, around()
    sampler = Sampler()
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    sampler.start()
    out, message = read_both(process)
    _, code, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    spent = {key: value - machine[key] for key, value in around().items()}
    process.returncode = os.waitstatus_to_exitcode(code)
    sampler.done.set()
    sampler.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}: {message.decode(errors='replace')[-800:]}")
    cpu = usage.ru_utime + usage.ru_stime + (cpu_of(daemon) - before if daemon else 0)
    return spent | {"wall": wall, "cpu": cpu, "peak": sampler.peak * 1024, "processes": sorted(filter(None, sampler.names))}, out.decode(errors="replace")


def read_both(process):
    message = []
    reader = threading.Thread(target=lambda: message.append(process.stderr.read()))
    reader.start()
    out = process.stdout.read()
    reader.join()
    return out, message[0]
