//! What listings have in common.

use crate::output::Format;

/// How much of a listing is printed, and in which form.
#[derive(Debug, clap::Args)]
pub(crate) struct Listing {
    /// Print only the names, one a line
    #[arg(short, long, conflicts_with = "format")]
    pub(crate) quiet: bool,

    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}
