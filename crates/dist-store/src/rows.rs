//! How many rows are read at once: by a scan over the table in the order in which it lies on the
//! disk, or by an index, which leads from page to page for each row.

use dist_core::{Namespace, Result};
use rusqlite::{Connection, OptionalExtension as _};

use crate::db::SqlContext as _;

/// How many rows a scan passes in the time that an index takes to lead to one.
const SCANNED: i64 = 16;

/// The most room that is made before it is needed, in rows.
const MOST_ROOM: usize = 1 << 18;

/// From how many rows on it is worth a thread to read them.
const MANY: usize = 4096;

/// Whether `wanted` rows out of `all` are read sooner by a scan over all of them.
pub(crate) fn is_dense(wanted: usize, all: i64) -> bool {
    i64::try_from(wanted).unwrap_or(i64::MAX).saturating_mul(SCANNED) >= all
}

/// How the rows of one namespace are picked out of a table.
pub(crate) struct Picked {
    /// The condition, with the namespace as `?1`; it uses an index only where that leads to few rows.
    pub(crate) filter: &'static str,
    /// Room to make for the rows that come, so that it need not grow while many do.
    pub(crate) room: usize,
}

impl Picked {
    /// Whether the rows are so many that what belongs to them is better read at the same time.
    pub(crate) fn is_many(&self) -> bool {
        self.room >= MANY
    }
}

/// Finds out how the rows of a namespace are best picked out of `table`.
pub(crate) fn of_namespace(
    connection: &Connection,
    table: &str,
    namespace: &Namespace,
) -> Result<Picked> {
    let look = || {
        let last: Option<i64> = connection
            .prepare_cached(&format!("SELECT max(id) FROM {table}"))?
            .query_row([], |row| row.get(0))?;
        let last = last.unwrap_or(0);
        let sql = format!("SELECT 1 FROM {table} WHERE namespace = ?1 LIMIT 1 OFFSET ?2");
        let many = connection
            .prepare_cached(&sql)?
            .query_row((namespace.as_str(), last / SCANNED), |_| Ok(()))
            .optional()?
            .is_some();
        Ok((many, last))
    };
    let (many, last) = look().sql(|| format!("read {table}"))?;
    Ok(if many {
        let room = usize::try_from(last).unwrap_or(0).min(MOST_ROOM);
        Picked { filter: "+namespace = ?1", room }
    } else {
        Picked { filter: "namespace = ?1", room: 0 }
    })
}
