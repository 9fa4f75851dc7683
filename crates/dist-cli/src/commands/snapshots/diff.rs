//! `dist snapshots diff`: what a snapshot changes, as a layer.

use std::io::{BufWriter, Write};
use std::sync::Arc;

use clap::ValueEnum;
use dist::DiffBlob;
use dist_core::{
    Cancel, Compression, Context, Error, ErrorKind, Labels, Mount, Result, SnapshotKey,
    SnapshotKind, Snapshotter,
};

use crate::config::Config;
use crate::{output, report};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes the changes from the snapshot's parent to it, or from KEY to OTHER, as a layer to standard
output: a tar with whiteouts. The same trees give the same bytes. With SOURCE_DATE_EPOCH in the
environment no entry has a later time. Pipe it into `dist ingest` to keep it in the store.

Examples:
  dist snapshots diff my-key | tar -tz
  dist snapshots diff --compression zstd sha256:... my-key | dist ingest my-layer")]
pub(crate) struct Args {
    /// The snapshot
    key: SnapshotKey,

    /// What it is compared with: the changes go from KEY to this one
    other: Option<SnapshotKey>,

    /// How the layer is compressed
    #[arg(long, value_enum, default_value_t = Form::Gzip, value_name = "FORM")]
    compression: Form,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    None,
    Gzip,
    Zstd,
}

impl From<Form> for Compression {
    fn from(form: Form) -> Self {
        match form {
            Form::None => Self::None,
            Form::Gzip => Self::Gzip,
            Form::Zstd => Self::Zstd,
        }
    }
}

/// Does it with the snapshotter that has the snapshot.
pub(super) fn run(
    config: &Config,
    args: &Args,
    find: impl Fn(&SnapshotKey) -> Result<Arc<dyn Snapshotter>>,
) -> Result<()> {
    let snapshotter = find(&args.key)?;
    let (lower, upper) = match &args.other {
        Some(other) => (Seen::new(snapshotter, &args.key)?, Seen::new(find(other)?, other)?),
        None => {
            let lower = match snapshotter.stat(&args.key)?.parent {
                Some(parent) => Seen::new(snapshotter.clone(), &parent)?,
                None => Seen::nothing(snapshotter.clone()),
            };
            (lower, Seen::new(snapshotter, &args.key)?)
        }
    };
    let options = DiffBlob {
        compression: args.compression.into(),
        source_date_epoch: config.source_date_epoch()?,
        ..DiffBlob::default()
    };
    let mut out = BufWriter::with_capacity(256 << 10, Output(std::io::stdout().lock()));
    let done =
        dist::write_diff(&lower.mounts, &upper.mounts, &options, &mut out, &Cancel::default())?;
    out.flush().map_err(output::output_error)?;
    for warning in done.warnings {
        report::warn(&format!("{} ({}, as {})", warning.what, warning.count, warning.first));
    }
    Ok(())
}

/// Standard output whose errors say what they are.
struct Output(std::io::StdoutLock<'static>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).map_err(|error| output::output_error(error).into_io())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush().map_err(|error| output::output_error(error).into_io())
    }
}

/// A snapshot that can be read: a committed one through a view, which goes with this value.
struct Seen {
    snapshotter: Arc<dyn Snapshotter>,
    mounts: Vec<Mount>,
    view: Option<SnapshotKey>,
}

impl Seen {
    fn new(snapshotter: Arc<dyn Snapshotter>, key: &SnapshotKey) -> Result<Self> {
        if snapshotter.stat(key)?.kind != SnapshotKind::Committed {
            let mounts = snapshotter.mounts(key)?;
            return Ok(Self { snapshotter, mounts, view: None });
        }
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let view: SnapshotKey = format!("diff {now}-{}", std::process::id())
            .parse()
            .context(ErrorKind::Internal, || "name a view".into())?;
        let mounts = snapshotter.view(&view, Some(key), &Labels::new())?;
        Ok(Self { snapshotter, mounts, view: Some(view) })
    }

    fn nothing(snapshotter: Arc<dyn Snapshotter>) -> Self {
        Self { snapshotter, mounts: Vec::new(), view: None }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if let Some(view) = &self.view
            && let Err(error) = self.snapshotter.remove(view)
        {
            let message = format!("remove view {view}");
            report::report(&Error::new(error.kind(), message).with_source(error));
        }
    }
}
