//! `dist logs`: what a container wrote.

use std::io::{Seek as _, SeekFrom};
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
  dist logs --follow my-redis")]
pub(crate) struct Args {
    /// Go on as it writes, until it has ended
    #[arg(short, long)]
    follow: bool,

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
    if args.follow { block_on(follow(&containers, &container, &path, file)) } else { file.print() }
}

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
