//! The lease around one operation of this process: what it finds and brings is not collected before
//! names and labels keep it.
//!
//! The lease is kept for as long as the operation runs, however long that is. It ends a day after
//! an operation began whose process died. One that failed ends after an hour: trying again finds
//! what was brought. An engine that works under somebody else's lease uses that one.

use std::collections::BTreeSet;

use dist_core::{
    Cancel, GC_EXPIRE, GC_ROOT, Image, LabelChange, Labels, LeaseId, Resource, Result,
};
use dist_store::{LockGuard, OPERATION, Registration, Scope};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::Engine;

/// How long a lease keeps things whose process does not end it, in seconds.
const LIFETIME: i64 = 24 * 60 * 60;

/// How long a lease keeps things after a failure, in seconds.
const RETRY: i64 = 60 * 60;

/// One operation. Dropped without [`Session::finish`] it has failed.
pub(crate) struct Session {
    engine: Engine,
    /// The scope of whoever began it.
    outer: Scope,
    /// The lease, where it is ours.
    own: Option<LeaseId>,
    /// Keeps our lease while we live.
    _alive: Option<LockGuard>,
    held: BTreeSet<Resource>,
}

impl Session {
    /// Begins an operation that needs `needs`, whether they are there or not.
    ///
    /// # Errors
    /// `NotFound` for somebody else's lease that is gone; `Storage`.
    pub(crate) fn begin(engine: &Engine, needs: BTreeSet<Resource>) -> Result<Self> {
        let outer = engine.scope().clone();
        let held = BTreeSet::new();
        let mut session = Self { engine: engine.clone(), outer, own: None, _alive: None, held };
        if session.outer.lease.is_some() {
            session.hold(needs)?;
        } else if !engine.store().is_read_only() {
            let leases = engine.store().leases(engine.namespace());
            let list: Vec<_> = needs.iter().cloned().collect();
            let mut labels = lease_labels();
            labels.insert(OPERATION.to_owned(), "local".to_owned());
            let lease = leases.create_lazily(&labels, &list)?;
            session.engine = engine.leased(lease.clone());
            session.own = Some(lease.clone());
            let cancel = Cancel::default();
            let alive = engine.store().use_lease(engine.namespace(), &lease, &cancel)?;
            session._alive = Some(alive);
            session.held = needs;
        }
        Ok(session)
    }

    /// The engine to work with.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Keeps more. Called before it is looked whether they are there.
    ///
    /// # Errors
    /// `NotFound` for a lease that is gone; `Storage`.
    pub(crate) fn hold(&mut self, needs: BTreeSet<Resource>) -> Result<()> {
        let Some(lease) = &self.engine.scope().lease else { return Ok(()) };
        let new: Vec<_> = needs.difference(&self.held).cloned().collect();
        if !new.is_empty() {
            let leases = self.engine.store().leases(self.engine.namespace());
            leases.add_lazily(lease, &new)?;
            self.held.extend(new);
        }
        Ok(())
    }

    /// Ends the operation: labels, names and the end of the lease are one transaction.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are too long; `Storage`.
    pub(crate) fn finish(mut self, registration: Registration) -> Result<Vec<Image>> {
        let store = self.engine.store();
        if store.is_read_only() && registration.images.is_empty() {
            return Ok(Vec::new());
        }
        let registration = Registration { lease: self.own.clone(), ..registration };
        let images = store.register(&self.outer, &registration)?;
        self.own = None;
        Ok(images)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(lease) = self.own.take() else { return };
        let leases = self.engine.store().leases(self.engine.namespace());
        let change = LabelChange::Merge(failed_lease_labels());
        let shorten = || {
            if let Err(error) = leases.update_lazily(&lease, &change) {
                tracing::debug!(?error, %lease, "a lease of a failed operation keeps its full time");
            }
        };
        // The turn to write may be long in coming: a runtime's thread must not keep other tasks
        // waiting for it, and a process that ends must not forget it.
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(shorten),
            _ => shorten(),
        }
    }
}

/// The labels of a lease for one operation: it ends a day after its process died.
#[must_use]
pub fn lease_labels() -> Labels {
    expiry(LIFETIME)
}

/// The labels of a lease for what an operation leaves that failed: trying again finds it for an hour.
#[must_use]
pub fn failed_lease_labels() -> Labels {
    expiry(RETRY)
}

/// The label of what a user brought by hand: it stays until he removes it.
pub fn root_label() -> Labels {
    Labels::from([(GC_ROOT.to_owned(), time(0))])
}

fn expiry(seconds: i64) -> Labels {
    Labels::from([(GC_EXPIRE.to_owned(), time(seconds))])
}

/// The time in so many seconds, as in RFC 3339.
fn time(seconds: i64) -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(now).to_string()
}
