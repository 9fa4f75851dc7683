//! What a blob gets on links and with readers of all speeds, by a clock that does not run.

use super::*;

const MB: u64 = 1_000_000;

/// A link and a reader, second by second: what a blob of `size` bytes gets.
struct Link {
    /// Bytes a second of one connection, and of all.
    each: u64,
    all: u64,
    /// Bytes a second of the reader.
    reader: u64,
    size: u64,
}

impl Link {
    /// Lets the blob come; returns the numbers of connections that it had, in their order, and
    /// how many seconds it took.
    fn run(&self, server: &Arc<Server>) -> (Vec<usize>, f64) {
        let streams: Vec<Stream> = vec![server.stream()];
        let (mut streams, mut had) = (streams, vec![1]);
        let mut pace = Pace::new(Arc::clone(server));
        let (began, tick) = (Instant::now(), Duration::from_millis(10));
        let mut now = began;
        let mut came = 0;
        while came < self.size {
            now += tick;
            let link = self.all.min(self.each * streams.len() as u64);
            let bytes = link.min(self.reader) / 100;
            streams[0].came(usize::try_from(bytes).unwrap());
            came += bytes;
            pace.waited(tick.mul_f64(1.0 - (bytes * 100) as f64 / self.reader as f64));
            let (connections, missing) = (streams.len(), self.size.saturating_sub(came));
            let advice = pace.look(now, Standing { connections, silent: 0, came, missing });
            match advice {
                Some(Advice::Grow { to, rate }) => {
                    assert!(rate > 0 && to > connections);
                    streams.resize_with(to, || server.stream());
                    had.push(to);
                }
                Some(Advice::Shrink { to }) => {
                    streams.truncate(to);
                    had.push(to);
                }
                None => {}
            }
        }
        (had, now.duration_since(began).as_secs_f64())
    }
}

fn server(most: usize) -> Arc<Server> {
    Servers::new(most).find("r")
}

#[test]
fn as_many_connections_as_make_all_faster() {
    let fast = 1000 * MB;
    for (what, link, expected) in [
        (
            "slow one by one",
            Link { each: 20 * MB, all: fast, reader: fast, size: 400 * MB },
            &[1, 2, 4, 6][..],
        ),
        (
            "a full link",
            Link { each: fast, all: 20 * MB, reader: fast, size: 100 * MB },
            &[1, 2, 1],
        ),
        (
            "a link for two",
            Link { each: 20 * MB, all: 40 * MB, reader: fast, size: 300 * MB },
            &[1, 2, 4, 2],
        ),
        (
            "a busy reader",
            Link { each: 100 * MB, all: fast, reader: 150 * MB, size: 900 * MB },
            &[1],
        ),
        (
            "a reader that two connections keep busy",
            Link { each: 40 * MB, all: fast, reader: 85 * MB, size: 800 * MB },
            &[1, 2],
        ),
        ("a small blob", Link { each: 10 * MB, all: fast, reader: fast, size: 30 * MB }, &[1]),
        ("a quick one", Link { each: 200 * MB, all: fast, reader: fast, size: 300 * MB }, &[1]),
    ] {
        let server = server(6);
        let (had, _) = link.run(&server);
        assert_eq!(had, expected, "{what}");
        assert_eq!((server.state().trying, server.extra.load(Ordering::Relaxed)), (false, 0));
    }
}

#[test]
fn what_helped_is_tried_at_once_and_what_did_not_is_not_repeated() {
    let slow = Link { each: 20 * MB, all: 1000 * MB, reader: 1000 * MB, size: 300 * MB };
    let known = server(6);
    let (_, first) = slow.run(&known);
    let (had, second) = slow.run(&known);
    assert_eq!(had, [1, 6]);
    assert!(second < first && first < 7.0, "{first} {second}");

    let full = Link { each: 1000 * MB, all: 20 * MB, reader: 1000 * MB, size: 120 * MB };
    let known = server(6);
    assert_eq!(full.run(&known).0, [1, 2, 1]);
    assert_eq!(full.run(&known).0, [1]);
}

#[test]
fn limits_are_kept() {
    let slow = Link { each: 20 * MB, all: 1000 * MB, reader: 1000 * MB, size: 500 * MB };
    assert_eq!(slow.run(&server(1)).0, [1]);
    assert!(!server(1).has_parts());
    assert_eq!(slow.run(&server(3)).0, [1, 2, 3]);
    // Others of the same server are counted.
    let shared = server(4);
    let others = [shared.stream(), shared.stream()];
    assert_eq!(slow.run(&shared).0, [1, 2]);
    drop(others);
    // All servers together, whatever each of them allows.
    assert!(slow.run(&server(64)).0.iter().all(|had| *had <= 1 + MOST_EXTRA));
    let whole = server(6);
    whole.is_whole_only();
    assert_eq!(slow.run(&whole).0, [1]);
    let busy = server(6);
    busy.is_busy();
    let quick = Link { size: 150 * MB, ..slow };
    assert_eq!(quick.run(&busy).0, [1]);
}
