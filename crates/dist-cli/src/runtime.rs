//! The bridge from commands to the async engine. Commands that need no network do not come here.

use std::time::Duration;

use dist_core::{Context, ErrorKind, Result};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::runtime::Runtime;

use crate::args::MOST_JOBS;
use crate::signals::{self, Signals};

/// How long blocking writers may take to close their ingests after a stop.
const GRACE: Duration = Duration::from_secs(10);

/// Threads for blocking work. Each job waits on one or two of them while others read files and ask
/// for names: there must always be some left.
const BLOCKING: usize = 4 * MOST_JOBS as usize + 64;

/// Runs `work` to its end, or to the first signal or to the end of its time: then it is dropped, and the
/// blocking halves that it had running get [`GRACE`] to close their files. After this a signal ends
/// the process at once.
pub(crate) fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut signals = Signals::take_over()?;
    let runtime = start()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = work => result,
            stopped = signals.stopped() => Err(stopped.during(signals::what_or("stop"))),
        }
    });
    if result.is_ok() {
        runtime.shutdown_background();
    } else {
        runtime.shutdown_timeout(GRACE);
    }
    result
}

/// Runs `work` to its end, which no signal stops: it sees to signals itself, or is short.
pub(crate) fn run_unstopped<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    // One thread does: others only for what blocks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(ErrorKind::Internal, || "start the runtime".into())?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Runs a server to its end. The first signal ends the future that it is given, after which it ends
/// in its own time; the second ends the process at once.
pub(crate) fn serve<F: Future<Output = Result<()>>>(
    server: impl FnOnce(BoxFuture<'static, ()>) -> F,
) -> Result<()> {
    let mut signals = Signals::take_over()?;
    let runtime = start()?;
    let stop = async move {
        signals.stopped().await;
    };
    let result = runtime.block_on(server(stop.boxed()));
    runtime.shutdown_timeout(GRACE);
    result
}

fn start() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING)
        .build()
        .context(ErrorKind::Internal, || "start the runtime".into())
}
