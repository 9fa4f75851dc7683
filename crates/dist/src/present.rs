//! An image that is there already, with all that a pull would bring: then nothing is written, but
//! that what was not durable yet becomes so where durability asks for it.
//!
//! No lease is needed to look for it. Its name is a root of every collection, and its labels lead to
//! all the rest; they are read in one transaction, and only then the snapshots. What is found then
//! stays as long as the image does.

use std::sync::Arc;

use dist_core::{ErrorKind, Event, Image, Progress, Result, SnapshotKey, SnapshotKind};

use dist_store::SettleMode;

use crate::Engine;
use crate::blocking::blocking;
use crate::layers::Plan;
use crate::pull::{Found, Needs, Pulled, Unpacking, Wanted};
use crate::references::{Belongings, is_of_content};

/// Finds the image under its own name; `None` where there is anything to do for it.
///
/// # Errors
/// `Storage`.
pub(crate) async fn find(
    engine: &Engine,
    found: &Found,
    wanted: &Wanted,
    progress: &Arc<dyn Progress>,
) -> Result<Option<Pulled>> {
    // A lease of somebody else's has to hold what is found, and blobs may have to go.
    if engine.scope().lease.is_some() || engine.discards() {
        return Ok(None);
    }
    let (engine, found, progress) = (engine.clone(), found.clone(), Arc::clone(progress));
    let needs = Needs::new(found.target.clone(), wanted.platforms.clone(), wanted.unpacks.clone());
    blocking(move || {
        let Some((image, belongings)) = registered(&engine, &found, &needs)? else {
            return Ok(None);
        };
        let mut chain_id = None;
        for unpacking in &needs.unpacks {
            let plan = match needs.plan(&engine.content(), unpacking) {
                Err(error) if is_of_content(&error) => return Ok(None),
                plan => plan?,
            };
            if !is_unpacked(&engine, &plan, unpacking)? {
                return Ok(None);
            }
            plan.tell_other(&found.name, &unpacking.platform, &*progress);
            chain_id = chain_id.or(plan.chain_id());
        }
        engine.store().settle(SettleMode::Answer)?;
        tell(&belongings, &image, &*progress);
        let mirrors = engine.remotes().registries().mirrors();
        let (others, warnings) = (Vec::new(), Vec::new());
        Ok(Some(Pulled { image, others, chain_id, warnings, mirrors }))
    })
    .await
}

/// The image, and what belongs to it, where that is all there.
fn registered(
    engine: &Engine,
    found: &Found,
    needs: &Needs,
) -> Result<Option<(Image, Belongings)>> {
    let belongings = match needs.find_whole(&engine.content()) {
        Err(error) if is_of_content(&error) => return Ok(None),
        belongings => belongings?,
    };
    let mut registration = belongings.clone().registration(Some(&found.name));
    let labels = found.approval.labels();
    registration.images = vec![(found.image.clone(), found.target.clone(), labels)];
    let images = engine.store().registered(engine.scope(), &registration)?;
    let image = images.and_then(|images| images.into_iter().next());
    Ok(image.map(|image| (image, belongings)))
}

/// Whether the snapshot of a whole image is there with one below it for each other layer.
fn is_unpacked(engine: &Engine, plan: &Plan, unpacking: &Unpacking) -> Result<bool> {
    let Some(top) = plan.chain_id() else { return Ok(true) };
    let key = SnapshotKey::from(top);
    let record = match engine.store().snapshots(engine.scope(), &unpacking.snapshotter).get(&key) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        record => record?,
    };
    if record.info.kind != SnapshotKind::Committed || record.parents.len() + 1 != plan.layers.len()
    {
        return Ok(false);
    }
    // It looks for the directories.
    match engine.with_snapshotter(&unpacking.snapshotter).snapshotter()?.stat(&key) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        there => there.map(|_| true),
    }
}

/// Tells of each blob that it is there, as a pull does that looks at one after another.
fn tell(belongings: &Belongings, image: &Image, progress: &dyn Progress) {
    belongings.visit(&image.target, &mut |desc, children| {
        progress.event(Event::Waiting { desc });
        progress.event(Event::Existed { desc });
        if desc.media_type.layer_compression().is_none() {
            progress.event(Event::Listed { desc, children });
        }
    });
}
