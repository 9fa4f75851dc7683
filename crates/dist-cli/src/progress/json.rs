//! JSON lines: one object for each event; fields are only ever added (docs/cli.md).
//!
//! `advanced` is printed at most every 100 ms for a blob and then holds the sum; what is left is
//! printed before the blob's next event, so that the sums are exact.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dist_core::{Descriptor, Digest, Event};
use serde_json::{Value, json};

use crate::report::one_line;
use crate::terminal::Terminal;

const EVERY: Duration = Duration::from_millis(100);

/// Prints events until it is finished.
pub(super) struct Json {
    terminal: Terminal,
    held: Mutex<HashMap<Digest, Held>>,
}

/// Bytes of a blob that were not yet printed.
struct Held {
    bytes: u64,
    have: u64,
    printed: Duration,
}

impl Json {
    pub(super) fn new(terminal: &Terminal) -> Self {
        Self { terminal: terminal.clone(), held: Mutex::default() }
    }

    pub(super) fn event(&self, event: &Event<'_>, now: Duration) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for value in lines(&mut held, event, now) {
            self.print(value, now);
        }
    }

    pub(super) fn finish(&self, now: Duration) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let digests: Vec<Digest> = held.keys().copied().collect();
        for digest in digests {
            if let Some(value) = flush(&mut held, &digest, now) {
                self.print(value, now);
            }
        }
    }

    fn print(&self, mut value: Value, now: Duration) {
        value["elapsed_ms"] = json!(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.terminal.print(&value.to_string());
    }
}

/// The objects that an event makes printable.
fn lines(held: &mut HashMap<Digest, Held>, event: &Event<'_>, now: Duration) -> Vec<Value> {
    let (digest, value) = match event {
        Event::Advanced { digest, bytes } => {
            let blob =
                held.entry(*digest).or_insert(Held { bytes: 0, have: 0, printed: Duration::ZERO });
            blob.bytes += bytes;
            blob.have += bytes;
            if now.saturating_sub(blob.printed) < EVERY {
                return Vec::new();
            }
            return flush(held, digest, now).into_iter().collect();
        }
        Event::Started { desc, offset } => {
            held.insert(desc.digest, Held { bytes: 0, have: *offset, printed: now });
            let mut value = blob("started", desc);
            value["offset"] = json!(offset);
            return vec![value];
        }
        Event::Resolved { name, target } => {
            let mut value = blob("resolved", target);
            value["name"] = json!(name);
            (None, value)
        }
        Event::Waiting { desc } => (None, blob("waiting", desc)),
        Event::Existed { desc } => (Some(&desc.digest), blob("existed", desc)),
        Event::Retrying { digest, attempt, error } => {
            let value = json!({
                "event": "retrying", "digest": digest, "attempt": attempt, "error": one_line(*error),
            });
            (Some(digest), value)
        }
        Event::Committed { digest } => {
            (Some(digest), json!({ "event": "committed", "digest": digest }))
        }
        Event::Unpacked { layer, chain_id } => {
            (Some(layer), json!({ "event": "unpacked", "digest": layer, "chain_id": chain_id }))
        }
        Event::Warned { message } => (None, json!({ "event": "warned", "message": message })),
        _ => return Vec::new(),
    };
    let rest = digest.and_then(|digest| flush(held, digest, now));
    rest.into_iter().chain([value]).collect()
}

fn blob(event: &str, desc: &Descriptor) -> Value {
    json!({
        "event": event,
        "digest": desc.digest,
        "kind": desc.media_type.noun(),
        "media_type": desc.media_type.as_str(),
        "size": desc.size,
    })
}

fn flush(held: &mut HashMap<Digest, Held>, digest: &Digest, now: Duration) -> Option<Value> {
    let blob = held.get_mut(digest).filter(|blob| blob.bytes > 0)?;
    let bytes = std::mem::take(&mut blob.bytes);
    blob.printed = now;
    Some(json!({ "event": "advanced", "digest": digest, "bytes": bytes, "offset": blob.have }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dist_core::{Compression, MediaType};

    #[test]
    fn advances_add_up() {
        let digest = Digest::sha256(b"x");
        let desc = Descriptor::new(MediaType::Layer(Compression::Gzip), digest, 100);
        let mut held = HashMap::new();
        let mut all = lines(&mut held, &Event::Started { desc: &desc, offset: 40 }, Duration::ZERO);
        for millisecond in 0..60 {
            let now = Duration::from_millis(millisecond * 10);
            all.extend(lines(&mut held, &Event::Advanced { digest, bytes: 1 }, now));
        }
        all.extend(lines(&mut held, &Event::Committed { digest }, Duration::from_millis(600)));
        let names: Vec<_> = all.iter().filter_map(|value| value["event"].as_str()).collect();
        assert_eq!(names.iter().filter(|name| **name == "advanced").count(), 6);
        assert_eq!((names[0], names[names.len() - 1]), ("started", "committed"));
        let sum: u64 = all.iter().filter_map(|value| value["bytes"].as_u64()).sum();
        assert_eq!(sum, 60);
        assert_eq!(all[all.len() - 2]["offset"], 100);
        assert_eq!(all[0]["kind"], "layer");
    }
}
