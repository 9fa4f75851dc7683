//! How many rows are read at once: by a scan over the table in the order in which it lies on the
//! disk, or by an index, which leads from page to page for each row.

use dist_core::{Namespace, Result};
use rusqlite::{Connection, OptionalExtension as _};

use crate::db::SqlContext as _;

/// How many rows a scan passes in the time that an index takes to lead to one.
const SCANNED: i64 = 16;

/// Whether `wanted` rows out of `all` are read sooner by a scan over all of them.
pub(crate) fn is_dense(wanted: usize, all: i64) -> bool {
    i64::try_from(wanted).unwrap_or(i64::MAX).saturating_mul(SCANNED) >= all
}

/// The condition that picks the rows of the namespace `?1` out of `table`, with an index only where
/// that leads to few of them.
pub(crate) fn of_namespace(
    connection: &Connection,
    table: &str,
    namespace: &Namespace,
) -> Result<&'static str> {
    let look = || {
        let last: Option<i64> = connection
            .prepare_cached(&format!("SELECT max(id) FROM {table}"))?
            .query_row([], |row| row.get(0))?;
        let enough = last.unwrap_or(0) / SCANNED;
        connection
            .prepare_cached(&format!(
                "SELECT 1 FROM {table} WHERE namespace = ?1 LIMIT 1 OFFSET ?2"
            ))?
            .query_row((namespace.as_str(), enough), |_| Ok(()))
            .optional()
    };
    let many = look().sql(|| format!("read {table}"))?.is_some();
    Ok(if many { "+namespace = ?1" } else { "namespace = ?1" })
}
