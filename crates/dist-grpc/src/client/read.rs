//! Between the API's values and ours, as a client reads them; and blobs that are read from a pipe.

use std::fs::File;
use std::io::Write as _;

use dist_core::{Blob, Context as _, ErrorKind, Result};
use prost_types::Timestamp;
use tonic::Streaming;

use super::{Client, error};
use crate::api::containerd::services::content::v1::ReadContentResponse;

/// A time in nanoseconds since the epoch; 0 where there is none.
pub(super) fn nanoseconds(time: Option<Timestamp>) -> i64 {
    const SECOND: i64 = 1_000_000_000;
    time.map_or(0, |time| time.seconds.saturating_mul(SECOND).saturating_add(time.nanos.into()))
}

/// Turns an answer to `Read` into a file to read from: a pipe, which is filled as it is emptied.
///
/// A broken answer ends the pipe early, and the reader finds the reason at its end.
pub(super) fn pipe(
    client: &Client,
    size: u64,
    mut answer: Streaming<ReadContentResponse>,
) -> Result<Blob> {
    let (reader, writer) = std::io::pipe().context(ErrorKind::Internal, || "make a pipe".into())?;
    let reader = File::from(std::os::fd::OwnedFd::from(reader));
    let (blob, break_off) = Blob::arriving(reader, size);
    let (send, mut chunks) = tokio::sync::mpsc::channel(4);
    client.calls.handle().spawn(async move {
        loop {
            match answer.message().await {
                Ok(Some(chunk)) => {
                    if send.send(chunk.data).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(status) => {
                    break_off.because(error(status));
                    return;
                }
            }
        }
    });
    client.calls.handle().spawn_blocking(move || {
        let mut writer = File::from(std::os::fd::OwnedFd::from(writer));
        while let Some(chunk) = chunks.blocking_recv() {
            if writer.write_all(&chunk).is_err() {
                return; // nobody reads any more
            }
        }
    });
    Ok(blob)
}
