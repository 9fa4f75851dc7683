//! A real registry behind a proxy that spoils its answers.

use std::time::{Duration, Instant};

use dist_core::ErrorKind;
use dist_registry::{Failure, RegistryOptions, RegistryResolver};
use dist_testutil::{Blob, Fault, FaultProxy, Gate, Image, Registry, Rule};
use futures_util::TryStreamExt;

use super::{STALL, client, descriptor, fetch, open, options, resolve};

const SIZE: usize = 1 << 20;

struct Spoiled {
    image: Image,
    proxy: FaultProxy,
    _registry: Registry,
}

impl Spoiled {
    fn new() -> Self {
        let registry = Registry::start();
        let image = Image::random(4, &[SIZE]);
        image.push(&registry, "x", "1");
        Self { image, proxy: FaultProxy::start(registry.address()), _registry: registry }
    }

    fn name(&self) -> String {
        self.proxy.reference("x:1")
    }

    fn layer(&self) -> &Blob {
        &self.image.blobs[1]
    }

    fn rule(&self, fault: Fault) -> Rule {
        Rule::get(self.image.layer(0), fault)
    }

    async fn fetch(&self, offset: u64) -> dist_core::Result<Vec<u8>> {
        fetch(&client(), &self.name(), &descriptor(self.layer()), offset).await
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.proxy.blob_gets(&self.image.layer(0)).into_iter().map(|get| get.range).collect()
    }
}

#[tokio::test]
async fn a_cut_body_is_resumed() {
    let spoiled = Spoiled::new();
    for fault in [Fault::Cut(700_000), Fault::Reset(700_000)] {
        spoiled.proxy.reset();
        spoiled.proxy.add(spoiled.rule(fault).times(1));
        assert_eq!(spoiled.fetch(0).await.unwrap(), spoiled.layer().bytes);
        let ranges = spoiled.ranges();
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0], None);
        assert!(ranges[1].as_deref().unwrap().starts_with("bytes="), "{ranges:?}");
    }
}

#[tokio::test]
async fn many_cuts_with_progress_do_not_exhaust_the_tries() {
    let spoiled = Spoiled::new();
    spoiled.proxy.add(spoiled.rule(Fault::Cut(100_000)));
    assert_eq!(spoiled.fetch(0).await.unwrap(), spoiled.layer().bytes);
    assert!(spoiled.ranges().len() > 8);
}

#[tokio::test]
async fn cuts_without_progress_end() {
    let spoiled = Spoiled::new();
    spoiled.proxy.add(spoiled.rule(Fault::Cut(0)));
    let error = spoiled.fetch(0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.find::<Failure>().unwrap().attempts, options().attempts);
}

#[tokio::test]
async fn a_range_that_is_ignored_or_wrong_doubles_no_byte() {
    let spoiled = Spoiled::new();
    for fault in [Fault::IgnoreRange, Fault::ShiftRange(10)] {
        spoiled.proxy.reset();
        spoiled.proxy.add(spoiled.rule(Fault::Cut(400_000)).times(1));
        spoiled.proxy.add(spoiled.rule(fault.clone()));
        assert_eq!(spoiled.fetch(0).await.unwrap(), spoiled.layer().bytes, "{fault:?}");
        spoiled.proxy.reset();
        spoiled.proxy.add(spoiled.rule(fault.clone()));
        assert_eq!(spoiled.fetch(12_345).await.unwrap(), spoiled.layer().bytes[12_345..]);
    }
}

#[tokio::test]
async fn busy_servers_are_asked_again() {
    let spoiled = Spoiled::new();
    let expected = descriptor(&spoiled.image.manifest);
    for status in [408, 429, 500, 502, 503, 504] {
        spoiled.proxy.reset();
        spoiled.proxy.add(Rule::any("/v2/", Fault::Status(status, Vec::new())).times(3));
        let resolved = resolve(&client(), &spoiled.name()).await.unwrap();
        assert_eq!(resolved.target, expected, "{status}");
        assert_eq!(spoiled.proxy.log().len(), 4, "{status}");
    }
    spoiled.proxy.reset();
    spoiled.proxy.add(Rule::any("/v2/", Fault::Status(503, Vec::new())));
    let error = resolve(&client(), &spoiled.name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.find::<Failure>().unwrap().status, Some(503));
    assert_eq!(spoiled.proxy.log().len(), 5);
    spoiled.proxy.reset();
    spoiled.proxy.add(Rule::any("/v2/", Fault::Refuse).times(2));
    assert_eq!(resolve(&client(), &spoiled.name()).await.unwrap().target, expected);
}

