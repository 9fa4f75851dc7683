//! dist-snapshot
