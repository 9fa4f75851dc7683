//! Layers into snapshots, while they arrive.
//!
//! One fused worker a layer: a chunk is received, hashed and written to its ingest, inflated,
//! hashed again and unpacked before the next one is taken. Workers take the largest layer first.
//! A layer becomes visible only after its blob's digest and its diff ID were verified, and in chain
//! order, because a snapshot's parent must be committed before it.
//!
//! Two processes that want one layer share the work through a lock named after its chain ID. A
//! worker never waits for such a lock while it could do something else, and a layer that is
//! unpacked waits for nothing but layers below it: so whoever holds the lowest lock can always
//! go on.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dist_core::{
    Applied, Applier as _, ChainId, Context as _, Descriptor, Error, ErrorKind, Event, Labels,
    Mount, Namespace, Result, ResultExt as _, SNAPSHOT_REF, SnapshotInfo, SnapshotKey,
    SnapshotKind, Snapshotter, Stage, Warning, enter,
};
use dist_layer::{ApplyOptions, Cores, LayerApplier, Limits, inherit_dirs};
use dist_store::{LockGuard, Store};

use crate::blocking::{Stop, blocking};
use crate::ingest::{Arriving, Intake, Opened, Unfinished};
use crate::layers::{Layer, Plan};
use crate::{Engine, discard};

/// How much of a bad layer's rest is still fetched to find out whether its digest is right.
const BLAME_BYTES: u64 = 64 << 20;

/// What the keys of snapshots that are being unpacked begin with.
const UNPACK: &str = "unpack ";

/// How long a worker with nothing else to do waits before it tries a lock that another process
/// holds again; `flock` has no way to wait for any of several.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Where and how layers are unpacked.
pub(crate) struct Unpacker {
    pub(crate) store: Store,
    pub(crate) namespace: Namespace,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) limits: Limits,
    /// Whether the blobs of unpacked layers are not kept.
    pub(crate) discards: bool,
    pub(crate) intake: Intake,
    pub(crate) stop: Stop,
    pub(crate) jobs: usize,
    /// What all layers share.
    pub(crate) cores: Cores,
}

impl Unpacker {
    /// Unpacks with the engine's snapshotter.
    pub(crate) fn new(engine: &Engine, intake: Intake, stop: Stop, jobs: usize) -> Result<Self> {
        Ok(Self {
            store: engine.store().clone(),
            namespace: engine.namespace().clone(),
            snapshotter: engine.snapshotter()?,
            limits: *engine.limits(),
            discards: engine.discards(),
            intake,
            stop,
            jobs,
            cores: Cores::available(),
        })
    }

    /// Brings all layers of `plan` into the store and unpacks those that are not.
    pub(crate) async fn run(self, plan: &Plan) -> Result<Vec<Warning>> {
        let stacked = self.snapshotter.layer_form().is_independent();
        if !stacked {
            // Layers go onto a copy of their parent one by one; their blobs arrive together.
            let blobs: Vec<_> = plan.layers.iter().map(|layer| &layer.desc).collect();
            self.intake.fetch_all(&blobs, self.jobs).await?;
        }
        if plan.layers.is_empty() {
            return Ok(Vec::new());
        }
        let workers = if stacked { self.jobs.min(plan.layers.len()) } else { 1 };
        let work = Arc::new(Work {
            state: Mutex::new(State::new(plan, stacked)),
            changed: Condvar::new(),
            layers: plan.layers.clone(),
            stacked,
            unpacker: self,
        });
        let _idle = enter(Stage::Idle);
        let running: Vec<_> = (0..workers)
            .map(|worker| {
                let work = Arc::clone(&work);
                blocking(move || work.run(worker == 0))
            })
            .collect();
        let mut failed = None;
        for worker in running {
            if let Err(error) = worker.await {
                // The first failure stops the others; what they say then is only an echo.
                if failed.as_ref().is_none_or(|first: &Error| first.kind() == ErrorKind::Cancelled)
                {
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) => {
                let work = Arc::clone(&work);
                blocking(move || {
                    work.discard_ready();
                    Ok(())
                })
                .await?;
                Err(error)
            }
            None => Ok(std::mem::take(&mut work.state().warnings)),
        }
    }
}

impl Unpacker {
    fn lock_name(&self, key: &str) -> String {
        format!("{key} {} {}", self.namespace, self.snapshotter.name())
    }