#[tokio::test]
async fn retry_after_is_honoured_within_reason() {
    let spoiled = Spoiled::new();
    let wait = |seconds: &str| Fault::Status(429, vec![("Retry-After", seconds.to_owned())]);
    spoiled.proxy.add(Rule::any("/v2/", wait("1")).times(1));
    let began = Instant::now();
    assert!(resolve(&client(), &spoiled.name()).await.is_ok());
    assert!(began.elapsed() >= Duration::from_secs(1));

    spoiled.proxy.reset();
    spoiled.proxy.add(Rule::any("/v2/", wait("7200")));
    let error = resolve(&client(), &spoiled.name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("asks to wait 2 hours"), "{error:?}");
    assert_eq!(spoiled.proxy.log().len(), 1);
}

#[tokio::test]
async fn silence_ends_and_a_slow_reader_does_not() {
    let spoiled = Spoiled::new();
    let gate = Gate::default();
    // Less than what counts as progress.
    spoiled.proxy.add(spoiled.rule(Fault::Hold(20_000, gate.clone())));
    let began = Instant::now();
    let error = spoiled.fetch(0).await.unwrap_err();
    gate.open();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("no data for"), "{error:?}");
    assert!(began.elapsed() < 5 * STALL);

    spoiled.proxy.reset();
    let client = client();
    let desc = descriptor(spoiled.layer());
    let mut stream = open(&client, &spoiled.name(), &desc, 0).await.unwrap();
    let mut bytes = stream.try_next().await.unwrap().unwrap().to_vec();
    tokio::time::sleep(3 * STALL).await; // the reader's own time
    while let Some(chunk) = stream.try_next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes, spoiled.layer().bytes);
    assert_eq!(spoiled.ranges(), [None]);
}

#[tokio::test]
async fn silences_with_progress_between_them_are_survived() {
    let spoiled = Spoiled::new();
    let gate = Gate::default();
    let size = spoiled.layer().bytes.len() as u64;
    spoiled.proxy.add(spoiled.rule(Fault::Hold(size / 4 + 1, gate.clone())));
    let fetched = spoiled.fetch(0).await.unwrap();
    gate.open();
    assert_eq!(fetched, spoiled.layer().bytes);
    assert_eq!(spoiled.ranges().len(), 4);
}

#[tokio::test]
async fn a_trickle_ends() {
    let spoiled = Spoiled::new();
    spoiled.proxy.add(spoiled.rule(Fault::Slow(10, STALL / 5)));
    let began = Instant::now();
    let error = spoiled.fetch(0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("only "), "{error:?}");
    assert!(began.elapsed() < 10 * STALL);
}

#[tokio::test]
async fn the_total_timeout_ends_everything() {
    let spoiled = Spoiled::new();
    spoiled.proxy.add(spoiled.rule(Fault::Slow(20_000, Duration::from_millis(100))));
    let options = RegistryOptions { total_timeout: Some(STALL), ..options() };
    let client = RegistryResolver::new(options);
    let began = Instant::now();
    let desc = descriptor(spoiled.layer());
    let error = fetch(&client, &spoiled.name(), &desc, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() < 2 * STALL);
}

#[tokio::test]
async fn bytes_are_passed_on_as_they_are() {
    let spoiled = Spoiled::new();
    spoiled.proxy.add(spoiled.rule(Fault::Flip(9)));
    let bytes = spoiled.fetch(0).await.unwrap();
    assert_ne!(bytes, spoiled.layer().bytes);
    assert_eq!(bytes.len(), spoiled.layer().bytes.len());
}

#[tokio::test]
async fn nobody_there() {
    let error = resolve(&client(), "127.0.0.1:1/x:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("Connection refused"), "{error:?}");
    let error = resolve(&client(), "surely.not.there.invalid/x:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("host name not found"), "{error:?}");
}
