//! dist-testutil
