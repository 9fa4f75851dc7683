//! What people want of a container otherwise than its image says: the flags of all commands that
//! make runtime specs.

mod mounts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dist_core::{Context, Error, ErrorKind, Result, ResultExt as _};
use dist_run::{
    Capability, Device, ImageSettings, Mount, Network, Resources, Rootfs, SpecOptions, UserSpec,
};

use self::mounts::{parse_mount, parse_volume};
use crate::config::Config;
use crate::report;
use crate::units::{binary_size, parse_memory};

/// The most letters that the kernel takes for a machine's name.
pub(super) const MOST_OF_HOSTNAME: usize = 64;

/// Flags for a runtime spec.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Container")]
pub(crate) struct Wishes {
    /// Set a variable; without a value it is passed on
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Set the variables in a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Mount something: type=bind|tmpfs,source=PATH,target=PATH[,readonly][,tmpfs-size=SIZE]
    /// [,tmpfs-mode=MODE][,options=A:B]
    #[arg(long, value_name = "SPEC", value_parser = parse_mount)]
    mount: Vec<Mount>,

    /// Mount a file or directory of this machine
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]", value_parser = parse_volume)]
    volume: Vec<Mount>,

    /// Directory to start in
    #[arg(short, long, value_name = "DIR", value_parser = parse_dir)]
    workdir: Option<String>,

    /// User and group, by name or number, as the image knows them
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// First word of the command, in place of the image's command
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// Keep the root file system from being written
    #[arg(long)]
    read_only: bool,

    /// Network: host is that of this machine, none its own loopback, bridge or another name one of
    /// CNI's plugins
    #[arg(long, alias = "network", default_value = "host", value_name = "NETWORK", value_parser = parse_network)]
    net: Net,

    /// Name of the machine that it sees
    #[arg(long, value_name = "NAME", value_parser = parse_hostname)]
    hostname: Option<String>,

    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = parse_capabilities)]
    cap_add: Vec<Capabilities>,

    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = parse_capabilities)]
    cap_drop: Vec<Capabilities>,

    /// Let it do all that you may do: all capabilities and devices, no filter of system calls
    #[arg(long)]
    privileged: bool,

    /// Give it a device, or all below a directory, to do some of rwm with: read, write, make nodes
    #[arg(long, value_name = "PATH[:TARGET][:ACCESS]")]
    device: Vec<String>,

    /// Most memory it may use: 512m is 512 MiB
    #[arg(short, long, value_name = "SIZE", value_parser = parse_memory, allow_negative_numbers = true)]
    memory: Option<u64>,

    /// Most processors it may use, as 1.5
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpus: Option<f64>,

    /// Most processes it may have; -1 is any number
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,

    /// Run an init as its first process, which passes on signals and waits for orphans (`tini`)
    #[arg(long)]
    init: bool,
}

#[derive(Clone, Debug)]
enum Net {
    Host,
    None,
    Named(String),
}

/// Capabilities that were named by one word.
#[derive(Clone, Debug)]
struct Capabilities(Vec<Capability>);

impl Wishes {
    /// What a spec is made with, for a command that continues with `args`. Users are looked up in
    /// `rootfs`.
    pub(crate) fn options(
        &self,
        image: &ImageSettings,
        args: &[String],
        rootfs: &mut Rootfs,
    ) -> Result<SpecOptions> {
        let all = |lists: &[Capabilities]| lists.iter().flat_map(|list| list.0.clone()).collect();
        let mut cap_drop: BTreeSet<Capability> = all(&self.cap_drop);
        let cap_add: BTreeSet<Capability> = all(&self.cap_add);
        // One that is asked for by name stays where all others go.
        if self.cap_drop.iter().any(|list| list.0.len() > 1) {
            cap_drop.retain(|capability| !cap_add.contains(capability));
        }
        Ok(SpecOptions {
            args: args.to_vec(),
            entrypoint: self.entrypoint.clone().map(|program| vec![program]),
            env: self.environment()?,
            working_dir: self.workdir.clone(),
            user: rootfs.user(self.user(image)?.as_ref())?,
            read_only: self.read_only,
            hostname: self.hostname.clone(),
            network: self.network(),
            cap_add,
            cap_drop,
            privileged: self.privileged,
            devices: devices(&self.device)?,
            resources: Resources { memory: self.memory, cpus: self.cpus, pids: self.pids_limit },
            mounts: self.mounts()?,
            init: self.init.then(find_init).transpose()?,
            ..SpecOptions::default()
        })
    }

