//! A read, and writes that hold only as long as what was read does.

use std::panic::resume_unwind;

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

impl Db {
    /// Reads one consistent state of the metadata with two threads, each what takes long by itself.
    /// Where somebody writes meanwhile, `beside` and `here` are called once more.
    ///
    /// # Errors
    /// As [`Db::read`].
    pub(crate) fn read_both<A: Send, B>(
        &self,
        beside: impl Fn(&Connection) -> Result<A> + Sync,
        here: impl Fn(&Connection) -> Result<B>,
    ) -> Result<(A, B)> {
        let mut session = self.session()?;
        let read = |connection: &Connection| {
            // The other one's state is this one's or a later one.
            std::thread::scope(|scope| {
                let other = scope.spawn(|| self.read(&beside));
                let here = here(connection);
                let beside = other.join().unwrap_or_else(|panic| resume_unwind(panic));
                Ok((beside?, here?))
            })
        };
        let mut both = session.read(read)?;
        if !session.is_same()? {
            both = session.read(|connection| Ok((beside(connection)?, here(connection)?)))?;
        }
        session.end();
        Ok(both)
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

    /// Whether nobody but this session has written anything since it last read.
    fn is_same(&self) -> Result<bool> {
        let what = || at("read database", &self.db.path);
        data_version(&self.connection).sql(what).map(|version| Some(version) == self.seen)
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::sync::PoisonError;

    use dist_core::{Error, ErrorKind};

    use super::*;
    use crate::{Store, StoreOptions};

    fn store(dir: &Path) -> Store {
        Store::open(&dir.join("s"), StoreOptions::default()).unwrap()
    }

    fn names(connection: &Connection) -> Result<i64> {
        connection
            .query_row("SELECT count(*) FROM namespaces", [], |row| row.get(0))
            .sql(|| "count".into())
    }

    fn add(db: &Db, name: &str) {
        let sql = "INSERT INTO namespaces (name) VALUES (?1)";
        db.write(|t| t.execute(sql, [name]).sql(|| "add".into())).unwrap();
    }

    #[test]
    fn two_threads_read_one_state_whoever_writes() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let calls = Cell::new(0);
        let (beside, here) = store
            .db()
            .read_both(names, |connection| {
                let seen = names(connection)?;
                if calls.replace(calls.get() + 1) == 0 {
                    add(store.db(), "late");
                }
                Ok(seen)
            })
            .unwrap();
        assert_eq!((beside, here, calls.get()), (1, 1, 2));
        calls.set(1);
        let again = store.db().read_both(names, |c| names(c).inspect(|_| calls.set(2))).unwrap();
        assert_eq!((again, calls.get()), ((1, 1), 2));
    }

    #[test]
    fn a_connection_outlives_the_errors_of_those_who_use_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let db = store.db();
        let idle = || db.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert_eq!(idle(), 1);
        let refuse = || Error::new(ErrorKind::NotFound, "nothing");
        db.read(|_| Err::<(), _>(refuse())).unwrap_err();
        let write = |transaction: &Transaction<'_>| {
            transaction.execute("DELETE FROM namespaces", []).sql(|| "delete".into())?;
            Err::<(), _>(refuse())
        };
        add(db, "kept");
        db.write(write).unwrap_err();
        db.write_lazily(write).unwrap_err();
        db.write_freeing(write).unwrap_err();
        assert_eq!((idle(), db.read(names).unwrap()), (1, 1));
        // Whether a connection whose database failed is good nobody knows.
        db.read(|c| c.execute("nonsense", []).sql(|| "fail".into())).unwrap_err();
        assert_eq!(idle(), 0);
        assert_eq!(db.read(names).unwrap(), 1);
    }
}
