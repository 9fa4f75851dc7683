//! What a layer may cost.

use dist_core::{Error, ErrorKind, LayerForm, Limit};

use crate::Cores;

/// Bounds that every layer is held to while it is read.
///
/// A layer that would exceed one is refused with a [`Limit`] as its cause, before the byte or
/// entry that exceeds it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Uncompressed bytes of one layer: 64 GiB.
    pub layer_bytes: u64,
    /// Uncompressed bytes that any layer may have whatever its ratio: 1 GiB.
    pub ratio_floor: u64,
    /// Uncompressed bytes for each compressed one beyond [`Limits::ratio_floor`]: 200.
    ///
    /// Layers of programs and libraries have a ratio of 2 to 5, text up to 20; gzip ends at 1032
    /// and zstd beyond 30000, where only bombs and files of zeros are.
    pub ratio: u64,
    /// The length of one file, holes included: 1 TiB.
    ///
    /// Holes take no space, so that this may be more than [`Limits::layer_bytes`].
    pub file_bytes: u64,
    /// Entries of one layer: ten million.
    pub entries: u64,
    /// The largest window of a zstd frame: 8 MiB, what RFC 8878 asks every decoder to accept.
    pub zstd_window: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 64 << 30,
            ratio_floor: 1 << 30,
            ratio: 200,
            file_bytes: 1 << 40,
            entries: 10_000_000,
            zstd_window: 8 << 20,
        }
    }
}

/// How layers are unpacked.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// How the entries are laid down, whiteouts above all.
    pub form: LayerForm,
    /// What a layer may cost.
    pub limits: Limits,
    /// The cores that this layer shares with others. While one of them is idle, inflating gets a
    /// thread of its own, at a tenth more CPU.
    pub cores: Cores,
}

impl ApplyOptions {
    /// Makes options with the default limits.
    #[must_use]
    pub fn new(form: LayerForm) -> Self {
        Self { form, limits: Limits::default(), cores: Cores::default() }
    }
}

/// The error for a layer that exceeds a limit.
pub(crate) fn exceeded(name: &'static str, limit: u64, message: String) -> Error {
    Error::new(ErrorKind::ResourceExhausted, message).with_source(Limit { name, limit })
}
