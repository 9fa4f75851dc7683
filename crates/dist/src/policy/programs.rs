//! Programs that are asked about an image, called as containerd's `bindir` image verifier calls them.
//!
//! ```text
//! PROGRAM -name NAME -digest DIGEST -stdin-media-type application/vnd.oci.descriptor.v1+json
//! standard input   the descriptor as JSON
//! exit code        0 says yes, another says no
//! standard output  the reason
//! ```
//!
//! All programs of the directory are asked, by their names' order, until one says no. One that can't
//! be started, or takes too long, says no. Other than there, a directory that is missing, is empty
//! or has more programs than are to be called says no too: nothing is let through unasked.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use dist_core::{Context as _, Descriptor, Error, ErrorKind, Result, ResultExt as _};
use dist_policy::Programs;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::blocking::blocking;

const DESCRIPTOR: &str = "application/vnd.oci.descriptor.v1+json";

/// The most bytes that are read of what a program says.
const MOST_OUTPUT: u64 = 32 << 10;

/// Asks all; gives what they said.
pub(super) async fn ask(
    programs: &Programs,
    name: &str,
    target: &Descriptor,
) -> Result<Vec<String>> {
    let (directory, most) = (programs.directory.clone(), programs.most);
    let found = blocking(move || list(&directory, most)).await?;
    let input =
        serde_json::to_vec(target).context(ErrorKind::Internal, || "write a descriptor".into())?;
    let mut said = Vec::new();
    for path in found {
        let what = || format!("ask {}", path.display());
        let run = run(&path, name, target, &input);
        let answer = tokio::time::timeout(programs.timeout, run).await;
        let Ok(answer) = answer else {
            let message = format!("{}: it took longer than {:?}", what(), programs.timeout);
            return Err(Error::new(ErrorKind::Denied, message));
        };
        said.push(format!("{}: {}", path.display(), answer.during(what)?));
    }
    Ok(said)
}

/// How many programs would be asked.
///
/// # Errors
/// `Denied` where no image would be let through: the directory can't be read, is empty or has too many.
pub fn count_programs(programs: &Programs) -> Result<usize> {
    list(&programs.directory, programs.most).map(|found| found.len())
}

fn list(directory: &Path, most: usize) -> Result<Vec<PathBuf>> {
    let what = || format!("list programs in {}", directory.display());
    let entries = fs_err::read_dir(directory).context(ErrorKind::Denied, what)?;
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.context(ErrorKind::Denied, what)?.path());
    }
    found.sort();
    let problem = match found.len() {
        0 => "there is none".to_owned(),
        count if count > most => format!("there are {count}, and {most} are to be called"),
        _ => return Ok(found),
    };
    Err(Error::new(ErrorKind::Denied, format!("{}: {problem}", what())))
}

fn not_started(path: &Path, error: std::io::Error) -> Error {
    let message = match error.kind() {
        std::io::ErrorKind::PermissionDenied if path.is_dir() => "start it: it is a directory",
        std::io::ErrorKind::PermissionDenied => "start it: it may not be executed",
        _ => return Error::new(ErrorKind::Denied, "start it").with_source(error),
    };
    Error::new(ErrorKind::Denied, message)
}

/// The processes of a program: it and what it starts.
struct Group(Option<u32>);

impl Drop for Group {
    /// Kills what has not ended.
    fn drop(&mut self) {
        let id = self.0.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may just have ended.
            let _ended = rustix::process::kill_process_group(id, Signal::KILL);
        }
    }
}

/// Asks one. Dropping the future kills it, and what it started.
async fn run(path: &Path, name: &str, target: &Descriptor, input: &[u8]) -> Result<String> {
    let mut child = Command::new(path)
        .args(["-name", name, "-digest", &target.digest.to_string()])
        .args(["-stdin-media-type", DESCRIPTOR])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| not_started(path, error))?;
    let mut group = Group(child.id());
    let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let write = async {
        if let Some(mut stdin) = stdin.take() {
            // One that needs no descriptor does not read it.
            drop(stdin.write_all(input).await);
        }
    };
    let read = async {
        let Some(mut stdout) = stdout else { return Ok(Vec::new()) };
        let mut said = Vec::new();
        (&mut stdout).take(MOST_OUTPUT).read_to_end(&mut said).await?;
        tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await?;
        Ok::<_, std::io::Error>(said)
    };
    let ((), said) = futures_util::join!(write, read);
    let said = said.context(ErrorKind::Denied, || "read its answer".into())?;
    let status = child.wait().await.context(ErrorKind::Denied, || "wait for it".into())?;
    group.0 = None;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if status.success() {
        return Ok(said);
    }
    Err(Error::new(ErrorKind::Denied, format!("it says no ({status}): {said}")))
}
