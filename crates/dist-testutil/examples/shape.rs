//! A slow and distant link in front of a server, in user space.
//!
//! `shape ADDRESS MEGABITS MILLISECONDS` prints the port it listens on and passes every connection
//! on to ADDRESS. All connections share a rate in each direction; a byte arrives half of the round
//! trip after it left. A connection begins as one over a network does: nothing passes before the
//! round trip of the handshake, and what is under way and not acknowledged starts with ten segments
//! and doubles with each round trip. Nothing is ever lost. Rates are of payload, without headers.
//!
//! Answers each line on standard input with the bytes so far to clients, those to the server, and
//! the number of connections; ends where that ends.
#![allow(missing_docs, reason = "a program")]
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes that travel as one.
const CHUNK: usize = 64 << 10;
/// What may be under way when a connection begins: ten segments of an Ethernet.
const WINDOW: usize = 10 * 1448;
/// Where the window stops to grow.
const LARGEST: usize = 6 << 20;
/// How many chunks wait at most for one that doesn't read.
const QUEUE: usize = LARGEST / CHUNK;
/// How far ahead of the present the link is filled: it never runs dry between two wake-ups.
const AHEAD: Duration = Duration::from_millis(4);

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// One direction of the link.
struct Way {
    bits_per_second: f64,
    delay: Duration,
    /// When the last byte that was accepted has left.
    free: Mutex<Instant>,
    bytes: AtomicU64,
}

impl Way {
    fn new(megabits: f64, delay: Duration) -> Self {
        let free = Mutex::new(Instant::now());
        Self { bits_per_second: megabits * 1e6, delay, free, bytes: AtomicU64::new(0) }
    }

    /// Sends bytes; returns when they arrive.
    fn send(&self, bytes: usize) -> Instant {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let time = Duration::from_secs_f64(bytes as f64 * 8.0 / self.bits_per_second);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = Instant::now().max(*free) + time;
        *free + self.delay
    }

    /// Waits until the link is about to be free.
    fn wait(&self) {
        let free = *self.free.lock().unwrap_or_else(PoisonError::into_inner);
        sleep_until(free.checked_sub(AHEAD).unwrap_or(free));
    }
}

/// What one connection has under way.
struct Window {
    size: usize,
    under_way: usize,
    /// When which bytes will be acknowledged.
    sent: VecDeque<(Instant, usize)>,
}

impl Window {
    fn new() -> Self {
        Self { size: WINDOW, under_way: 0, sent: VecDeque::new() }
    }

    /// Waits until something may be sent; returns how much.
    fn wait(&mut self) -> usize {
        loop {
            while let Some(&(at, bytes)) = self.sent.front()
                && (at <= Instant::now() || self.under_way >= self.size)
            {
                sleep_until(at);
                self.sent.pop_front();
                self.under_way -= bytes;
                self.size = LARGEST.min(self.size + bytes);
            }
            if self.under_way < self.size {
                return CHUNK.min(self.size - self.under_way);
            }
        }
    }

    fn send(&mut self, bytes: usize, acknowledged: Instant) {
        self.under_way += bytes;
        self.sent.push_back((acknowledged, bytes));
    }
}

fn main() -> Result<()> {
    let usage = "usage: shape ADDRESS MEGABITS MILLISECONDS";
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, megabits, milliseconds] = &args[..] else { return Err(usage.into()) };
    let delay = Duration::from_secs_f64(milliseconds.parse::<f64>()? / 2000.0);
    let megabits = megabits.parse()?;
    let ways = [Arc::new(Way::new(megabits, delay)), Arc::new(Way::new(megabits, delay))];
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    let connections = Arc::new(AtomicU64::new(0));
    let (address, shared, counter) = (address.clone(), ways.clone(), Arc::clone(&connections));
    thread::spawn(move || {
        for client in listener.incoming().map_while(io::Result::ok) {
            counter.fetch_add(1, Ordering::Relaxed);
            let (address, ways) = (address.clone(), shared.clone());
            thread::spawn(move || connect(&client, &address, ways));
        }
    });
    for line in io::stdin().lock().lines() {
        line?;
        let [down, up] = ways.each_ref().map(|way| way.bytes.load(Ordering::Relaxed));
        writeln!(out, "{down} {up} {}", connections.load(Ordering::Relaxed))?;
    }
    Ok(())
}

/// Serves one connection; where one side fails, the other's connection ends as well.
fn connect(client: &TcpStream, address: &str, [down, up]: [Arc<Way>; 2]) -> io::Result<()> {
    let handshake = Instant::now() + up.delay + down.delay;
    let server = TcpStream::connect(address)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    let (up_way, back) = (Arc::clone(&up), down.delay);
    let asking = thread::spawn(move || {
        sleep_until(handshake);
        carry(&from_client, &to_server, &up_way, back)
    });
    carry(&server, client, &down, up.delay)?;
    client.shutdown(Shutdown::Both)?;
    asking.join().unwrap_or(Ok(()))
}

/// Carries bytes one way until their source ends; `back` is how long an acknowledgement takes.
fn carry(mut from: &TcpStream, to: &TcpStream, way: &Way, back: Duration) -> io::Result<()> {
    let (queue, arrivals) = mpsc::sync_channel::<(Instant, Vec<u8>)>(QUEUE);
    let mut target = to.try_clone()?;
    let deliver = thread::spawn(move || -> io::Result<()> {
        for (at, bytes) in arrivals {
            sleep_until(at);
            target.write_all(&bytes)?;
        }
        target.shutdown(Shutdown::Write)
    });
    let mut window = Window::new();
    loop {
        way.wait();
        let mut bytes = vec![0; window.wait()];
        let count = from.read(&mut bytes)?;
        if count == 0 {
            break;
        }
        bytes.truncate(count);
        let arrives = way.send(count);
        window.send(count, arrives + back);
        if queue.send((arrives, bytes)).is_err() {
            break;
        }
    }
    drop(queue);
    deliver.join().unwrap_or(Ok(()))
}

fn sleep_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}
