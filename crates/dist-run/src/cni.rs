//! Networks by the plugins of the Container Network Interface (CNI specification 1.0.0): which ones a
//! container joins is a list of plugins, each a program that is told with `ADD` to connect a network
//! namespace and with `DEL` to undo that. Nothing of a network is made here.

mod config;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use dist_core::{ContainerId, Context as _, Error, ErrorKind, Result, ResultExt as _};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::pidfd;

/// How long a plugin may take where nobody says otherwise: some wait for an address from elsewhere.
const LIMIT: Duration = Duration::from_secs(30);

/// The interface in the container.
const INTERFACE: &str = "eth0";

/// What makes the loopback of a network namespace work.
const LOOPBACK: &str = "loopback";

/// Where networks are described, and where their plugins lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cni {
    /// Directory of `*.conflist` and `*.conf`.
    pub config_dir: PathBuf,
    /// Directories of plugins, the first one first.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where plugins look for their programs.
    pub path: Option<OsString>,
    /// How long a plugin may take; then it is killed.
    pub limit: Duration,
}

/// A network that containers can join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Its name.
    pub name: String,
    /// The version of the specification that its plugins are spoken to in.
    #[serde(rename = "cniVersion")]
    pub version: String,
    /// What each plugin is told, in their order.
    pub plugins: Vec<Map<String, Value>>,
}

/// What a container has of a network: what it joined, and what the plugins said of that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Joined {
    #[serde(flatten)]
    pub(crate) config: NetworkConfig,
    /// The result of the last plugin; nothing while they are at it.
    pub(crate) result: Option<Value>,
}

/// Kills a plugin, and what it has started, when its time is over; the thread says whether it was.
fn limit(plugin: &Child, limit: Duration) -> rustix::io::Result<JoinHandle<bool>> {
    let pid = Pid::from_child(plugin);
    let ends = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(std::thread::spawn(move || {
        let is_late = pidfd::wait_within(&ends, limit).is_ok_and(|in_time| !in_time);
        if is_late && let Err(error) = kill_process_group(pid, Signal::KILL) {
            tracing::debug!(%error, "a network plugin was not killed");
        }
        is_late
    }))
}

impl Joined {
    /// The addresses of the container.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result.as_ref().and_then(|result| result.get("ips")?.as_array());
        ips.into_iter()
            .flatten()
            .filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok())
            .collect()
    }

    /// `/etc/resolv.conf`, where the network has name servers of its own.
    pub(crate) fn resolvers(&self) -> Option<String> {
        let dns = self.result.as_ref()?.get("dns")?;
        let list = |name: &str| -> Vec<&str> {
            let list = dns.get(name).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let servers = list("nameservers");
        if servers.is_empty() {
            return None;
        }
        let mut text: String =
            servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        let domain: Vec<&str> = dns.get("domain").and_then(Value::as_str).into_iter().collect();
        for (word, values) in
            [("domain", domain), ("search", list("search")), ("options", list("options"))]
        {
            if !values.is_empty() {
                text.push_str(&format!("{word} {}\n", values.join(" ")));
            }
        }
        Some(text)
    }
}

/// What is said to a plugin beside its config.
struct Call<'a> {
    command: &'static str,
    id: String,
    /// Empty where it is gone.
    namespace: &'a Path,
    interface: &'static str,
}

