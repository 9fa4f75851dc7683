//! dist-layer
