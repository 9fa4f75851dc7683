//! Ordinary users unpack in a user namespace: this process starts again inside one.
//!
//! util-linux' `unshare` makes it: in the new namespace the user is root and, where `newuidmap` and
//! a range in `/etc/subuid` are there, all other owners exist too.

use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use dist_core::{Context, Error, ErrorKind, Result};

use crate::config::Config;
use crate::report;

const ONE_OWNER: &[&str] = &["--user", "--map-root-user", "--mount"];
const ALL_OWNERS: &[&str] = &["--user", "--map-root-user", "--map-auto", "--mount"];

/// The variable that tells the process inside with which flags the namespace was made.
pub(crate) const ENTERED: &str = "DIST_ENTERED";

/// The cause of an error for a user namespace that could not be had.
#[derive(Debug)]
pub(crate) struct NoUserNamespace(String);

impl fmt::Display for NoUserNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

fn enter_and(config: &Config, unpacks: bool) -> Result<()> {
    if rustix::process::geteuid().is_root() || config.snapshotter_flag() == Some("native") {
        return Ok(());
    }
    let flags = match probe(ALL_OWNERS) {
        Ok(()) => ALL_OWNERS,
        Err(all) => {
            probe(ONE_OWNER).map_err(|problem| {
                let missing = missing(&problem);
                Error::new(ErrorKind::FailedPrecondition, "make a user namespace to unpack in")
                    .with_source(NoUserNamespace(missing))
            })?;
            if unpacks {
                report::warn(&format!(
                    "all files will belong to you: newuidmap or a range in /etc/subuid is missing \
                     ({all})"
                ));
            }
            ONE_OWNER
        }
    };
    let binary = std::env::current_exe()
        .context(ErrorKind::Internal, || "find the path of this program".into())?;
    let root = std::path::absolute(config.root()?)
        .context(ErrorKind::InvalidArgument, || "find the root directory".into())?;
    let error = Command::new("unshare")
        .args(flags)
        .arg("--")
        .arg(binary)
        .args(std::env::args_os().skip(1))
        .env("DIST_ROOT", root) // inside, the user is root, whose default is another
        .env(ENTERED, flags.join(" "))
        .exec();
    Err(error).context(ErrorKind::Internal, || "run unshare".into())
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
