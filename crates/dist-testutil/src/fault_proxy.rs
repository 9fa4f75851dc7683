//! A proxy between the client and a real registry that spoils what the rules
//! say and counts what passed.
//!
//! One connection carries one request: the proxy answers `Connection: close`.
//! Rules are tried in order; the first that matches and has uses left applies.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::http::Head;

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The body ends after so many bytes, with the connection.
    Cut(u64),
    /// As [`Fault::Cut`], but with a reset instead of an end.
    Reset(u64),
    /// This status instead of the answer, with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// This status instead of the answer, with this code in its body (distribution-spec, "Error Codes").
    Code(u16, &'static str),
    /// So many bytes at a time, with this pause between them.
    Slow(usize, Duration),
    /// The byte at this offset of the body is another one.
    Flip(u64),
    /// The registry never sees the `Range` header.
    IgnoreRange,
    /// The registry's answer comes without this header, named in lower case.
    Without(&'static str),
    /// The registry's answer comes with this value of a header, named in lower case.
    With(&'static str, String),
    /// The registry's `Content-Range` is moved by so many bytes.
    ShiftRange(u64),
    /// So many bytes pass; the rest waits until the gate opens.
    Hold(u64, Gate),
    /// The request waits this long before the registry sees it.
    Delay(Duration),
    /// The connection is reset before any answer.
    Refuse,
    /// So many bytes of the request's body reach the registry, then the connection is reset; where
    /// that is all of them, the registry has answered by then.
    Break(u64),
    /// As [`Fault::Break`], but the registry gets what came as a chunk of its own, and later
    /// requests for the upload reach it where it went on: as a registry does that keeps what it got.
    Keep(u64),
    /// As [`Fault::Keep`], but the connection is reset when the gate opens, and nothing reaches the
    /// registry before that.
    KeepHeld(u64, Gate),
    /// As [`Fault::Keep`] with all that came until the client went away; a whole body goes its way.
    KeepAll,
    /// A body of more bytes than this is refused with 413 before it is read, and the connection is
    /// closed.
    TooLarge(u64),
}

/// Lets a test wait for the proxy and the proxy for the test.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<(u32, bool)>, Condvar)>);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, (u32, bool)> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `count` bodies are held at this gate.
    pub fn wait_held(&self, count: u32) {
        let mut state = self.lock();
        while state.0 < count {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets all that is held, and all to come, pass.
    pub fn open(&self) {
        self.lock().1 = true;
        self.0.1.notify_all();
    }

    fn hold(&self) {
        let mut state = self.lock();
        state.0 += 1;
        self.0.1.notify_all();
        while !state.1 {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Which requests a fault is for.
#[derive(Debug, Clone)]
pub struct Rule {
    method: Option<&'static str>,
    part: String,
    times: u32,
    /// How many such requests pass first.
    passing: u32,
    /// Whether it is for parts alone, `Range: bytes=<first>-<last>`.
    parts: bool,
    /// Whether it is for requests with a body alone.
    sending: bool,
    fault: Fault,
}

impl Rule {
    /// Every GET whose path has `part` in it, for ever.
    pub fn get(part: impl Into<String>, fault: Fault) -> Self {
        Self { method: Some("GET"), ..Self::any(part, fault) }
    }

    /// Every request whose path has `part` in it, for ever.
    pub fn any(part: impl Into<String>, fault: Fault) -> Self {
        let (part, times, passing) = (part.into(), u32::MAX, 0);
        Self { method: None, part, times, passing, parts: false, sending: false, fault }
    }

    /// Every PATCH and PUT of content, for ever.
    pub fn upload(fault: Fault) -> Self {
        Self { sending: true, ..Self::any("_state=", fault) }
    }

    /// Only requests by this method.
    #[must_use]
    pub fn by(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests for a part that has an end.
    #[must_use]
    pub fn parts(mut self) -> Self {
        self.parts = true;
        self
    }

    /// Not the first `count` such requests.
    #[must_use]
    pub fn after(mut self, count: u32) -> Self {
        self.passing = count;
        self
    }

    /// Only the first `times` such requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }
}

/// A request as the proxy saw it, and what became of it.
#[derive(Debug, Clone)]
pub struct Request {
    /// GET, HEAD and so on.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Range` header, if there was one.
    pub range: Option<String>,
    /// The status the client got; 0 when it got none.
    pub status: u16,
    /// Body bytes that were sent to the client.
    pub sent: u64,
    /// Whether the client authorized itself.
    pub authorized: bool,
    /// How long the body was to be that the client sent.
    pub length: u64,
    /// How much of it came.
    pub received: u64,
    /// Whether it is still under way.
    pub is_open: bool,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    log: Vec<Request>,
    rates: Rates,
    /// Blobs on their way, now and at most.
    open: (usize, usize),
    /// When the bytes that all connections sent are paid for.
    paid: Option<Instant>,
    /// Uploads that went on, by where the client believes them.
    moved: Vec<(String, String)>,
}

/// How many bytes of blobs pass in a second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// On each connection.
    pub each: Option<u64>,
    /// On all of them.
    pub all: Option<u64>,
}

/// A running proxy; it stops on drop.
#[derive(Debug)]
pub struct FaultProxy {
    address: String,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl FaultProxy {
    /// Starts one in front of `upstream` (`127.0.0.1:port`).
    ///
    /// # Panics
    /// When no port can be had.
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind the proxy");
        let address = listener.local_addr().expect("the proxy's address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let this = Self { address, state: Arc::clone(&state), stop: Arc::clone(&stop) };
        let upstream = upstream.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (upstream, state) = (upstream.clone(), Arc::clone(&state));
                std::thread::spawn(move || drop(serve(&client, &upstream, &state)));
            }
        });
        this
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `127.0.0.1:port/name`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Adds a rule behind those there are.
    pub fn add(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Lets blobs pass no faster than this.
    pub fn limit(&self, rates: Rates) {
        self.state().rates = rates;
    }

    /// How many blobs, or parts of them, were on their way at once.
    pub fn most_at_once(&self) -> usize {
        self.state().open.1
    }

    /// Drops every rule and limit, and forgets every request.
    pub fn reset(&self) {
        let mut state = self.state();
        let open = state.open.0;
        *state = State { open: (open, open), ..State::default() };
    }

    /// Every request since the start or the last [`FaultProxy::reset`].
    pub fn log(&self) -> Vec<Request> {
        self.state().log.clone()
    }

    /// The GETs of a blob, by its digest.
    pub fn blob_gets(&self, digest: &str) -> Vec<Request> {
        let part = format!("/blobs/{digest}");
        let mut log = self.log();
        log.retain(|request| request.method == "GET" && request.path.contains(&part));
        log
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address); // wakes the listener
    }
}

/// What the log entry of this connection becomes, also when it breaks off.
struct Entry<'a> {
    state: &'a Mutex<State>,
    at: usize,
}

impl Entry<'_> {
    fn update(&self, change: impl FnOnce(&mut Request)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(request) = state.log.get_mut(self.at) {
            change(request);
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.update(|request| request.is_open = false);
    }
}

/// What a client sends, counted.
struct Body<'a> {
    rest: std::io::Take<BufReader<&'a TcpStream>>,
    entry: &'a Entry<'a>,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.rest.read(buffer)?;
        self.entry.update(|request| request.received += count as u64);
        Ok(count)
    }
}

fn serve(client: &TcpStream, upstream: &str, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let Some(mut head) = Head::read(&mut reader)? else { return Ok(()) };
    let asked = head.first.clone();
    let mut words = asked.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    head.first = follow(state, &asked);
    let (fault, entry) = note(state, (method, path), &head);
    let is_blob = method == "GET" && path.contains("/blobs/");
    let limits = is_blob.then(|| Limits::begin(state));
    let length = head.length().unwrap_or(0);
    let mut reader = Body { rest: reader.take(length), entry: &entry };
    let mut body = Vec::new();
    entry.update(|request| {
        request.authorized = head.get("authorization").is_some();
        request.length = head.length().unwrap_or(0);
    });
    match &fault {
        Some(Fault::Refuse) => return reset(client),
        Some(Fault::Status(..) | Fault::Code(..)) => {
            let (status, said, headers) = match &fault {
                Some(Fault::Status(status, headers)) => (status, "UNKNOWN", headers.as_slice()),
                Some(Fault::Code(status, said)) => (status, *said, &[][..]),
                _ => return Ok(()),
            };
            // So that the answer is not lost with a connection that breaks.
            std::io::copy(&mut reader, &mut std::io::sink())?;
            entry.update(|request| request.status = *status);
            let mut answer = format!("HTTP/1.1 {status} Fault\r\nConnection: close\r\n");
            for (name, value) in headers {
                answer.push_str(&format!("{name}: {value}\r\n"));
            }
            let body =
                format!("{{\"errors\":[{{\"code\":\"{said}\",\"message\":\"on purpose\"}}]}}");
            answer.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
            if method != "HEAD" {
                answer.push_str(&body);
            }
            return (&*client).write_all(answer.as_bytes());
        }
        Some(Fault::TooLarge(most)) if head.length().unwrap_or(0) > *most => {
            entry.update(|request| request.status = 413);
            let answer = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            return (&*client).write_all(answer.as_bytes());
        }
        Some(Fault::Keep(at) | Fault::KeepHeld(at, _)) => {
            let body = some(&mut reader, *at)?;
            if let Some(Fault::KeepHeld(_, gate)) = &fault {
                gate.hold();
            }
            keep(&body, &head, (upstream, state), path)?;
            return reset(client);
        }
        Some(Fault::KeepAll) => {
            body = some(&mut reader, length)?;
            if (body.len() as u64) < length {
                return keep(&body, &head, (upstream, state), path);
            }
        }
        Some(Fault::Delay(time)) => std::thread::sleep(*time),
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    let mut ask = format!("{}\r\nConnection: close\r\n", head.first);
    for (name, value) in &head.headers {
        let dropped =
            name == "connection" || name == "range" && matches!(fault, Some(Fault::IgnoreRange));
        if !dropped {
            ask.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    server.write_all(ask.as_bytes())?;
    server.write_all(b"\r\n")?;
    if let Some(Fault::Break(at)) = fault {
        std::io::copy(&mut reader.by_ref().take(at), &mut server)?;
        if at >= length {
            Head::read(&mut BufReader::new(server))?;
        }
        return reset(client);
    }
    server.write_all(&body)?;
    std::io::copy(&mut reader, &mut server)?;
    relay(client, server, (fault.as_ref(), limits.as_ref()), &entry)
}

/// The place of an upload in the path of its last request.
fn upload(path: &str) -> &str {
    path.split_once("&digest=").map_or(path, |(place, _)| place)
}

/// The first line of a request, for where its upload has gone.
fn follow(state: &Mutex<State>, first: &str) -> String {
    let state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let path = first.split(' ').nth(1).unwrap_or("");
    let moved = state.moved.iter().find(|(from, _)| from == upload(path));
    moved.map_or_else(|| first.to_owned(), |(from, to)| first.replacen(from, to, 1))
}

/// As many bytes of a body, or those that came before the client went away.
fn some(reader: &mut impl Read, most: u64) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match reader.take(most).read_to_end(&mut body) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(body),
    }
}

/// Gives the registry what came of a body as a chunk, and remembers where it goes on.
fn keep(
    body: &[u8],
    head: &Head,
    (upstream, state): (&str, &Mutex<State>),
    path: &str,
) -> std::io::Result<()> {
    if body.is_empty() {
        return Ok(());
    }
    let place = upload(path);
    let mut server = TcpStream::connect(upstream)?;
    let target = head.first.split(' ').nth(1).unwrap_or("");
    let mut ask = format!("PATCH {} HTTP/1.1\r\nConnection: close\r\n", upload(target));
    for name in ["host", "authorization", "content-type"] {
        if let Some(value) = head.get(name) {
            ask.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    ask.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    server.write_all(ask.as_bytes())?;
    server.write_all(body)?;
    let answer = Head::read(&mut BufReader::new(server))?;
    let next = answer.as_ref().and_then(|answer| answer.get("location")).unwrap_or("");
    let next = next.split_once("/v2/").map_or(String::new(), |(_, path)| format!("/v2/{path}"));
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.moved.push((place.to_owned(), next));
    Ok(())
}

fn note<'a>(
    state: &'a Mutex<State>,
    (method, path): (&str, &str),
    head: &Head,
) -> (Option<Fault>, Entry<'a>) {
    let mut locked = state.lock().unwrap_or_else(PoisonError::into_inner);
    let (range, is_sending) = (head.get("range"), head.length().unwrap_or(0) > 0);
    let is_part = range.is_some_and(|range| !range.ends_with('-'));
    let matches = |rule: &&mut Rule| {
        let matches = rule.method.is_none_or(|m| m == method) && path.contains(&rule.part);
        matches && rule.times > 0 && (is_part || !rule.parts) && (is_sending || !rule.sending)
    };
    let rule = locked.rules.iter_mut().filter(matches).find_map(|rule| {
        if rule.passing == 0 {
            return Some(rule);
        }
        rule.passing -= 1;
        None
    });
    let fault = rule.map(|rule| {
        rule.times = rule.times.saturating_sub(u32::from(rule.times != u32::MAX));
        rule.fault.clone()
    });
    locked.log.push(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        range: range.map(str::to_owned),
        status: 0,
        sent: 0,
        authorized: false,
        length: 0,
        received: 0,
        is_open: true,
    });
    let at = locked.log.len() - 1;
    drop(locked);
    (fault, Entry { state, at })
}

fn relay(
    mut client: &TcpStream,
    server: TcpStream,
    (fault, limits): (Option<&Fault>, Option<&Limits<'_>>),
    entry: &Entry<'_>,
) -> std::io::Result<()> {
    let mut server = BufReader::new(server);
    let Some(head) = Head::read(&mut server)? else { return Ok(()) };
    let status = head.first.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    entry.update(|request| request.status = status);
    let mut answer = format!("{}\r\nConnection: close\r\n", head.first);
    for (name, value) in &head.headers {
        match (name.as_str(), fault) {
            ("connection", _) => continue,
            (name, Some(Fault::Without(dropped))) if name == *dropped => continue,
            (name, Some(Fault::With(changed, value))) if name == *changed => {
                answer.push_str(&format!("{name}: {value}\r\n"));
            }
            ("content-range", Some(Fault::ShiftRange(by))) => {
                answer.push_str(&format!("{name}: {}\r\n", shifted(value, *by)));
            }
            _ => answer.push_str(&format!("{name}: {value}\r\n")),
        }
    }
    if let Some(Fault::With(added, value)) = fault
        && !head.headers.iter().any(|(name, _)| name == added)
    {
        answer.push_str(&format!("{added}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    client.write_all(answer.as_bytes())?;
    let mut sent = 0_u64;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let most = match fault {
            Some(Fault::Slow(bytes, _)) => (*bytes).min(buffer.len()),
            Some(Fault::Cut(at) | Fault::Reset(at) | Fault::Hold(at, _)) if sent < *at => {
                usize::try_from(*at - sent).unwrap_or(usize::MAX).min(buffer.len())
            }
            _ => buffer.len(),
        };
        match fault {
            Some(Fault::Cut(at)) if sent >= *at => {
                let _ = client.shutdown(Shutdown::Both);
                return Ok(());
            }
            Some(Fault::Reset(at)) if sent >= *at => return reset(client),
            Some(Fault::Hold(at, gate)) if sent == *at => gate.hold(),
            Some(Fault::Slow(_, pause)) if sent > 0 => std::thread::sleep(*pause),
            _ => {}
        }
        let count = server.read(&mut buffer[..most])?;
        if count == 0 {
            return Ok(());
        }
        if let Some(Fault::Flip(at)) = fault
            && let Some(within) = at.checked_sub(sent)
            && within < count as u64
        {
            buffer[usize::try_from(within).unwrap_or(0)] ^= 0x55;
        }
        if let Some(limits) = limits {
            limits.wait(sent, count as u64);
        }
        client.write_all(&buffer[..count])?;
        sent += count as u64;
        entry.update(|request| request.sent = sent);
    }
}

/// A blob on its way, no faster than it may be.
struct Limits<'a> {
    state: &'a Mutex<State>,
    rates: Rates,
    began: Instant,
}

/// How late a thread may be woken.
const LATE: Duration = Duration::from_millis(50);

impl<'a> Limits<'a> {
    fn begin(state: &'a Mutex<State>) -> Self {
        let mut locked = state.lock().unwrap_or_else(PoisonError::into_inner);
        locked.open.0 += 1;
        locked.open.1 = locked.open.1.max(locked.open.0);
        let rates = locked.rates;
        drop(locked);
        Self { state, rates, began: Instant::now() }
    }

    /// Waits until `count` bytes may follow those that were sent.
    fn wait(&self, sent: u64, count: u64) {
        let time = |bytes: u64, rate: u64| Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut until = self.began;
        if let Some(rate) = self.rates.each {
            until += time(sent + count, rate);
        }
        if let Some(rate) = self.rates.all {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            // What a sleep took too long may be made up for.
            let now = Instant::now();
            let earliest = now.checked_sub(LATE).unwrap_or(now);
            let paid = state.paid.map_or(now, |paid| paid.max(earliest));
            let paid = paid + time(count, rate);
            state.paid = Some(paid);
            until = until.max(paid);
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

impl Drop for Limits<'_> {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open.0 -= 1;
    }
}

/// Closes with a reset: nothing that is still on its way arrives.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?;
    Ok(())
}

fn shifted(range: &str, by: u64) -> String {
    let moved = || {
        let (first, rest) = range.strip_prefix("bytes ")?.split_once('-')?;
        Some(format!("bytes {}-{rest}", first.parse::<u64>().ok()? + by))
    };
    moved().unwrap_or_else(|| range.to_owned())
}
