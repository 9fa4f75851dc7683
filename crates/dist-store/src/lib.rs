//! dist-store
