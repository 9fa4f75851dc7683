"""dist and its peers: how each is started and told to pull."""
import hashlib, json, os, shlex, shutil, subprocess

from . import machine, processes
from .machine import sh


class Dist:
    def __init__(self, binary, name, *options):
        self.binary, self.name, self.options = binary, name, options
        self.version = sh(binary, "version")

    def start(self, disk, work):
        """A cold pull makes the store too: what an empty one has is counted where it finds no image."""
        self.disk, empty = disk, os.path.join(disk, "empty")
        subprocess.run([self.binary, "--root", empty, *self.options, "pull", f"oci:{disk}/no-layout"], capture_output=True)
        self.skeleton = 1 + sum(len(dirs) + len(files) for _, dirs, files in os.walk(empty))
        shutil.rmtree(empty)

    def pull(self, image, port, step):
        command = [self.binary, "--root", f"{self.disk}/root", *self.options, "pull", "--progress", "none"]
        return processes.measure([*command, f"localhost:{port}/library/{image}"])[0]

    def stop(self):
        pass


class Containerd:
    """A containerd of its own for every run; `tuned` is a table of its transfer service, where it has one."""

    def __init__(self, name, directory="", tuned=False):
        self.name, self.tuned = name, tuned
        self.containerd, self.ctr = (os.path.join(directory, program) for program in ("containerd", "ctr"))
        self.version = sh(self.containerd, "--version")
        self.two = " v2." in self.version or " 2." in self.version
        default = sh(self.containerd, "config", "default") if tuned else ""
        wanted = {"max_concurrent_downloads": 8, "max_concurrent_unpacks": 4}
        self.settings = {key: value for key, value in wanted.items() if f"    {key} = " in default}
        self.version += "".join(f", {key} = {value}" for key, value in self.settings.items())

    def config(self, disk, work, sock):
        cri = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"] if self.two else ["io.containerd.grpc.v1.cri"]
        lines = [f"version = {3 if self.two else 2}", f'root = "{disk}/containerd"', f'state = "{work}/containerd-state"', f"disabled_plugins = {json.dumps(cri)}",
                 "[grpc]", f'  address = "{sock}"', "[ttrpc]", f'  address = "{sock}.ttrpc"']
        if self.settings:
            lines += ["[plugins.'io.containerd.transfer.v1.local']"] + [f"  {key} = {value}" for key, value in self.settings.items()]
        return "\n".join(lines) + "\n"

    def start(self, disk, work):
        self.work, self.sock, config = work, os.path.join(work, "containerd.sock"), os.path.join(work, "containerd.toml")
        with open(config, "w") as f:
            f.write(self.config(disk, work, self.sock))
        self.daemon = subprocess.Popen([self.containerd, "-c", config, "-l", "error"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": f"{disk}/tmp"})
        machine.wait_for(lambda: subprocess.run([self.ctr, "-a", self.sock, "version"], capture_output=True).returncode == 0)

    def pull(self, image, port, step):
        command = [self.ctr, "-a", self.sock, "images", "pull", "--plain-http"]
        return processes.measure([*command, f"localhost:{port}/library/{image}"], daemon=self.daemon.pid)[0]

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait()
        shutil.rmtree(f"{self.work}/containerd-state", ignore_errors=True)


class Podman:
    name = "podman pull"

    def __init__(self):
        self.version = sh("podman", "--version")

    def start(self, disk, work):
        self.disk, self.run = disk, os.path.join(work, "podman-run")
        self.options = ["--root", f"{disk}/storage", "--runroot", self.run, "--storage-driver", "overlay", "--events-backend", "none", "--cgroup-manager", "cgroupfs"]

    def pull(self, image, port, step):
        command = ["podman", *self.options, "pull", "-q", "--tls-verify=false", f"localhost:{port}/library/{image}"]
        return processes.measure(command, env={**os.environ, "TMPDIR": f"{self.disk}/tmp"})[0]

    def stop(self):
        # It mounts the directory of its layers onto itself.
        with open("/proc/mounts") as f:
            mounts = [line.split()[1] for line in f]
        for path in reversed(mounts):
            if path.startswith((f"{self.disk}/", f"{self.run}/")):
                sh("umount", path)
        shutil.rmtree(self.run, ignore_errors=True)


class Umoci:
    """Unpacks a whole bundle each time: it has no store of unpacked layers."""
    name = "skopeo + umoci"
    SCRIPT = 'skopeo copy -q --src-tls-verify=false "docker://$1" "oci:$2/layout:$3" && umoci unpack --image "$2/layout:$3" "$2/bundle-$4"'

    def __init__(self):
        self.version = f"{sh('skopeo', '--version')}, {sh('umoci', '--version').splitlines()[0]}"

    def start(self, disk, work):
        self.disk = disk

    def pull(self, image, port, step):
        command = ["sh", "-c", self.SCRIPT, "sh", f"localhost:{port}/library/{image}", self.disk, image.split(":")[1], str(step)]
        return processes.measure(command, env={**os.environ, "TMPDIR": f"{self.disk}/tmp"})[0]

    def stop(self):
        pass


class Floor:
    """The least that the bytes cost with dist's inflate library; and, where it is installed, what igzip needs
    for inflating alone. Not a peer: it has no network."""
    name = "floor"

    def __init__(self, binary, layers):
        self.binary, self.layers = binary, layers
        with open(binary, "rb") as f:
            self.version = hashlib.file_digest(f, "sha256").hexdigest()[:12]

    def start(self, disk, work):
        self.disk = disk

    def pull(self, image, port, step):
        layers = self.layers(image)
        sample, out = processes.measure([self.binary, f"{self.disk}/floor", *layers])
        sample["layers"] = [json.loads(line) for line in out.splitlines()]
        shutil.rmtree(f"{self.disk}/floor")
        # Cores that share a cache or the memory are slower when all of them work, as in a pull they do.
        passes = range(os.cpu_count())
        script = "".join(f"{shlex.join([self.binary, f'{self.disk}/busy{n}', *layers])} >/dev/null & p{n}=$!; " for n in passes)
        script += " && ".join(f"wait $p{n}" for n in passes)
        sample["busy"] = processes.measure(["sh", "-c", script])[0]["cpu"] / len(passes)
        if shutil.which("igzip"):
            script = f"for layer in {' '.join(map(shlex.quote, layers))}; do igzip -dc <$layer >/dev/null || exit 1; done"
            sample["igzip"] = processes.measure(["sh", "-c", script])[0]["cpu"]
        return sample

    def stop(self):
        pass


def all_tools(dist, floor, layers):
    """Every tool that is there, by name: dist first. BENCH_PEERS names further containerds, as NAME=DIRECTORY with
    commas between them: each is run as it is and, where it has a transfer service, tuned."""
    tools = [Dist(dist, "dist"), Dist(dist, "dist --durability none", "--durability", "none")]
    if "erofs" in sh(dist, "pull", "--help"):
        tools.append(Dist(dist, "dist --snapshotter erofs", "--snapshotter", "erofs"))
    tools.append(Containerd("ctr images pull"))
    for peer in filter(None, os.environ.get("BENCH_PEERS", "").split(",")):
        name, directory = peer.split("=", 1)
        tools.append(Containerd(name, directory))
        tuned = Containerd(f"{name}, tuned", directory, tuned=True)
        if tuned.settings:
            tools.append(tuned)
    tools += [Podman(), Umoci()]
    if floor:
        tools.append(Floor(floor, layers))
    return {tool.name: tool for tool in tools}
