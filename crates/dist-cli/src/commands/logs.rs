//! `dist logs`: what a container wrote.

use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dist_core::{Container, ContainerId, Context as _, Error, ErrorKind, Result};
use dist_run::{Containers, Observed, ProcessId};
use fs_err::File;
use rustix::fs::inotify;
use tokio::sync::oneshot;

use super::containers::named;
use super::run::{block_on, open};
use super::stop::settle;
use crate::config::Config;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What a container wrote that was run with --detach; the others' output went where `dist run` was.

Examples:
  dist logs my-redis
  dist logs --follow my-redis
  dist logs --follow --tail 0 my-redis")]
pub(crate) struct Args {
    /// Go on as it writes, until it has ended
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last so many lines [default: all]
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,

    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let containers = open(config)?;
    let container = named(&containers, &args.id)?;
    let path = containers.output(&args.id);
    let Some(file) = Written::open(&path)? else {
        let message =
            format!("read the output of container {}: it was not run with --detach", args.id);
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    if let Some(lines) = args.tail {
        file.skip_to_last(lines)?;
    }
    if args.follow { block_on(follow(&containers, &container, &path, file)) } else { file.print() }
}

/// How much is looked through at once, from the end.
const BLOCK: usize = 64 << 10;

/// What a container wrote, as far as it is not printed.
#[derive(Clone)]
pub(super) struct Written(Arc<Mutex<File>>);

impl Written {
    /// All of it; nothing where there is no such file.
    fn open(path: &Path) -> Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self(Arc::new(Mutex::new(file))))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(ErrorKind::Storage, || "read the output".into()),
        }
    }

    /// What it writes from now on; nothing where there is no such file.
    pub(super) fn from_its_end(path: &Path) -> Result<Option<Self>> {
        let Some(written) = Self::open(path)? else { return Ok(None) };
        let mut file = written.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::End(0)).context(ErrorKind::Storage, || "read the output".into())?;
        drop(file);
        Ok(Some(written))
    }

    /// Leaves out all but the last lines.
    fn skip_to_last(&self, lines: u64) -> Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = last_lines(file.file(), lines).and_then(|at| file.seek(SeekFrom::Start(at)));
        found.map(drop).context(ErrorKind::Storage, || "read the output".into())
    }

    /// Prints what is new.
    pub(super) fn print(&self) -> Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output::print(|out| std::io::copy(&mut *file, out).map(drop))
    }

    /// Prints what is new, whenever there is something.
    pub(super) fn print_on(&self, path: &Path) -> Result<()> {
        let watch = || {
            let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
            inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY)?;
            Ok(watch)
        };
        let what = || format!("watch {}", path.display());
        let watch =
            watch().map_err(|errno: rustix::io::Errno| errno).context(ErrorKind::Storage, what)?;
        let mut events = [std::mem::MaybeUninit::uninit(); 4096];
        loop {
            self.print()?;
            // Any number of events at once are one reason to look.
            rustix::io::read(&watch, &mut events).context(ErrorKind::Storage, what)?;
        }
    }
}

/// Where the last `lines` lines of a file begin. One without an end is one, too.
fn last_lines(file: &std::fs::File, lines: u64) -> std::io::Result<u64> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut left, mut buffer) = (end, lines, vec![0; BLOCK]);
    while at > 0 {
        let part = &mut buffer[..usize::try_from(at).unwrap_or(BLOCK).min(BLOCK)];
        at -= part.len() as u64;
        file.read_exact_at(part, at)?;
        for (index, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let begin = at + index as u64 + 1;
            if begin < end {
                left -= 1;
                if left == 0 {
                    return Ok(begin);
                }
            }
        }
    }
    Ok(0)
}

async fn follow(
    containers: &Containers,
    container: &Container,
    path: &Path,
    file: Written,
) -> Result<()> {
    if let Observed::Running(_) | Observed::Paused(_) = containers.observe(container).await? {
        let (failed, failure) = oneshot::channel();
        let (printing, path) = (file.clone(), path.to_owned());
        // It ends with this process.
        drop(std::thread::spawn(move || failed.send(printing.print_on(&path))));
        let client = containers.connect(container).await?;
        tokio::select! {
            ended = client.wait(ProcessId::First) => ended.map(drop)?,
            Ok(result) = failure => return result,
        }
        settle(containers, container, &client).await?;
    }
    file.print()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn lines_are_counted_from_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        let long = "x".repeat(BLOCK - 3);
        let text = format!("first\n\n{long}\nlast\nunended");
        file.write_all(text.as_bytes()).unwrap();
        for (lines, rest) in [
            (0, String::new()),
            (1, "unended".into()),
            (2, "last\nunended".into()),
            (3, format!("{long}\nlast\nunended")),
            (4, format!("\n{long}\nlast\nunended")),
            (5, text.clone()),
            (6, text.clone()),
            (u64::MAX, text.clone()),
        ] {
            let at = last_lines(&file, lines).unwrap();
            assert_eq!(&text[usize::try_from(at).unwrap()..], rest, "{lines}");
        }
        let ended = tempfile::tempfile().unwrap();
        assert_eq!(last_lines(&ended, 1).unwrap(), 0);
        (&ended).write_all(b"a\nb\n").unwrap();
        assert_eq!(last_lines(&ended, 1).unwrap(), 2);
    }
}
