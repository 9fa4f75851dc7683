//! How the daemon ends while clients are at work.

use std::io::{PipeWriter, Write as _};

use dist_testutil::{Running, Served, timed};

use crate::support::dist;

/// Starts `ctr content ingest` of something that does not end, and waits until the daemon has some
/// of it.
fn begin(daemon: &Served<'_>) -> (Running, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("make a pipe");
    let mut command = daemon.ctr_command(&["content", "ingest", "--expected-size", "9000000", "x"]);
    command.stdin(reader);
    let running = Running::of(command);
    writer.write_all(&vec![7; 4 << 20]).expect("write the content");
    while active(daemon).is_none() {}
    (running, writer)
}

/// The offset of the ingest, once it has one.
fn active(daemon: &Served<'_>) -> Option<String> {
    let listed = daemon.ctr(&["content", "active"]).ok().text();
    let line = listed.lines().find(|line| line.starts_with("x"))?;
    let size = line.split_whitespace().nth(1).expect("a size").to_owned();
    (size != "0B" && size != "0.0").then_some(size)
}

#[test]
fn what_was_written_into_an_ingest_survives_sigterm() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    let (ctr, writer) = begin(&daemon);
    daemon.stop().ok();
    drop(writer);
    assert_ne!(ctr.wait().code, Some(0), "ctr has nothing to be glad of");
    let daemon = dist.daemon();
    assert!(active(&daemon).is_some(), "the ingest is gone");
    daemon.stop().ok();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    let (ctr, writer) = begin(&daemon);
    daemon.signal("TERM");
    // The first signal was heard when the socket is gone.
    while daemon.address().exists() {}
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code, Some(143));
    drop(writer);
    ctr.kill();
}

#[test]
fn event_streams_end_with_it() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    let events = daemon.spawn_ctr(&["events"]);
    daemon.ctr(&["version"]).ok();
    daemon.signal("INT");
    daemon.wait().ok();
    events.wait().exit(1);
}
