//! An image's config and the wishes of whoever runs it to a runtime spec (OCI image-spec,
//! conversion.md). Pure: what depends on the machine or on files comes as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use dist_core::{Error, ErrorKind, Result};

use crate::bundle::{FILES, ROOTFS, volume_source};
use crate::spec::{
    Capabilities, Cpu, Device, DeviceRule, Linux, LinuxResources, Memory, Namespace, Pids, Process,
    Rlimit, Root, VERSION,
};
use crate::{Capability, HostFacts, ImageSettings, Mount, Spec, User, seccomp};

/// Where programs are looked for where an image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the init that waits for orphans lies in a container.
const INIT: &str = "/sbin/docker-init";

/// The period of a limit on processor time, in microseconds.
const PERIOD: u64 = 100_000;

/// Open files that a process may have before it asks for more.
const FILES_LIMIT: u64 = 1024;

/// Annotations by which an image could command a runtime.
const UNSAFE: [&str; 5] =
    ["run.oci.", "org.systemd.property.", "io.katacontainers.", "dev.gvisor.", "module.wasm."];

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which network a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// That of the machine.
    #[default]
    Host,
    /// None but its own loopback.
    None,
    /// That of a namespace which is there: [`SpecOptions::network_namespace`].
    Joined,
}

/// What a container may use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors, also parts of them.
    pub cpus: Option<f64>,
    /// Processes; -1 is any number.
    pub pids: Option<i64>,
}

/// What whoever runs an image wants otherwise than it says.
#[derive(Clone, Debug, Default)]
pub struct SpecOptions {
    /// The words after the entrypoint; empty for those of the image.
    pub args: Vec<String>,
    /// Other first words of the command; then the image's arguments are not taken either.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// Another directory to start in.
    pub working_dir: Option<String>,
    /// Who the command runs as.
    pub user: User,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether its root file system can't be written.
    pub read_only: bool,
    /// The name of the machine that it sees.
    pub hostname: Option<String>,
    /// The network that it sees.
    pub network: Network,
    /// Where its network namespace is, with [`Network::Joined`].
    pub network_namespace: Option<PathBuf>,
    /// Capabilities beside the usual ones.
    pub cap_add: BTreeSet<Capability>,
    /// Capabilities that it does not get.
    pub cap_drop: BTreeSet<Capability>,
    /// Whether it may do what whoever runs it may.
    pub privileged: bool,
    /// What it may use.
    pub resources: Resources,
    /// Devices that it gets, and what it may do with each, of `rwm`.
    pub devices: Vec<(Device, String)>,
    /// A directory of this machine that is its root file system, not that of the bundle.
    pub root: Option<PathBuf>,
    /// Further mounts; they come in place of the image's volumes and of files of ours.
    pub mounts: Vec<Mount>,
    /// A static `tini` of this machine, which then is the first process.
    pub init: Option<PathBuf>,
    /// The place among the cgroups.
    pub cgroups_path: Option<String>,
}

/// What came of a conversion.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The spec. Bind mounts may have sources relative to the bundle.
    pub spec: Spec,
    /// Volumes of the image: where they are mounted, in the order of their sources.
    pub volumes: Vec<String>,
    /// Labels of the image that are no annotations, because a runtime would take them as commands.
    pub omitted: Vec<String>,
}

