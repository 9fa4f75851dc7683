//! The removal of a container by whoever saw its end.

use dist_core::{Container, Result};

use super::Containers;
use super::life::{blocking, is_gone};
use crate::{ProcessId, TaskClient};

impl Containers {
    /// Removes a container whose first process has ended, and ends its shim, which `client` speaks to:
    /// as [`end`](Self::end), [`TaskClient::shutdown`] and [`remove`](Self::remove), without a look at
    /// what is known, and its files go while the shim does.
    ///
    /// # Errors
    /// `Storage`; `Unavailable`; what the runtime says.
    pub async fn dispose(&self, container: &Container, client: &TaskClient) -> Result<()> {
        let (this, id) = (self.clone(), container.id.clone());
        let _life = blocking(move || this.lock_life(&id)).await?;
        match client.delete(ProcessId::First).await {
            // Somebody else was faster.
            Err(error) if !is_gone(&error) => return Err(error),
            _ => (),
        }
        let (this, of) = (self.clone(), container.clone());
        let files = blocking(move || this.remove_files(&of));
        let (ended, removed) = tokio::join!(client.shutdown(), files);
        ended?;
        removed
    }
}
