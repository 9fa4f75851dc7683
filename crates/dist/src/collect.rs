//! What nothing keeps goes.

use dist_core::Result;
use dist_store::Store;

/// Removes what nothing keeps, in all namespaces but raw ones, and what crashes left behind.
///
/// Readers and writers go on meanwhile. A crash at any point loses nothing that is needed; what it
/// leaves, the next collection removes.
///
/// # Errors
/// `Storage`; the first failure, after all else has been tried.
pub fn collect(store: &Store) -> Result<()> {
    dist_snapshot::purge(store)?;
    Ok(())
}