/// Makes a runtime spec.
///
/// # Errors
/// `InvalidArgument` where there is no command, or a limit is none.
pub fn convert(
    image: &ImageSettings,
    options: &SpecOptions,
    host: &HostFacts,
) -> Result<Converted> {
    let settings = image.config.clone().unwrap_or_default();
    let (annotations, omitted) = annotations(image);
    let capabilities = capabilities(options, host);
    options.user.check(host.user_namespace.as_ref())?;
    let mut mounts = default_mounts(options, host);
    let taken = |destination: &str| {
        options.mounts.iter().any(|mount| clean(&mount.destination) == clean(destination))
    };
    mounts.extend(FILES.into_iter().filter(|file| !taken(file)).map(|file| {
        // Without the slash it is the source in the bundle.
        Mount::bind(&file[1..], file, options.read_only)
    }));
    let declared = settings.volumes.clone().unwrap_or_default();
    let volumes: Vec<String> = declared
        .into_keys()
        .map(|path| clean(&path))
        .filter(|path| path != "/" && !taken(path))
        .collect();
    mounts.extend(
        volumes.iter().enumerate().map(|(n, path)| Mount::bind(volume_source(n), path, false)),
    );
    mounts.extend(options.mounts.iter().cloned());
    if let Some(init) = &options.init {
        mounts.push(Mount::bind(init, INIT, true));
    }
    // What is mounted below something else comes after it.
    mounts.sort_by_key(|mount| clean(&mount.destination).matches('/').count());
    let list: Vec<Capability> = capabilities.iter().copied().collect();
    let cwd = options.working_dir.as_deref().or(settings.working_dir.as_deref());
    let process = Process {
        terminal: options.terminal,
        user: options.user.clone(),
        args: command(&settings, options)?,
        env: environment(settings.env.unwrap_or_default(), options),
        cwd: cwd.map_or_else(|| "/".to_owned(), clean),
        capabilities: Capabilities {
            bounding: list.clone(),
            effective: list.clone(),
            permitted: list,
        },
        rlimits: vec![Rlimit {
            kind: "RLIMIT_NOFILE",
            soft: FILES_LIMIT.min(host.most_files),
            hard: host.most_files,
        }],
        no_new_privileges: !options.privileged,
    };
    let confined = !options.privileged;
    let linux = Linux {
        cgroups_path: options.cgroups_path.clone().filter(|_| host.cgroups),
        resources: resources(options, host)?,
        namespaces: namespaces(options, host),
        devices: devices(options, host),
        seccomp: confined.then(|| seccomp::profile(&host.architecture, &capabilities)),
        masked_paths: if confined { MASKED.to_vec() } else { Vec::new() },
        readonly_paths: if confined { READ_ONLY.to_vec() } else { Vec::new() },
    };
    let spec = Spec {
        oci_version: VERSION,
        process,
        root: Root {
            path: options.root.clone().unwrap_or_else(|| ROOTFS.into()),
            readonly: options.read_only,
        },
        hostname: options.hostname.clone(),
        mounts,
        annotations,
        linux,
    };
    Ok(Converted { spec, volumes, omitted })
}

/// All devices of a privileged container, and those that were asked for in their place.
fn devices(options: &SpecOptions, host: &HostFacts) -> Vec<Device> {
    let asked = options.devices.iter().map(|(device, _)| device.clone());
    let mut devices = if options.privileged { host.devices.clone() } else { Vec::new() };
    devices.retain(|device| asked.clone().all(|other| other.path != device.path));
    devices.extend(asked);
    devices
}

fn command(settings: &crate::Settings, options: &SpecOptions) -> Result<Vec<String>> {
    let mut command = Vec::new();
    if options.init.is_some() {
        command.extend([INIT.to_owned(), "--".to_owned()]);
    }
    let own = command.len();
    let (entrypoint, cmd) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), Vec::new()),
        None => (
            settings.entrypoint.clone().unwrap_or_default(),
            settings.cmd.clone().unwrap_or_default(),
        ),
    };
    command.extend(entrypoint.into_iter().filter(|word| !word.is_empty() || own > 2));
    command.extend(if options.args.is_empty() { cmd } else { options.args.clone() });
    if command.len() == own {
        let message = "find the command: the image has none; give one after its name";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(command)
}

/// The image's variables with those of the caller over them; defaults only where nobody sets them.
fn environment(image: Vec<String>, options: &SpecOptions) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = Vec::new();
    for variable in image.into_iter().chain(options.env.iter().cloned()) {
        match env.iter_mut().find(|known| name(known) == name(&variable)) {
            Some(known) => *known = variable,
            None => env.push(variable),
        }
    }
    let mut defaults = vec![PATH.to_owned()];
    if options.terminal {
        defaults.push("TERM=xterm".to_owned());
    }
    defaults.extend(options.hostname.iter().map(|hostname| format!("HOSTNAME={hostname}")));
    defaults.retain(|default| env.iter().all(|known| name(known) != name(default)));
    defaults.extend(env);
    defaults
}

/// The image's labels, and what else it says of itself where no label has the name.
fn annotations(image: &ImageSettings) -> (BTreeMap<String, String>, Vec<String>) {
    const PREFIX: &str = "org.opencontainers.image";
    let settings = image.config.clone().unwrap_or_default();
    let ports = settings.exposed_ports.filter(|ports| !ports.is_empty());
    let ports = ports.map(|ports| ports.into_keys().collect::<Vec<_>>().join(","));
    let features = image.os_features.as_ref().map(|features| features.join(","));
    let implicit = [
        ("os", image.os.clone()),
        ("architecture", image.architecture.clone()),
        ("variant", image.variant.clone()),
        ("os.version", image.os_version.clone()),
        ("os.features", features),
        ("author", image.author.clone()),
        ("created", image.created.clone()),
        ("stopSignal", settings.stop_signal),
        ("exposedPorts", ports),
    ];
    let mut annotations: BTreeMap<String, String> = implicit
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
        .map(|(name, value)| (format!("{PREFIX}.{name}"), value))
        .collect();
    annotations.extend(settings.labels.unwrap_or_default());
    let is_unsafe = |name: &String| UNSAFE.iter().any(|prefix| name.starts_with(prefix));
    let omitted: Vec<String> = annotations.keys().filter(|name| is_unsafe(name)).cloned().collect();
    annotations.retain(|name, _| !is_unsafe(name));
    (annotations, omitted)
}

