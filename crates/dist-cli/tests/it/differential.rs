//! The same calls to containerd and to the daemon: code, class and facts compared.
//!
//! A call is noted with what came back: the facts of an answer, or the code of an error and its
//! class, which is what follows the last colon. Wording, times and generated names are left out.

mod containers;
mod content;
mod different;
mod images;
mod metadata;
mod races;
mod registries;
mod sharing;
mod snapshots;

use std::collections::BTreeMap;
use std::path::Path;

use dist_testutil::{Containerd, timed};
use tonic::Status;

use crate::support::dist;
use crate::wire::Server;
use different::{DIFFERENT, Difference};

/// Calls and what came back.
#[derive(Default)]
pub(crate) struct Log(BTreeMap<String, String>);

impl Log {
    /// Notes one call; `fact` says of an answer what can be compared.
    pub(crate) fn note<T>(
        &mut self,
        call: &str,
        answer: Result<T, Status>,
        fact: impl FnOnce(T) -> String,
    ) {
        self.say(
            call,
            &answer.map_or_else(|status| error(&status), |answer| format!("ok {}", fact(answer))),
        );
    }

    /// Notes what came of something.
    pub(crate) fn say(&mut self, call: &str, said: &str) {
        let mut call = call.to_owned();
        while self.0.contains_key(&call) {
            call.push_str(", again");
        }
        self.0.insert(call, said.trim_end().to_owned());
    }

    /// Notes a call whose answer says nothing more than that it is one.
    pub(crate) fn code<T>(&mut self, call: &str, answer: Result<T, Status>) {
        self.note(call, answer, |_| String::new());
    }
}

/// An error as its code and class.
pub(crate) fn error(status: &Status) -> String {
    let class = status.message().rsplit(": ").next().unwrap_or_default();
    let known = [
        "not found",
        "already exists",
        "invalid argument",
        "failed precondition",
        "unavailable",
        "out of range",
        "not implemented",
        "aborted",
        "namespace is required",
    ];
    let class = if known.contains(&class) { class } else { "…" };
    format!("{:?}: {class}", status.code())
}

/// Makes all calls to the server at `socket`.
fn all(socket: &Path, fragile: bool) -> Log {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("make a runtime").block_on(async {
        let server = Server::connect(socket, fragile).await;
        let mut log = Log::default();
        content::calls(&server, &mut log).await;
        containers::calls(&server, &mut log).await;
        metadata::calls(&server, &mut log).await;
        snapshots::calls(&server, &mut log).await;
        races::calls(&server, &mut log).await;
        log
    })
}

#[test]
fn the_daemon_answers_like_containerd() {
    let _timed = timed("differential");
    let theirs = all(Containerd::start().socket(), true);
    let dist = dist();
    let ours = all(dist.daemon().address(), false);
    compare(theirs, ours, DIFFERENT);
}

/// Fails the test where two logs differ in more than `different` says, or in less.
#[track_caller]
fn compare(theirs: Log, ours: Log, different: &'static [(&str, &[Difference])]) {
    let (theirs, ours) = (theirs.0, ours.0);
    let absent = "no such call".to_owned();
    let mut wrong = Vec::new();
    let mut listed: BTreeMap<&str, (&str, &str)> = different
        .iter()
        .flat_map(|(_, calls)| *calls)
        .map(|(call, a, b)| (*call, (*a, *b)))
        .collect();
    for (call, answer) in &ours {
        let other = theirs.get(call).unwrap_or(&absent);
        let found = (other.as_str(), answer.as_str());
        match listed.remove(call.as_str()) {
            Some(known) if known == found => {}
            None if other == answer => {}
            // A message of containerd's without a class says less than one of ours with it.
            None if other.strip_suffix('…').is_some_and(|code| answer.starts_with(code)) => {}
            known => wrong.push(format!(
                "{call}\n  containerd: {other}\n  dist:       {answer}\n  listed:     {known:?}"
            )),
        }
    }
    wrong.extend(
        theirs
            .keys()
            .filter(|call| !ours.contains_key(*call))
            .map(|call| format!("{call}: only containerd was asked")),
    );
    wrong.extend(listed.keys().map(|call| format!("{call}: listed as different, and never asked")));
    assert!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), ours.len(), wrong.join("\n"));
}
