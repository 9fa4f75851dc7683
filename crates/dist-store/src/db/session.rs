//! A read, and writes that hold only as long as what was read does.

use dist_core::Result;
use rusqlite::{Connection, Transaction};

use super::{Db, SqlContext as _, at};
use crate::reserve;

/// One connection over several transactions.
pub(crate) struct Session<'a> {
    db: &'a Db,
    connection: Connection,
    /// What SQLite counts up when another connection has changed something.
    seen: Option<i64>,
}

impl Db {
    /// Takes a connection for several transactions.
    pub(crate) fn session(&self) -> Result<Session<'_>> {
        Ok(Session { db: self, connection: self.take()?, seen: None })
    }
}

impl Session<'_> {
    /// Reads one consistent state.
    ///
    /// # Errors
    /// As [`Db::read`].
    pub(crate) fn read<T>(&mut self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let what = || at("read database", &self.db.path);
        let read = || {
            let transaction = self.connection.unchecked_transaction().sql(what)?;
            self.seen = Some(data_version(&transaction).sql(what)?);
            let value = f(&transaction)?;
            transaction.finish().sql(what)?;
            Ok(value)
        };
        read().map_err(|error| self.db.explain(error))
    }

    /// Writes, if nobody but this session has written anything since it last read; else `None`.
    ///
    /// As [`Db::write_freeing`] it uses the reserve, and `f` may run twice.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub(crate) fn write_if_same<T>(
        &mut self,
        mut f: impl FnMut(&Transaction<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let seen = self.seen;
        self.write(|transaction| {
            let version = data_version(transaction).sql(|| at("read database", &self.db.path))?;
            if Some(version) == seen { f(transaction).map(Some) } else { Ok(None) }
        })
    }

    /// Writes as [`Db::write_freeing`] does.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub(crate) fn write<T>(&self, mut f: impl FnMut(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let change = || self.db.change(&self.connection, &mut f);
        reserve::with(self.db.root(), change).map_err(|error| self.db.explain(error))
    }

    /// Gives the connection back; one that failed is dropped instead.
    pub(crate) fn end(self) {
        self.db.give_back(self.connection);
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0))
}