fn capabilities(options: &SpecOptions, host: &HostFacts) -> BTreeSet<Capability> {
    let mut set: BTreeSet<Capability> = if options.privileged {
        host.capabilities.clone()
    } else {
        Capability::defaults().collect()
    };
    set.extend(&options.cap_add);
    set.retain(|capability| {
        !options.cap_drop.contains(capability) && host.capabilities.contains(capability)
    });
    set
}

fn default_mounts(options: &SpecOptions, host: &HostFacts) -> Vec<Mount> {
    let shut = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| shut.iter().chain(more).copied().collect::<Vec<_>>();
    let access = if options.privileged { "rw" } else { "ro" };
    let is_guest = host.user_namespace.is_some();
    let mut terminals =
        vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    if host.user_namespace.as_ref().is_some_and(|namespace| !namespace.has_group(5)) {
        terminals.pop();
    }
    let mut mounts = vec![
        Mount::new("/proc", "proc", "proc", &shut),
        Mount::new("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        Mount::new("/dev/pts", "devpts", "devpts", &terminals),
        Mount::new("/dev/shm", "tmpfs", "shm", &with(&["mode=1777", "size=65536k"])),
        Mount::new("/dev/mqueue", "mqueue", "mqueue", &shut),
    ];
    if is_guest && options.network == Network::Host {
        // Only who owns the network namespace mounts another one.
        mounts.push(Mount::new("/sys", "bind", "/sys", &with(&["rbind", "rprivate", access])));
        if !host.cgroup2 {
            mounts.push(Mount::new("/sys/fs/cgroup", "tmpfs", "tmpfs", &with(&["mode=755", "ro"])));
        }
    } else {
        mounts.push(Mount::new("/sys", "sysfs", "sysfs", &with(&[access])));
    }
    // With version 1 the names of others' groups would show, and no namespace hides them.
    if host.cgroup2 || options.privileged && !is_guest {
        let options = with(&["relatime", access]);
        mounts.push(Mount::new("/sys/fs/cgroup", "cgroup", "cgroup", &options));
    }
    mounts.retain(|mount| {
        options.mounts.iter().all(|other| clean(&other.destination) != mount.destination)
    });
    mounts
}

fn namespaces(options: &SpecOptions, host: &HostFacts) -> Vec<Namespace> {
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    if host.cgroup2 {
        kinds.push("cgroup");
    }
    let mut namespaces: Vec<Namespace> =
        kinds.into_iter().map(|kind| Namespace { kind, path: None }).collect();
    if options.network != Network::Host {
        let path = options.network_namespace.clone();
        namespaces.push(Namespace { kind: "network", path });
    }
    namespaces
}

fn resources(options: &SpecOptions, host: &HostFacts) -> Result<LinuxResources> {
    let Resources { memory, cpus, pids } = options.resources;
    if !host.cgroups && options.resources != Resources::default() {
        let message = "limit memory, processors or processes: an ordinary user can make no cgroups";
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    let refuse = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
    if memory == Some(0) {
        return refuse("limit memory to 0 bytes: nothing can run in that".into());
    }
    if pids.is_some_and(|pids| pids == 0 || pids < -1) {
        return refuse(format!(
            "limit processes to {}: from 1 on goes, and -1 for any number",
            pids.unwrap_or_default()
        ));
    }
    let quota = match cpus {
        None => None,
        #[expect(clippy::cast_possible_truncation, reason = "it is at most 10^9")]
        #[expect(clippy::cast_precision_loss, reason = "the period is small")]
        Some(cpus) if (0.01..=10_000.0).contains(&cpus) => Some((cpus * PERIOD as f64) as i64),
        Some(cpus) => {
            return refuse(format!("limit processors to {cpus}: from 0.01 to 10000 goes"));
        }
    };
    Ok(LinuxResources {
        devices: device_rules(options),
        memory: memory.map(|limit| Memory { limit }),
        cpu: quota.map(|quota| Cpu { quota, period: PERIOD }),
        pids: pids.map(|limit| Pids { limit }),
    })
}

/// All or none, then what was asked for.
fn device_rules(options: &SpecOptions) -> Vec<DeviceRule> {
    let all = DeviceRule {
        allow: options.privileged,
        kind: None,
        major: None,
        minor: None,
        access: "rwm".to_owned(),
    };
    let asked = options.devices.iter().map(|(device, access)| DeviceRule {
        allow: true,
        kind: Some(device.kind),
        major: Some(device.major),
        minor: Some(device.minor),
        access: access.clone(),
    });
    [all].into_iter().chain(asked).collect()
}

/// A path in the container, absolute, without `.` and `..`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => (),
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
