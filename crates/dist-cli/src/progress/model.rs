//! What is known of an operation's blobs, and how it reads as lines of text. Does no I/O.

use std::collections::HashMap;
use std::time::Duration;

use dist_core::{Descriptor, Digest, Event};

use crate::table::printable;
use crate::units::{binary_size, clock};

/// Where a blob stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Downloading,
    Uploading,
    Retrying { attempt: u32 },
    Done,
    Exists,
    Unpacked,
}

impl State {
    fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Exists | Self::Unpacked)
    }

    /// The word people read.
    pub(super) fn word(self) -> String {
        match self {
            Self::Waiting => "waiting".into(),
            Self::Downloading => "downloading".into(),
            Self::Uploading => "uploading".into(),
            Self::Retrying { attempt } => format!("retry {attempt}"),
            Self::Done => "done".into(),
            Self::Exists => "exists".into(),
            Self::Unpacked => "unpacked".into(),
        }
    }
}

/// One blob.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) noun: &'static str,
    pub(super) size: u64,
    /// Bytes that are there, an earlier attempt's included.
    pub(super) have: u64,
    /// Bytes that this operation brought.
    pub(super) brought: u64,
    pub(super) state: State,
    started: Duration,
    ended: Duration,
}

/// All blobs, in the order in which they became known.
#[derive(Debug, Default)]
pub(super) struct Model {
    name: Option<String>,
    /// Whether bytes go from here.
    uploads: bool,
    blobs: Vec<Blob>,
    index: HashMap<Digest, usize>,
}

impl Model {
    /// Of blobs that are sent.
    pub(super) fn uploading() -> Self {
        Self { uploads: true, ..Self::default() }
    }

    /// Takes an event that happened `now` after the start.
    pub(super) fn take(&mut self, event: &Event<'_>, now: Duration) {
        match event {
            Event::Resolved { name, .. } => self.name = Some(printable(name)),
            Event::Waiting { desc } => self.enter(desc).state = State::Waiting,
            Event::Started { desc, offset } => {
                let moving = self.moving();
                let blob = self.enter(desc);
                blob.state = moving;
                blob.have = *offset;
                blob.started = now;
                blob.ended = now;
            }
            Event::Advanced { digest, bytes } => {
                let moving = self.moving();
                if let Some(blob) = self.find(digest) {
                    blob.have = blob.have.saturating_add(*bytes);
                    blob.brought = blob.brought.saturating_add(*bytes);
                    blob.state = moving;
                    blob.ended = now;
                }
            }
            Event::Retrying { digest, attempt, .. } => {
                if let Some(blob) = self.find(digest) {
                    blob.state = State::Retrying { attempt: *attempt };
                }
            }
            Event::Committed { digest } => {
                if let Some(blob) = self.find(digest) {
                    blob.have = blob.size;
                    blob.state = State::Done;
                    blob.ended = now;
                }
            }
            Event::Existed { desc } => {
                let blob = self.enter(desc);
                blob.have = blob.size;
                blob.state = State::Exists;
            }
            Event::Unpacked { layer, .. } => {
                if let Some(blob) = self.find(layer) {
                    blob.state = State::Unpacked;
                }
            }
            _ => (),
        }
    }

    fn moving(&self) -> State {
        if self.uploads { State::Uploading } else { State::Downloading }
    }

    /// The blob, where it is known.
    pub(super) fn blob(&self, digest: &Digest) -> Option<&Blob> {
        self.index.get(digest).map(|&at| &self.blobs[at])
    }

