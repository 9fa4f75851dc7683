//! Plain lines: one for each change of a blob's state, and a sign of life now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dist_core::Event;

use super::model::Model;
use super::summary;
use crate::report::one_line;
use crate::table::printable;
use crate::terminal::Terminal;
use crate::units::binary_size;

/// A line is printed after this time without one, so that a log shows that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Prints lines until it is finished.
pub(super) struct Plain {
    terminal: Terminal,
    last_line: Mutex<Duration>,
}

impl Plain {
    pub(super) fn new(terminal: &Terminal) -> Self {
        Self { terminal: terminal.clone(), last_line: Mutex::default() }
    }

    /// Prints what `event` changed; `model` has taken it.
    pub(super) fn event(&self, model: &Model, event: &Event<'_>, now: Duration) {
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        let line = match state_line(model, event) {
            Some(line) => line,
            None if now.saturating_sub(*last_line) >= SIGN_OF_LIFE => summary(model.brought(), now),
            None => return,
        };
        *last_line = now;
        self.terminal.print(&line);
    }

    pub(super) fn finish(&self, model: &Model, now: Duration) {
        if model.brought() > 0 {
            self.terminal.print(&summary(model.brought(), now));
        }
    }
}

/// The line for a change of state; `None` where the event is none that people wait for.
fn state_line(model: &Model, event: &Event<'_>) -> Option<String> {
    let (digest, detail) = match event {
        Event::Resolved { name, target } => {
            return Some(format!("{}: resolved to {}", printable(name), target.digest));
        }
        Event::Started { desc, offset: 0 } => (&desc.digest, binary_size(desc.size)),
        Event::Started { desc, offset } => (
            &desc.digest,
            format!("{}, continued at {}", binary_size(desc.size), binary_size(*offset)),
        ),
        Event::Retrying { digest, error, .. } => (digest, one_line(*error)),
        Event::Existed { desc } => (&desc.digest, binary_size(desc.size)),
        Event::Committed { digest } => (digest, String::new()),
        Event::Unpacked { layer, .. } => (layer, String::new()),
        _ => return None,
    };
    let blob = model.blob(digest)?;
    let line = format!("{} {}: {}", blob.noun, blob.digest.short(), blob.state.word());
    Some(if detail.is_empty() { line } else { format!("{line} ({detail})") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dist_core::{Compression, Descriptor, Digest, Error, ErrorKind, MediaType};

    #[test]
    fn one_line_a_state() {
        let digest = Digest::sha256(b"x");
        let desc = Descriptor::new(MediaType::Layer(Compression::Gzip), digest, 2048);
        let error = Error::new(ErrorKind::Unavailable, "read\nbody");
        let mut model = Model::default();
        let mut lines = Vec::new();
        for event in [
            Event::Waiting { desc: &desc },
            Event::Started { desc: &desc, offset: 1024 },
            Event::Advanced { digest, bytes: 10 },
            Event::Retrying { digest, attempt: 2, error: &error },
            Event::Committed { digest },
            Event::Unpacked { layer: digest, chain_id: Some(dist_core::ChainId(digest)) },
        ] {
            model.take(&event, Duration::ZERO);
            lines.extend(state_line(&model, &event));
        }
        assert_eq!(
            lines,
            [
                "layer 2d711642b726: downloading (2.0 KiB, continued at 1.0 KiB)",
                "layer 2d711642b726: retry 2 (read\\nbody)",
                "layer 2d711642b726: done",
                "layer 2d711642b726: unpacked",
            ]
        );
    }
}