impl Cni {
    /// The directories that distributions and administrators use.
    #[must_use]
    pub fn usual(path: Option<OsString>) -> Self {
        let dirs = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];
        let plugin_dirs = dirs.map(Into::into).into();
        Self { config_dir: "/etc/cni/net.d".into(), plugin_dirs, path, limit: LIMIT }
    }

    /// Finds a network by its name; `bridge` is there also where nobody describes it.
    ///
    /// # Errors
    /// `InvalidArgument` where there is none, or it is not valid; `NotFound` for a plugin.
    pub fn network(&self, name: &str) -> Result<NetworkConfig> {
        let network = config::find(&self.config_dir, name)?;
        for plugin in network.plugins.iter().map(kind).chain([Ok(LOOPBACK)]) {
            self.find_plugin(plugin?)?;
        }
        Ok(network)
    }

    /// Connects the network namespace at `path`.
    ///
    /// # Errors
    /// `NotFound` for a plugin; `Internal` with what a plugin says.
    pub(crate) fn add(
        &self,
        config: &NetworkConfig,
        id: &ContainerId,
        path: &Path,
    ) -> Result<Value> {
        let call =
            |interface| Call { command: "ADD", id: id.to_string(), namespace: path, interface };
        let loopback = json!({"cniVersion": config.version, "name": LOOPBACK, "type": LOOPBACK});
        self.call(LOOPBACK, &call("lo"), &loopback)?;
        let mut result = None;
        for plugin in &config.plugins {
            let told = told(config, plugin, result.as_ref());
            result = self.call(kind(plugin)?, &call(INTERFACE), &told)?;
        }
        let what = || Error::new(ErrorKind::Internal, "the last plugin gave no result");
        result.ok_or_else(what).during(|| format!("join network {}", config.name))
    }

    /// Undoes [`add`](Self::add), or what was done of it.
    pub(crate) fn delete(&self, joined: &Joined, id: &ContainerId, path: &Path) -> Result<()> {
        let namespace = if path.exists() { path } else { Path::new("") };
        let call = Call { command: "DEL", id: id.to_string(), namespace, interface: INTERFACE };
        for plugin in joined.config.plugins.iter().rev() {
            let told = told(&joined.config, plugin, joined.result.as_ref());
            self.call(kind(plugin)?, &call, &told)?;
        }
        Ok(())
    }

    fn call(&self, plugin: &str, call: &Call<'_>, told: &Value) -> Result<Option<Value>> {
        let program = self.find_plugin(plugin)?;
        let what = || format!("call network plugin {} with {}", program.display(), call.command);
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", &call.id)
            .env("CNI_NETNS", call.namespace)
            .env("CNI_IFNAME", call.interface)
            .env("CNI_PATH", self.joined_dirs())
            .env("PATH", self.programs())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().context(ErrorKind::Internal, what)?;
        let watch = limit(&child, self.limit).context(ErrorKind::Internal, what)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read it says why.
            drop(stdin.write_all(told.to_string().as_bytes()));
        }
        let output = child.wait_with_output().context(ErrorKind::Internal, what)?;
        if watch.join().unwrap_or(false) {
            let message = format!("it did not end within {:?} and was killed", self.limit);
            return Err(Error::new(ErrorKind::Unavailable, message)).during(what);
        }
        if !output.status.success() {
            let mut said = said(&output.stdout, &output.stderr);
            if said.is_empty() {
                said = format!("it says nothing ({})", output.status);
            }
            return Err(Error::new(ErrorKind::Internal, said)).during(what);
        }
        if call.command != "ADD" {
            return Ok(None);
        }
        serde_json::from_slice(&output.stdout).context(ErrorKind::Internal, what).map(Some)
    }

    fn find_plugin(&self, name: &str) -> Result<PathBuf> {
        // It is a name in those directories, never a path out of them.
        let found = self.plugin_dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        found.filter(|_| !name.contains('/') && name != "..").ok_or_else(|| {
            let dirs = self.joined_dirs();
            let message = format!(
                "find network plugin {name:?} in {}: there is none; Debian's are in \
                 containernetworking-plugins",
                dirs.to_string_lossy()
            );
            Error::new(ErrorKind::NotFound, message)
        })
    }

    fn joined_dirs(&self) -> OsString {
        // Directories with a colon can't be told of.
        std::env::join_paths(&self.plugin_dirs).unwrap_or_default()
    }

    /// Our own `PATH`, and administrators' directories, where `iptables` lies.
    fn programs(&self) -> OsString {
        let mut path = self.path.clone().unwrap_or_default();
        path.push(OsStr::new(":/usr/local/sbin:/usr/sbin:/sbin"));
        path
    }
}

fn kind(plugin: &Map<String, Value>) -> Result<&str> {
    plugin.get("type").and_then(Value::as_str).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "read a network plugin: it has no type")
    })
}

