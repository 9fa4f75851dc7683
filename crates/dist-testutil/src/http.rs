//! HTTP/1.1 as far as tests need it: one request, one connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body, without any framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of the header `name`, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The first line and the headers of a message.
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn read(from: &mut impl BufRead) -> std::io::Result<Option<Self>> {
        let mut first = String::new();
        if from.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        Ok(Some(Self { first: first.trim_end().to_owned(), headers }))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.get("content-length")?.parse().ok()
    }
}

/// Sends one request to `address` and reads the whole answer.
///
/// # Panics
/// When the server cannot be reached or does not speak HTTP.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut stream =
        TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).expect("send the head");
    stream.write_all(body).expect("send the body");
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader).expect("read the head").expect("an answer");
    let status = head.first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut body = Vec::new();
    if method != "HEAD" {
        if let Some(length) = head.length() {
            reader.take(length).read_to_end(&mut body).expect("read the body");
        } else if head.get("transfer-encoding").is_some() {
            body = dechunk(&mut reader);
        } else {
            reader.read_to_end(&mut body).expect("read the body");
        }
    }
    Response { status: status.expect("a status"), headers: head.headers, body }
}

fn dechunk(from: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).expect("read a chunk size");
        let size = u64::from_str_radix(line.trim(), 16).expect("a chunk size");
        from.take(size).read_to_end(&mut body).expect("read a chunk");
        from.read_line(&mut String::new()).expect("read a chunk end");
        if size == 0 {
            return body;
        }
    }
}