    /// Bytes that this operation brought.
    pub(super) fn brought(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.brought).sum()
    }

    /// Bytes that have not arrived of the blobs that are known; `None` where none was begun.
    pub(super) fn missing(&self) -> Option<u64> {
        let begun = self.blobs.iter().any(|blob| blob.have > 0);
        begun.then(|| self.blobs.iter().map(|blob| blob.size.saturating_sub(blob.have)).sum())
    }

    fn find(&mut self, digest: &Digest) -> Option<&mut Blob> {
        self.index.get(digest).map(|&at| &mut self.blobs[at])
    }

    fn enter(&mut self, desc: &Descriptor) -> &mut Blob {
        let at = *self.index.entry(desc.digest).or_insert_with(|| {
            self.blobs.push(Blob {
                digest: desc.digest,
                noun: desc.media_type.noun(),
                size: desc.size,
                have: 0,
                brought: 0,
                state: State::Waiting,
                started: Duration::ZERO,
                ended: Duration::ZERO,
            });
            self.blobs.len() - 1
        });
        &mut self.blobs[at]
    }

    /// The picture at `now`: at most `height` lines of at most `width` columns.
    ///
    /// Where there are more blobs than lines, those that are over give way first.
    pub(super) fn lines(&self, now: Duration, width: usize, height: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let mut room = height.saturating_sub(1); // the total
        if let Some(name) = &self.name
            && room > 2
        {
            lines.push(name.clone());
            room -= 1;
        }
        let hidden = self.blobs.len().saturating_sub(room);
        let shown = if hidden == 0 { room } else { room.saturating_sub(1) };
        for at in self.choose(shown) {
            lines.push(blob_line(&self.blobs[at], now));
        }
        if hidden > 0 && room > 0 {
            let hidden = self.blobs.len() - shown;
            lines.push(format!("and {hidden} more"));
        }
        if height > 0 {
            lines.push(self.total(now));
        }
        lines.iter().map(|line| console::truncate_str(line, width, "").into_owned()).collect()
    }

    /// The blobs that `room` lines are for, in their order.
    fn choose(&self, room: usize) -> Vec<usize> {
        let mut chosen: Vec<usize> = (0..self.blobs.len()).collect();
        chosen.sort_by_key(|&at| match self.blobs[at].state {
            State::Downloading | State::Uploading | State::Retrying { .. } => 0,
            State::Waiting => 1,
            State::Done | State::Exists | State::Unpacked => 2,
        });
        chosen.truncate(room);
        chosen.sort_unstable();
        chosen
    }

    fn total(&self, now: Duration) -> String {
        let size: u64 = self.blobs.iter().map(|blob| blob.size).sum();
        let have: u64 = self.blobs.iter().map(|blob| blob.have).sum();
        let speed = rate(self.brought(), now);
        let mut line = format!(
            "elapsed {}  total {}  {}/s",
            clock(now),
            part_of(have, size),
            binary_size(speed)
        );
        if let Some(seconds) = size.saturating_sub(have).checked_div(speed)
            && seconds > 0
        {
            line.push_str(&format!("  ETA {}", clock(Duration::from_secs(seconds))));
        }
        line
    }
}

/// One blob in 79 columns, where its sizes have at most five digits.
fn blob_line(blob: &Blob, now: Duration) -> String {
    let head = format!("{:<8} {} {:<11}", blob.noun, blob.digest.short(), blob.state.word());
    match blob.state {
        State::Waiting | State::Exists => format!("{head} {:18} {}", "", binary_size(blob.size)),
        _ => {
            let until = if blob.state.is_over() { blob.ended } else { now };
            let speed = rate(blob.brought, until.saturating_sub(blob.started));
            let amount = if blob.state.is_over() {
                binary_size(blob.size)
            } else {
                part_of(blob.have, blob.size)
            };
            format!("{head} {} {amount} {}/s", bar(blob.have, blob.size), binary_size(speed))
        }
    }
}

/// `12.3/45.6 MiB`, `512 B/1.0 MiB`.
fn part_of(have: u64, size: u64) -> String {
    let (have, size) = (binary_size(have), binary_size(size));
    match (have.split_once(' '), size.split_once(' ')) {
        (Some((number, unit)), Some((_, whole))) if unit == whole => format!("{number}/{size}"),
        _ => format!("{have}/{size}"),
    }
}