    /// Says of an error of a runtime what its words do not: which limit did not let it start.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let told = report::one_line(&error);
        let is_memory = ["memory", "OOM"].iter().any(|word| told.contains(word));
        let Some(limit) = self.memory.filter(|_| is_memory) else { return error };
        let message = format!("limit its memory to {}: it can't start in that", binary_size(limit));
        Error::new(error.kind(), message).with_source(error)
    }

    fn network(&self) -> Network {
        match self.net {
            Net::Host => Network::Host,
            Net::None => Network::None,
            Net::Named(_) => Network::Joined,
        }
    }

    /// The network that plugins are to make.
    pub(crate) fn named_network(&self) -> Option<&str> {
        match &self.net {
            Net::Named(name) => Some(name),
            Net::Host | Net::None => None,
        }
    }

    /// Refuses a network that plugins make: only a container that we run can leave it again.
    pub(crate) fn refuse_named_network(&self) -> Result<()> {
        let Some(name) = self.named_network() else { return Ok(()) };
        let message = format!("join network {name}: only `dist run` does; host and none go here");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    fn user(&self, image: &ImageSettings) -> Result<Option<UserSpec>> {
        let of_image = image.config.as_ref().and_then(|settings| settings.user.as_deref());
        let user = self.user.as_deref().or(of_image.filter(|user| !user.is_empty()));
        user.map(str::parse).transpose()
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        let mounts: Vec<Mount> = self.volume.iter().chain(&self.mount).cloned().collect();
        let mut targets = BTreeSet::new();
        for mount in &mounts {
            let target: PathBuf = Path::new(&mount.destination).components().collect();
            if !targets.insert(target) {
                let message = format!("mount at {}: two mounts go there", mount.destination);
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        Ok(mounts)
    }

    fn environment(&self) -> Result<Vec<String>> {
        let mut variables = Vec::new();
        for path in &self.env_file {
            let text = dist_core::read_small_text(path)
                .context(ErrorKind::InvalidArgument, || format!("read {}", path.display()))?;
            for (number, line) in (1..).zip(text.lines().map(str::trim_start)) {
                if !line.is_empty() && !line.starts_with('#') {
                    let what = || format!("read {}, line {number}", path.display());
                    variables.extend(variable(line).during(what)?);
                }
            }
        }
        for text in &self.env {
            variables.extend(variable(text)?);
        }
        Ok(variables)
    }
}

/// One variable; one without a value is that of this process, if it has it.
fn variable(text: &str) -> Result<Option<String>> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() || name.contains(char::is_whitespace) {
        let message = format!("set variable {text:?}: that is no NAME=VALUE");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    if name.len() < text.len() {
        return Ok(Some(text.to_owned()));
    }
    Ok(Config::variable(name)?.map(|value| format!("{name}={value}")))
}

/// What `PATH[:TARGET][:ACCESS]` names, each.
fn devices(asked: &[String]) -> Result<Vec<(Device, String)>> {
    let mut devices = Vec::new();
    for text in asked {
        let (path, target, access) = parse_device(text)?;
        for device in dist_run::devices_at(Path::new(path))? {
            let below = device.path.strip_prefix(path).unwrap_or(&device.path);
            let path =
                if below == Path::new("") { target.into() } else { Path::new(target).join(below) };
            devices.push((Device { path, ..device }, access.to_owned()));
        }
    }
    Ok(devices)
}

fn parse_device(text: &str) -> Result<(&str, &str, &str)> {
    let is_access = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|access| "rwm".contains(access) && part.matches(access).count() == 1)
    };
    match text.split(':').collect::<Vec<_>>()[..] {
        [path] if path.starts_with('/') => Ok((path, path, "rwm")),
        [path, access] if path.starts_with('/') && is_access(access) => Ok((path, path, access)),
        [path, target] if path.starts_with('/') && target.starts_with('/') => {
            Ok((path, target, "rwm"))
        }
        [path, target, access]
            if path.starts_with('/') && target.starts_with('/') && is_access(access) =>
        {
            Ok((path, target, access))
        }
        _ => {
            let message = format!("read device {text:?}: write it as PATH[:TARGET][:rwm]");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
    }
}

fn find_init() -> Result<PathBuf> {
    // Only the static one runs in any image.
    let found = ["/usr/bin/tini-static", "/usr/local/bin/tini-static"].map(Path::new);
    found.into_iter().find(|path| path.exists()).map(Path::to_owned).ok_or_else(|| {
        let message = "find an init: there is no tini-static; it is in Debian's package tini";
        Error::new(ErrorKind::FailedPrecondition, message)
    })
}

/// A directory of a container, which has no other to begin at.
pub(super) fn parse_dir(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err("it is no absolute path; write it as it is in the container, with / before it".into())
}

fn parse_hostname(text: &str) -> Result<String, String> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_word = !text.is_empty() && text.chars().all(|c| is_letter(c) || matches!(c, '.' | '-'));
    if !is_word || !text.starts_with(is_letter) {
        return Err("a machine's name is of letters, digits, '.', '_' and '-'".into());
    }
    if text.len() > MOST_OF_HOSTNAME {
        return Err(format!("a machine's name has {MOST_OF_HOSTNAME} letters at most"));
    }
    Ok(text.to_owned())
}