    /// Removes what killed processes left half unpacked, and directories whose rows are gone.
    fn sweep(&self) -> Result<()> {
        dist_snapshot::purge(&self.store)?;
        let mut left = Vec::new();
        self.snapshotter.walk(&mut |info| {
            if info.kind == SnapshotKind::Active && info.key.as_str().starts_with(UNPACK) {
                left.push(info.key);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for key in left {
            if let Some(_lock) = self.store.try_lock(&self.lock_name(key.as_str()))? {
                remove_if_there(&*self.snapshotter, &key)?;
            }
        }
        Ok(())
    }
}

struct Work {
    unpacker: Unpacker,
    layers: Vec<Layer>,
    stacked: bool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Indexes of layers nobody works on, in the order in which they are taken.
    todo: Vec<usize>,
    /// Unpacked layers that wait for their parent, by index.
    ready: BTreeMap<usize, Ready>,
    /// How many layers, from the lowest on, are committed.
    committed: usize,
    /// Whether a worker is committing.
    committing: bool,
    failed: bool,
    warnings: Vec<Warning>,
}

enum Ready {
    /// The snapshot was there.
    Exists,
    /// The snapshot is to be committed under the lock.
    Unpacked(Box<Unpacked>),
}

struct Unpacked {
    key: SnapshotKey,
    mounts: Vec<Mount>,
    applied: Applied,
    _lock: LockGuard,
}

impl State {
    fn new(plan: &Plan, stacked: bool) -> Self {
        let mut todo: Vec<usize> = (0..plan.layers.len()).collect();
        if stacked {
            todo.sort_by_key(|index| std::cmp::Reverse(plan.layers[*index].desc.size));
        }
        Self {
            todo,
            ready: BTreeMap::new(),
            committed: 0,
            committing: false,
            failed: false,
            warnings: Vec::new(),
        }
    }
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, first: bool) -> Result<()> {
        let result = if first { self.unpacker.sweep() } else { Ok(()) };
        let result = result.and_then(|()| self.take_layers());
        if result.is_err() {
            self.state().failed = true;
            self.changed.notify_all();
            self.unpacker.stop.stop();
        }
        result
    }

    fn take_layers(&self) -> Result<()> {
        while let Some((index, lock)) = self.next()? {
            let layer = &self.layers[index];
            let ready = self
                .unpack(layer, lock)
                .during(|| format!("unpack layer {}", layer.desc.digest))?;
            self.publish(index, ready)?;
        }
        Ok(())
    }

    /// Takes the next layer whose lock is free; `None` when all are taken.
    fn next(&self) -> Result<Option<(usize, LockGuard)>> {
        let mut state = self.state();
        loop {
            self.unpacker.intake.cancel.check()?;
            if state.failed {
                return Err(Error::cancelled());
            }
            if state.todo.is_empty() {
                return Ok(None);
            }
            for place in 0..state.todo.len() {
                let index = state.todo[place];
                let Some(lock) = self.unpacker.store.try_lock(&self.lock_name(index))? else {
                    if self.stacked { continue } else { break }
                };
                state.todo.remove(place);
                return Ok(Some((index, lock)));
            }
            let _wait = enter(Stage::Wait);
            state = self
                .changed
                .wait_timeout(state, LOCK_RETRY)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock_name(&self, index: usize) -> String {
        self.unpacker.lock_name(&unpack_key(self.layers[index].chain_id))
    }

    fn unpack(&self, layer: &Layer, lock: LockGuard) -> Result<Ready> {
        let snapshotter = &self.unpacker.snapshotter;
        if let Some(info) = find(&**snapshotter, layer.chain_id)? {
            drop(lock);
            return self.accept(layer, &info);
        }
        let key = snapshot_key(&unpack_key(layer.chain_id))?;
        // Only a process that held this lock and died can have left it.
        remove_if_there(&**snapshotter, &key)?;
        let parent = layer.parent.filter(|_| !self.stacked).map(SnapshotKey::from);
        // What it is to become says that it need not outlive a power cut.
        let labels = Labels::from([(SNAPSHOT_REF.to_owned(), layer.chain_id.to_string())]);
        loop {
            let mounts = match snapshotter.prepare(&key, parent.as_ref(), &labels) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    // Another client, who knows nothing of the lock, was quicker.
                    let Some(info) = find(&**snapshotter, layer.chain_id)? else {
                        return Err(error);
                    };
                    return self.accept(layer, &info);
                }
                made => made?,
            };
            match self.fill(layer, &mounts) {
                Ok(mut applied) => {
                    self.state().warnings.append(&mut applied.warnings);
                    let unpacked = Unpacked { key, mounts, applied, _lock: lock };
                    return Ok(Ready::Unpacked(Box::new(unpacked)));
                }
                Err(Unfinished::Again(error)) => {
                    tracing::debug!(digest = %layer.desc.digest, ?error, "what came was other content, starting over");
                    snapshotter.remove(&key)?;
                }
                Err(Unfinished::Final(error)) => {
                    discard(&**snapshotter, &key);
                    return Err(error);
                }
            }
        }
    }

    /// Makes do with a snapshot that is there: brings the blob, unless the snapshot stands for it.
    fn accept(&self, layer: &Layer, info: &SnapshotInfo) -> Result<Ready> {
        let Unpacker { snapshotter, intake, discards, .. } = &self.unpacker;
        if discard::stands_for(&**snapshotter, info, &layer.desc.digest, *discards) {
            let event =
                Event::Unpacked { layer: layer.desc.digest, chain_id: Some(layer.chain_id) };
            intake.progress.event(event);
        } else {
            intake.fetch_blocking(&layer.desc)?;
        }
        Ok(Ready::Exists)
    }

    /// Unpacks one layer into `mounts` from wherever its bytes are, and verifies it.
    fn fill(&self, layer: &Layer, mounts: &[Mount]) -> Result<Applied, Unfinished> {
        let _untar = enter(Stage::Untar);
        let Unpacker { snapshotter, intake, limits, cores, .. } = &self.unpacker;
        let form = snapshotter.layer_form();
        let applier =
            LayerApplier::new(ApplyOptions { form, limits: *limits, cores: cores.clone() });
        let applied = match intake.open(&layer.desc)? {
            Opened::Exists => {
                let mut blob = intake.content.open(&layer.desc.digest)?;
                applier.apply(&layer.desc, &mut blob.file, mounts, &intake.cancel)?
            }
            Opened::Arriving(mut arriving) => {
                arriving.read_what_is_left()?;
                let result = applier.apply(&layer.desc, &mut arriving, mounts, &intake.cancel);
                conclude(intake, &layer.desc, *arriving, result)?
            }
        };
        layer.check_diff_id(applied.diff_id)?;
        Ok(applied)
    }

    /// Records a finished layer and commits every one whose turn has come. One worker commits at a
    /// time, the others go on: they leave it what they have finished.
    fn publish(&self, index: usize, ready: Ready) -> Result<()> {
        let _commit = enter(Stage::Commit);
        let mut state = self.state();
        state.ready.insert(index, ready);
        while !state.failed && !state.committing {
            let next = state.committed;
            let Some(ready) = state.ready.remove(&next) else { break };
            state.committing = true;
            drop(state);
            let committed = self
                .commit(&self.layers[next], ready)
                .during(|| format!("commit layer {}", self.layers[next].desc.digest));
            state = self.state();
            state.committing = false;
            committed?;
            state.committed += 1;
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn commit(&self, layer: &Layer, ready: Ready) -> Result<()> {
        let Ready::Unpacked(unpacked) = ready else { return Ok(()) };
        let Unpacked { key, mounts, applied, _lock } = *unpacked;
        let snapshotter = &*self.unpacker.snapshotter;
        if let (Some(parent), Some(target)) = (layer.parent, target(&mounts))
            && self.stacked
        {
            let below = self.layer_dirs(parent)?;
            inherit_dirs(&target, &below, &applied.implicit_dirs)?;
        }
        let name = SnapshotKey::from(layer.chain_id);
        let parent = layer.parent.filter(|_| self.stacked).map(SnapshotKey::from);
        snapshotter.commit(&name, &key, parent.as_ref(), &Labels::new(), applied.usage)?;
        self.unpacker.intake.progress.event(Event::Snapshotted {
            snapshotter: snapshotter.name(),
            key: &key,
            name: &name,
            parent: layer.parent.map(SnapshotKey::from).as_ref(),
        });
        let (layer, chain_id) = (layer.desc.digest, layer.chain_id);
        self.unpacker.intake.progress.event(Event::Unpacked { layer, chain_id: Some(chain_id) });
        Ok(())
    }

    /// Removes what was unpacked and will not be committed.
    fn discard_ready(&self) {
        for ready in std::mem::take(&mut self.state().ready).into_values() {
            if let Ready::Unpacked(unpacked) = ready {
                discard(&*self.unpacker.snapshotter, &unpacked.key);
            }
        }
    }

    /// The directories of the layers from `chain_id` down, nearest first.
    fn layer_dirs(&self, chain_id: ChainId) -> Result<Vec<PathBuf>> {
        dist_snapshot::layer_dirs(
            &self.unpacker.store,
            &self.unpacker.namespace,
            self.unpacker.snapshotter.name(),
            &SnapshotKey::from(chain_id),
        )
    }
}

/// Ends the ingest below an applied layer. What is wrong with the blob explains more than what is
/// wrong with the layer, so it is told first.
pub(crate) fn conclude(
    intake: &Intake,
    desc: &Descriptor,
    mut arriving: Arriving,
    result: Result<Applied>,
) -> Result<Applied, Unfinished> {
    if let Some(failure) = arriving.take_failure() {
        return Err(Unfinished::Final(arriving.give_up(failure)));
    }
    let blames_the_content = matches!(
        result.as_ref().map_err(Error::kind),
        Ok(_)
            | Err(ErrorKind::Corrupt
                | ErrorKind::UnsafeLayer
                | ErrorKind::Unsupported
                | ErrorKind::ResourceExhausted)
    );
    if blames_the_content {
        match arriving.drain(BLAME_BYTES) {
            Ok(true) => intake.finish(desc, arriving)?,
            Ok(false) => arriving.leave()?,
            Err(error) => return Err(Unfinished::Final(arriving.give_up(error))),
        }
    }
    Ok(result?)
}

/// Removes a snapshot whose filling failed: that failure is told, this one only logged, and the
/// next pull tries again.
fn discard(snapshotter: &dyn Snapshotter, key: &SnapshotKey) {
    if let Err(error) = snapshotter.remove(key) {
        tracing::warn!(%key, ?error, "a failed snapshot was not removed");
    }
}

/// The key under which a layer is unpacked, by whoever holds the lock of that name.
fn unpack_key(chain_id: ChainId) -> String {
    format!("{UNPACK}{chain_id}")
}

fn target(mounts: &[Mount]) -> Option<PathBuf> {
    mounts.first().and_then(Mount::writable_dir)
}

pub(crate) fn snapshot_key(text: &str) -> Result<SnapshotKey> {
    text.parse().context(ErrorKind::InvalidArgument, || format!("parse snapshot key {text:?}"))
}

fn find(snapshotter: &dyn Snapshotter, chain_id: ChainId) -> Result<Option<SnapshotInfo>> {
    match snapshotter.stat(&SnapshotKey::from(chain_id)) {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_if_there(snapshotter: &dyn Snapshotter, key: &SnapshotKey) -> Result<()> {
    match snapshotter.remove(key) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
