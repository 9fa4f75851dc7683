//! `dist version`: one line, `dist PACKAGE VERSION`; `.m` says that the tree was modified.

use dist_core::Result;

use crate::args::VERSION;
use crate::output;

pub(crate) fn run() -> Result<()> {
    output::line(&format!("dist {VERSION}"))
}
