//! A snapshotter: records in the store, trees by a driver.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_core::{
    DamagedStore, Error, ErrorKind, Labels, LayerForm, Mount, Result, ResultExt, SnapshotInfo,
    SnapshotKey, SnapshotKind, Snapshotter, Usage,
};
use dist_store::{SnapshotRecord, SnapshotStore};

use crate::dirs::{Dirs, at, io_kind};
use crate::driver::Driver;
use crate::usage;

/// How often, and how long after one another, a key is tried to be taken from a dead maker: a process
/// that was just forked has the lock of the one that forked it until it runs its program.
const TRIES: u32 = 5;
const RETRY: Duration = Duration::from_millis(10);

/// What has a key.
enum Holder {
    Nobody,
    Whole,
    /// It is being made, or its maker is dead.
    Unfinished(SnapshotRecord),
}

/// The snapshots of one namespace and one driver.
#[derive(Debug)]
pub(crate) struct Snapshots<D> {
    records: SnapshotStore,
    dirs: Dirs,
    driver: D,
}

impl<D: Driver> Snapshots<D> {
    pub(crate) fn new(records: SnapshotStore, dirs: Dirs, driver: D) -> Self {
        Self { records, dirs, driver }
    }

    fn create(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        kind: SnapshotKind,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        let _making = self.dirs.making()?;
        let record = self.records.insert(key, parent, kind, labels)?;
        let parents = self.parents(&record);
        let made = self.dirs.make(record.id, |new| self.driver.fill(new, &parents, kind));
        if let Err(error) = made {
            let undo = self.records.forget(record.id).and_then(|()| self.dirs.discard(record.id));
            if let Err(error) = undo {
                tracing::debug!(%key, ?error, "a failed snapshot was not removed");
            }
            return Err(error);
        }
        self.driver.mounts(&self.dirs.dir(record.id), &parents, kind)
    }

