//! kill -9 at many points of a pull; then the same pull, and a verified store.

use std::time::Duration;

use dist_testutil::{Fault, FaultProxy, Gate, Image, Registry, Rule, timed, torture};

use crate::support::{dist, verify_image, verify_store, view};

#[test]
fn at_every_blob_and_half_of_it() {
    let _timed = timed("kills");
    let registry = Registry::start();
    let image = Image::random(31, &[200_000, 90_000, 400]);
    image.push(&registry, "test/kills", "1");
    let proxy = FaultProxy::start(registry.address());
    let reference = proxy.reference("test/kills:1");
    let parts = [("/manifests/", 0), ("/manifests/", 100)];
    let blobs = image.blobs.iter().flat_map(|blob| {
        let half = blob.bytes.len() as u64 / 2;
        [(blob.digest.to_string(), 0), (blob.digest.to_string(), half)]
    });
    for (part, bytes) in parts.map(|(part, at)| (part.to_owned(), at)).into_iter().chain(blobs) {
        let (dist, gate) = (dist(), Gate::default());
        proxy.reset();
        proxy.add(Rule::get(part.clone(), Fault::Hold(bytes, gate.clone())).times(1));
        let running = dist.spawn(&["pull", &reference]);
        if part != "/manifests/" || bytes > 0 {
            gate.wait_held(1);
        }
        running.kill();
        gate.open();
        verify_store(&dist);
        dist.ok(&["pull", &reference]);
        verify_image(&dist, &reference, &image);
    }
}

#[test]
fn at_any_moment() {
    let _timed = timed("kills");
    let registry = Registry::start();
    let image = Image::varied();
    image.push(&registry, "test/kills", "1");
    let reference = registry.reference("test/kills:1");
    let whole = dist();
    let took = whole.ok(&["pull", &reference]).took;
    let tree = view(&whole, &image.digest());
    let rounds: u32 = if torture() { 400 } else { 25 };
    let one_store = dist();
    for round in 0..rounds {
        // The moment is the stimulus here: an even spread over the pull and a bit past it.
        let moment = took * round / rounds + Duration::from_micros(u64::from(round % 7) * 130);
        for dist in [&one_store, &dist()] {
            let running = dist.spawn(&["pull", &reference]);
            std::thread::sleep(moment);
            running.kill();
            verify_store(dist);
            if round % 5 == 0 || torture() {
                dist.ok(&["pull", &reference]);
                verify_image(dist, &reference, &image);
                view(dist, &image.digest()).assert_same(&tree, "after a kill");
                for digest in dist.ok(&["list", "-q"]).text().lines() {
                    dist.ok(&["delete", digest]);
                }
            }
        }
    }
}
