//! The tables, version by version, and how a database gets from one version to the next.
//!
//! `user_version` says which version a database has. A new one goes through all of them, an older
//! one through those that it lacks, in one transaction: a crash leaves it as it was.

use rusqlite::Transaction;

/// The version that this program reads and writes.
pub(crate) const VERSION: i64 = 4;

const STEPS: [&str; 4] = [
    include_str!("schema/1.sql"),
    concat!(include_str!("schema/2.sql"), include_str!("schema/2_rows.sql")),
    concat!(include_str!("schema/3.sql"), include_str!("schema/3_trigger.sql")),
    concat!(include_str!("schema/4.sql"), include_str!("schema/4_trigger.sql")),
];

/// Brings a database of version `from`, 0 for an empty one, to [`VERSION`].
pub(crate) fn migrate(transaction: &Transaction<'_>, from: i64) -> rusqlite::Result<()> {
    for (version, step) in (1..).zip(STEPS) {
        if version > from {
            transaction.execute_batch(step)?;
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)
}

/// Statements with which a connection that can't write reads a database of version `found` as if it
/// had [`VERSION`]; `None` where there are none.
pub(crate) fn stand_in(found: i64) -> Option<String> {
    let tables = match found {
        VERSION => "",
        3 => include_str!("schema/4.sql"),
        2 => concat!(include_str!("schema/3.sql"), include_str!("schema/4.sql")),
        1 => concat!(
            include_str!("schema/2.sql"),
            include_str!("schema/3.sql"),
            include_str!("schema/4.sql")
        ),
        _ => return None,
    };
    Some(tables.replace("CREATE TABLE", "CREATE TEMP TABLE"))
}