fn parse_network(text: &str) -> Result<Net, String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text {
        "host" => Ok(Net::Host),
        "none" => Ok(Net::None),
        name if !name.is_empty() && name.chars().all(is_word) => Ok(Net::Named(name.to_owned())),
        _ => Err("a network's name is of letters, digits, '.', '_' and '-'".into()),
    }
}

fn parse_capabilities(text: &str) -> Result<Capabilities, String> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(Capabilities(Capability::up_to(usize::MAX - 1).collect()));
    }
    text.parse().map(|one| Capabilities(vec![one])).map_err(|error: Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_what_is_done_with_them() {
        for (text, wanted) in [
            ("/dev/a", ("/dev/a", "/dev/a", "rwm")),
            ("/dev/a:r", ("/dev/a", "/dev/a", "r")),
            ("/dev/a:/dev/b", ("/dev/a", "/dev/b", "rwm")),
            ("/dev/a:/dev/b:mr", ("/dev/a", "/dev/b", "mr")),
        ] {
            assert_eq!(parse_device(text).unwrap(), wanted, "{text}");
        }
        for text in ["", "a", "/a:b", "/a:rr", "/a:/b:x", "/a:/b:", "/a:/b:r:w", "/a:"] {
            assert!(parse_device(text).is_err(), "{text}");
        }
        assert_eq!(devices(&["/dev/null:/dev/x".into()]).unwrap()[0].0.path, Path::new("/dev/x"));
    }

    #[test]
    fn names_of_machines_and_directories() {
        for text in ["a", "a.b-c_d", "9", &"x".repeat(64)] {
            assert_eq!(parse_hostname(text).as_deref(), Ok(text));
        }
        for text in ["", "a b", "-a", ".a", "ä", "a\n", &"x".repeat(65)] {
            assert!(parse_hostname(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_dir("/a").as_deref(), Ok("/a"));
        for text in ["", "a", "./a"] {
            assert!(parse_dir(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn variables() {
        assert_eq!(variable("A=").unwrap().as_deref(), Some("A="));
        assert_eq!(variable("A=b=c").unwrap().as_deref(), Some("A=b=c"));
        assert_eq!(variable("DIST_NO_SUCH_VARIABLE").unwrap(), None);
        for text in ["", "=a", "A B=c"] {
            assert!(variable(text).is_err(), "{text:?}");
        }
    }
}
