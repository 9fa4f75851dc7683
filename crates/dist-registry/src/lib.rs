//! dist-registry