    /// Takes the key away from a snapshot whose maker died before it was whole; says whether the
    /// key is free.
    fn take_over(&self, key: &SnapshotKey) -> Result<bool> {
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(RETRY);
            }
            let alone = match self.holder(key)? {
                Holder::Nobody => return Ok(true),
                Holder::Whole => return Ok(false),
                Holder::Unfinished(_) => self.dirs.making_alone()?,
            };
            let Some(_alone) = alone else { continue };
            // It may have become whole before nobody was making any.
            let Holder::Unfinished(record) = self.holder(key)? else { continue };
            tracing::info!(%key, "a snapshot that was never whole is made again");
            self.records.forget(record.id)?;
            self.dirs.discard(record.id)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn holder(&self, key: &SnapshotKey) -> Result<Holder> {
        let record = match self.records.get(key) {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Holder::Nobody),
            Err(error) => return Err(error),
        };
        if record.info.kind == SnapshotKind::Committed || self.dirs.is_whole(record.id)? {
            return Ok(Holder::Whole);
        }
        Ok(Holder::Unfinished(record))
    }

    fn create_or_take_over(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        kind: SnapshotKind,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.check_parent(parent)?;
        match self.create(key, parent, kind, labels) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.take_over(key)? => {
                self.create(key, parent, kind, labels)
            }
            other => other,
        }
    }

    fn parents(&self, record: &SnapshotRecord) -> Vec<PathBuf> {
        record.parents.iter().map(|id| self.dirs.fs(*id)).collect()
    }

    fn check_whole(&self, record: &SnapshotRecord) -> Result<()> {
        if self.dirs.is_whole(record.id)? {
            return Ok(());
        }
        let message =
            format!("use snapshot {}: it was never made to its end, remove it", record.info.key);
        Err(Error::new(ErrorKind::FailedPrecondition, message))
    }

    /// Fails with `NotFound` where the files of a committed snapshot, or of one below it, are lost or cut off.
    ///
    /// Somebody removed the directory: nothing here removes one before its row. The rows of the
    /// lost one and of all on top go too, so that the layers can be unpacked again.
    fn check_there(&self, record: &SnapshotRecord) -> Result<()> {
        if record.info.kind != SnapshotKind::Committed {
            return Ok(());
        }
        let mut lost = None;
        for id in std::iter::once(record.id).chain(record.parents.iter().copied()) {
            if !self.dirs.is_usable(id)? {
                lost = Some(id); // in the end the lowest
            }
        }
        let Some(lost) = lost else { return Ok(()) };
        let what = || {
            let path = self.dirs.layout().committed(&self.dirs.fs(lost));
            format!(
                "use snapshot {}: its files at {} are gone or damaged",
                record.info.key,
                path.display()
            )
        };
        let forgotten = self.records.forget_lost(lost).during(what)?;
        tracing::debug!(key = %record.info.key, ?forgotten, "a lost snapshot is forgotten");
        for id in forgotten {
            if let Err(error) = self.dirs.discard(id) {
                // A purge takes up what is left.
                tracing::debug!(%id, ?error, "the directory of a lost snapshot was not removed");
            }
        }
        let damage = DamagedStore { mismatch: None };
        Err(Error::new(ErrorKind::NotFound, what()).with_source(damage))
    }

    /// As [`Snapshots::check_there`], for what is to become a parent. That it is a committed one is
    /// looked at later, together with making its child.
    fn check_parent(&self, parent: Option<&SnapshotKey>) -> Result<()> {
        let Some(parent) = parent else { return Ok(()) };
        match self.records.get(parent) {
            Ok(record) => self.check_there(&record),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn measure(
        &self,
        tree: &Path,
        measure: impl FnOnce(&Path) -> io::Result<Usage>,
    ) -> Result<Usage> {
        measure(tree)
            .map_err(|error| Error::new(io_kind(&error), at("measure", tree)).with_source(error))
    }
}

impl<D: Driver> Snapshotter for Snapshots<D> {
    fn name(&self) -> &'static str {
        self.driver.name()
    }

    fn layer_form(&self) -> LayerForm {
        self.driver.layer_form()
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo> {
        let record = self.records.get(key)?;
        self.check_there(&record)?;
        Ok(record.info)
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage> {
        let record = self.records.get(key)?;
        match record.info.kind {
            SnapshotKind::Active => {
                self.check_whole(&record)?;
                self.measure(&self.dirs.fs(record.id), usage::measure)
            }
            SnapshotKind::View => Ok(Usage::default()),
            SnapshotKind::Committed => Ok(record.usage),
        }
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let record = self.records.get(key)?;
        let kind = record.info.kind;
        if kind == SnapshotKind::Committed {
            let message = format!("mount snapshot {key}: it is committed, prepare or view it");
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        self.check_whole(&record)?;
        self.driver.mounts(&self.dirs.dir(record.id), &self.parents(&record), kind)
    }

    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.create_or_take_over(key, parent, SnapshotKind::Active, labels)
    }

    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.create_or_take_over(key, parent, SnapshotKind::View, labels)
    }

    fn commit(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
        usage: Option<Usage>,
    ) -> Result<()> {
        let record = self.records.get(key)?;
        if record.info.kind == SnapshotKind::Active {
            self.check_whole(&record)?;
            self.dirs.check_idle(record.id)?;
            let merged = self.driver.layer_form() == LayerForm::Merged;
            if merged && parent.is_some() && parent != record.info.parent.as_ref() {
                let message = format!(
                    "commit snapshot {key}: {} can't give it another parent",
                    self.driver.name()
                );
                return Err(Error::new(ErrorKind::FailedPrecondition, message));
            }
            let tree = self.dirs.fs(record.id);
            self.dirs.demand_feature()?;
            self.driver.freeze(&tree)?;
            let usage = match usage {
                Some(usage) => usage,
                None => self.measure(&tree, |tree| self.dirs.layout().measure(tree))?,
            };
            let making = self.dirs.making()?;
            let result = self.records.commit(name, key, parent, labels, usage);
            if let Err(error) = self.driver.frozen(&tree, result.is_ok()) {
                tracing::debug!(%key, ?error, "what a frozen snapshot leaves was not removed");
            }
            drop(making);
            if result.is_ok() {
                self.dirs.release(&record.parents, || self.records.below_open());
            }
            return result;
        }
        self.records.commit(name, key, parent, labels, Usage::default())
    }

    fn remove(&self, key: &SnapshotKey) -> Result<()> {
        let record = self.records.get(key)?;
        self.dirs.check_idle(record.id).during(|| format!("remove snapshot {key}"))?;
        let record = self.records.remove(key)?;
        self.dirs.release(&record.parents, || self.records.below_open());
        if let Err(error) = self.dirs.discard_soon(record.id) {
            // The snapshot is gone; a purge takes up what is left of its directory.
            tracing::debug!(%key, ?error, "the directory of a removed snapshot was not removed");
        }
        Ok(())
    }

    fn walk(&self, visit: &mut dyn FnMut(SnapshotInfo) -> Result<ControlFlow<()>>) -> Result<()> {
        for info in self.records.list()? {
            if visit(info)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