/// What a plugin is told: what the list says of it, the list's name, and what came before.
fn told(config: &NetworkConfig, plugin: &Map<String, Value>, before: Option<&Value>) -> Value {
    let mut told = plugin.clone();
    told.insert("name".into(), json!(config.name));
    told.insert("cniVersion".into(), json!(config.version));
    if let Some(before) = before {
        told.insert("prevResult".into(), before.clone());
    }
    Value::Object(told)
}

/// Why a plugin failed: its own error, else what it wrote.
fn said(stdout: &[u8], stderr: &[u8]) -> String {
    let told: Value = serde_json::from_slice(stdout).unwrap_or_default();
    let text = |name: &str| told.get(name).and_then(Value::as_str).unwrap_or_default();
    match [text("msg"), text("details")] {
        ["", _] => String::from_utf8_lossy(if stdout.is_empty() { stderr } else { stdout })
            .trim()
            .to_owned(),
        [message, ""] => message.to_owned(),
        [message, details] => format!("{message}: {details}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(result: Value) -> Joined {
        let config =
            NetworkConfig { name: "n".into(), version: "1.0.0".into(), plugins: Vec::new() };
        Joined { config, result: Some(result) }
    }

    #[test]
    fn results_are_read() {
        let whole = joined(json!({
            "ips": [{"address": "10.1.0.2/16", "gateway": "10.1.0.1"}, {"address": "fd00::2/64"}],
            "dns": {"nameservers": ["10.1.0.1"], "search": ["a.b", "c"], "options": ["ndots:2"]},
        }));
        let addresses: Vec<String> = whole.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.1.0.2", "fd00::2"]);
        let resolvers = "nameserver 10.1.0.1\nsearch a.b c\noptions ndots:2\n";
        assert_eq!(whole.resolvers().as_deref(), Some(resolvers));
        let nothing = joined(json!({"dns": {}}));
        assert!(nothing.addresses().is_empty() && nothing.resolvers().is_none());
    }

    #[test]
    fn a_plugin_is_told_of_its_list_and_says_why_it_failed() {
        let plugin = json!({"type": "bridge", "bridge": "b0"}).as_object().unwrap().clone();
        let config =
            NetworkConfig { name: "n".into(), version: "0.4.0".into(), plugins: vec![plugin] };
        let wanted = json!({"type": "bridge", "bridge": "b0", "name": "n", "cniVersion": "0.4.0",
            "prevResult": {"ips": []}});
        assert_eq!(told(&config, &config.plugins[0], Some(&json!({"ips": []}))), wanted);
        assert_eq!(said(br#"{"code":11,"msg":"busy","details":"x"}"#, b"other"), "busy: x");
        assert_eq!(said(b"", b"no iptables\n"), "no iptables");
        let cni =
            Cni { config_dir: "/x".into(), plugin_dirs: vec!["/bin".into()], ..Cni::usual(None) };
        for bad in ["../bin/sh", "no-such-plugin", ".."] {
            assert_eq!(cni.find_plugin(bad).unwrap_err().kind(), ErrorKind::NotFound, "{bad}");
        }
    }

    #[test]
    fn a_plugin_that_does_not_end_is_killed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (plugin, pids) = (dir.path().join("hangs"), dir.path().join("pids"));
        // What it has started has its output, too.
        let script = format!("#!/bin/sh\nsleep 1000 & echo $$ $! >{}\nwait\n", pids.display());
        std::fs::write(&plugin, script).unwrap();
        std::fs::set_permissions(&plugin, PermissionsExt::from_mode(0o755)).unwrap();
        let cni = Cni {
            plugin_dirs: vec![dir.path().into()],
            limit: Duration::from_secs(1),
            ..Cni::usual(std::env::var_os("PATH"))
        };
        let namespace = Path::new("/proc/self/ns/net");
        let call = Call { command: "ADD", id: "c".into(), namespace, interface: INTERFACE };
        let error = cni.call("hangs", &call, &json!({})).unwrap_err();
        let told = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(told.contains("hangs with ADD: it did not end within 1s"), "{told}");
        let pids = std::fs::read_to_string(pids).unwrap();
        // A process that was killed may still be ending.
        let ends = std::time::Instant::now() + Duration::from_secs(60);
        for pid in pids.split_whitespace() {
            let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            while !state().is_empty() && !state().contains(") Z ") {
                assert!(std::time::Instant::now() < ends, "{}", state());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
