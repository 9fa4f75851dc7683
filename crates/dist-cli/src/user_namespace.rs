//! Ordinary users unpack, and run containers, in a user namespace: this process starts again inside one.
//!
//! util-linux' `unshare` makes it: in the new namespace the user is root and, where `newuidmap` and
//! a range in `/etc/subuid` are there, all other owners exist too.

use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use dist_core::{ContainerId, Context, Error, ErrorKind, Result};
use dist_run::rootless;

use crate::config::Config;
use crate::report;

const ONE_OWNER: &[&str] = &["--user", "--map-root-user", "--mount"];
const ALL_OWNERS: &[&str] = &["--user", "--map-root-user", "--map-auto", "--mount"];

/// The variable that tells the process inside with which flags the namespace was made.
pub(crate) const ENTERED: &str = "DIST_ENTERED";

/// The cause of an error for a user namespace that could not be had.
#[derive(Debug)]
pub(crate) struct NoUserNamespace {
    reason: String,
    /// Whether it was for unpacking, which can do without.
    pub(crate) unpacks: bool,
}

impl fmt::Display for NoUserNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for NoUserNamespace {}

/// Makes sure that snapshots can be unpacked: does nothing as root, else starts this command again
/// in a user namespace and does not return.
///
/// `--snapshotter native` needs none: then files belong to the user.
pub(crate) fn enter(config: &Config) -> Result<()> {
    enter_and(config, true)
}

/// The same for who makes snapshots of layers. Refuses those that this user could never mount.
pub(crate) fn enter_to_unpack(config: &Config) -> Result<()> {
    refuse_unmountable(config)?;
    enter(config)
}

/// Fails for a snapshotter whose snapshots this user could never mount.
pub(crate) fn refuse_unmountable(config: &Config) -> Result<()> {
    match config.snapshotter_flag() {
        Some(name) if !dist_snapshot::is_allowed(name) => {
            let message = format!(
                "unpack with {name}: only root may mount its images, and not in a user namespace \
                 (--snapshotter overlayfs or native; `dist fetch` unpacks nothing)"
            );
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        _ => Ok(()),
    }
}

/// The same for what is unpacked already.
pub(crate) fn enter_again(config: &Config) -> Result<()> {
    enter_and(config, false)
}

/// Says how to come to where printed mount commands work, if this process was started again there.
pub(crate) fn tell_how(config: &Config) -> Result<()> {
    if let Some(flags) = config.entered() {
        let root = std::path::absolute(config.root()?).unwrap_or_default();
        let root = root.to_string_lossy().replace('\'', r"'\''");
        report::hint(&format!(
            "mount it in a user namespace: unshare {flags} env DIST_ROOT='{root}' sh"
        ));
    }
    Ok(())
}

/// The same for containers, whatever the snapshotter. With an `id` it is the user namespace in which
/// that container runs.
pub(crate) fn enter_with_containers(config: &Config, id: Option<&ContainerId>) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (root, namespace) = (config.root()?, &config.namespace);
    rootless::end_orphans(root, namespace);
    let Some(pid) = id.and_then(|id| rootless::first_process(root, namespace, id)) else {
        let found = find().map_err(|reason| none("run containers in", reason, false))?;
        return start_again(config, found.flags);
    };
    let mut command = Command::new("nsenter");
    command.arg(format!("--user=/proc/{pid}/ns/user"));
    command.args(["--preserve-credentials", "--", "unshare", "--mount"]);
    replace_by(command, config, ALL_OWNERS)
}

fn enter_and(config: &Config, unpacks: bool) -> Result<()> {
    if rustix::process::geteuid().is_root() || config.snapshotter_flag() == Some("native") {
        return Ok(());
    }
    let found = find().map_err(|reason| none("unpack in", reason, true))?;
    if let (true, Some(problem)) = (unpacks, found.problem) {
        report::warn(&format!(
            "all files will belong to you: newuidmap or a range in /etc/subuid is missing \
             ({problem})"
        ));
    }
    start_again(config, found.flags)
}

/// A user namespace that can be had.
struct Found {
    flags: &'static [&'static str],
    /// Why it is not one with all owners.
    problem: Option<String>,
}

/// Finds out which user namespace can be had; the error is why none can.
fn find() -> Result<Found, String> {
    match probe(ALL_OWNERS) {
        Ok(()) => Ok(Found { flags: ALL_OWNERS, problem: None }),
        Err(problem) => {
            probe(ONE_OWNER).map_err(|problem| missing(&problem))?;
            Ok(Found { flags: ONE_OWNER, problem: Some(problem) })
        }
    }
}

fn none(purpose: &str, reason: String, unpacks: bool) -> Error {
    let message = format!("make a user namespace to {purpose}");
    Error::new(ErrorKind::FailedPrecondition, message)
        .with_source(NoUserNamespace { reason, unpacks })
}

/// Starts this command again in a user namespace that is made with `flags`.
fn start_again(config: &Config, flags: &[&str]) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(flags);
    replace_by(command, config, flags)
}

/// Becomes `command`, which is to become this command.
fn replace_by(mut command: Command, config: &Config, flags: &[&str]) -> Result<()> {
    let binary = std::env::current_exe()
        .context(ErrorKind::Internal, || "find the path of this program".into())?;
    let root = std::path::absolute(config.root()?)
        .context(ErrorKind::InvalidArgument, || "find the root directory".into())?;
    let program = command.get_program().to_owned();
    let error = command
        .arg("--")
        .arg(binary)
        .args(std::env::args_os().skip(1))
        .env("DIST_ROOT", root) // inside, the user is root, whose default is another
        .env(ENTERED, flags.join(" "))
        .exec();
    Err(error).context(ErrorKind::Internal, || format!("run {}", program.display()))
}

/// Tries to make such a namespace; the error is what `unshare` says.
fn probe(flags: &[&str]) -> Result<(), String> {
    let output = Command::new("unshare").args(flags).args(["--", "true"]).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err("there is no unshare program; it is in util-linux".into())
        }
        Err(error) => Err(format!("unshare does not run: {error}")),
    }
}

/// Why no user namespace is to be had, as far as the kernel tells.
fn missing(problem: &str) -> String {
    for (path, forbids, reason) in [
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "user.max_user_namespaces is 0; an administrator can raise it",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone is 0; an administrator can set it to 1",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "AppArmor forbids it (kernel.apparmor_restrict_unprivileged_userns is 1)",
        ),
    ] {
        if fs_err::read_to_string(path).is_ok_and(|value| value.trim() == forbids) {
            return format!("{reason} ({problem})");
        }
    }
    problem.to_owned()
}