/// `|+++++-----------|`, 16 cells.
fn bar(have: u64, size: u64) -> String {
    const CELLS: u128 = 16;
    let filled =
        (u128::from(have.min(size)) * CELLS).checked_div(u128::from(size)).unwrap_or(CELLS);
    let filled = usize::try_from(filled).unwrap_or(0);
    format!("|{}{}|", "+".repeat(filled), "-".repeat(16 - filled))
}

/// Bytes a second.
pub(super) fn rate(bytes: u64, time: Duration) -> u64 {
    let milliseconds = time.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dist_core::{Compression, MediaType};
    use proptest::prelude::*;

    fn layer(index: u64, size: u64) -> Descriptor {
        let digest = Digest::sha256(&index.to_le_bytes());
        Descriptor::new(MediaType::Layer(Compression::Gzip), digest, size)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_life_of_a_blob() {
        let desc = layer(1, 1000);
        let digest = desc.digest;
        let mut model = Model::default();
        let state = |model: &Model| model.blob(&digest).unwrap().state;
        model.take(&Event::Waiting { desc: &desc }, Duration::ZERO);
        assert_eq!(state(&model), State::Waiting);
        model.take(&Event::Started { desc: &desc, offset: 400 }, Duration::ZERO);
        model.take(&Event::Advanced { digest, bytes: 100 }, SECOND);
        let blob = model.blob(&digest).unwrap();
        assert_eq!((blob.have, blob.brought, blob.state), (500, 100, State::Downloading));
        assert_eq!(model.missing(), Some(500));
        let line = &model.lines(SECOND, 120, 10)[0];
        assert!(line.contains("|++++++++--------| 500/1000 B 100 B/s"), "{line}");
        model.take(&Event::Committed { digest }, SECOND);
        assert_eq!(state(&model), State::Done);
        assert_eq!(model.brought(), 100);
        model.take(&Event::Existed { desc: &desc }, SECOND);
        assert_eq!(model.lines(SECOND, 120, 10).len(), 2, "a digest has one line");
    }

    #[test]
    fn the_estimate() {
        let desc = layer(1, 10_000);
        let mut model = Model::default();
        model.take(&Event::Started { desc: &desc, offset: 0 }, Duration::ZERO);
        model.take(&Event::Advanced { digest: desc.digest, bytes: 1000 }, SECOND);
        let lines = model.lines(SECOND, 120, 10);
        assert_eq!(lines[1], "elapsed 1.0s  total 1000 B/9.8 KiB  1000 B/s  ETA 9.0s");
    }

    #[test]
    fn what_is_over_gives_way() {
        let mut model = Model::default();
        for index in 0..20 {
            model.take(&Event::Existed { desc: &layer(index, 10) }, SECOND);
        }
        let live = layer(99, 10);
        model.take(&Event::Started { desc: &live, offset: 0 }, SECOND);
        let lines = model.lines(SECOND, 120, 6);
        assert_eq!(lines.len(), 6);
        assert!(lines[3].contains(&live.digest.short()), "{lines:?}");
        assert_eq!(lines[4], "and 17 more");
    }

    proptest! {
        #[test]
        fn never_larger_than_the_terminal(blobs in 0_u64..60, width in 1_usize..140, height in 0_usize..50, size in any::<u64>()) {
            let mut model = Model::default();
            model.take(&Event::Resolved { name: "h/\u{4e2d}\x1b[2J:t", target: &layer(0, 1) }, SECOND);
            for index in 0..blobs {
                model.take(&Event::Started { desc: &layer(index, size / 100), offset: 0 }, SECOND);
            }
            let lines = model.lines(2 * SECOND, width, height);
            prop_assert!(lines.len() <= height);
            for line in lines {
                prop_assert!(console::measure_text_width(&line) <= width);
                prop_assert!(!line.contains('\x1b'));
            }
        }
    }
}
