//! Where a client's calls run: on a runtime of its own, whatever thread waits for them.

use dist_core::{Context as _, ErrorKind, Result};
use tokio::runtime::{Builder, Handle, Runtime};

/// Runs calls. It may be used and dropped anywhere, within another runtime too: it ends without waiting.
pub(super) struct Calls {
    handle: Handle,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Calls {
    /// # Errors
    /// `Internal` where there can be no more threads.
    pub(super) fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("client")
            .enable_all()
            .build()
            .context(ErrorKind::Internal, || "start the client".into())?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for a call, from whatever thread.
    pub(super) fn wait<T, F>(&self, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let _gone = answer.send(call.await); // the caller may have been stopped
        });
        answered.recv().context(ErrorKind::Internal, || "wait for the daemon".into())?
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
