//! A client that sends exactly what a test says, byte for byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Nothing takes longer, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, its body not read yet.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    body: Body,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.body.read_to_end(&mut bytes).expect("the whole body comes");
        bytes
    }

    pub fn text(mut self) -> String {
        String::from_utf8(self.bytes()).expect("UTF-8")
    }

    pub fn json(mut self) -> Value {
        let bytes = self.bytes();
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
    }

    /// Checks that this is a problem document of this status, and answers its code and field.
    pub fn problem(self) -> (u16, String, String) {
        let status = self.status;
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "status {status}");
        let body = self.json();
        assert_eq!(body["status"], status);
        assert!(["type", "title", "detail"].iter().all(|name| body[name].is_string()), "{body}");
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        (status, text("code"), text("field"))
    }

    /// The lines of a body that goes on.
    pub fn lines(self) -> impl Iterator<Item = String> {
        BufReader::new(self.body).lines().map(|line| line.expect("the stream goes on"))
    }
}

/// A connection that stays open.
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Connection { reader: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Connection {
        self.reader.get_mut().write_all(bytes.as_ref()).expect("the server reads");
        self
    }

    /// Sends what may not be read to its end.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.reader.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// Whether the server has said something or has closed, as far as is known without waiting.
    pub fn is_answered_or_closed(&mut self) -> bool {
        let stream = self.reader.get_ref();
        stream.set_nonblocking(true).unwrap();
        let mut byte = [0];
        let seen = stream.peek(&mut byte);
        stream.set_nonblocking(false).unwrap();
        !seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Says that nothing more will be sent; the server may have closed before.
    pub fn finish(&mut self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Write);
    }

    /// Reads an answer's head and whole body; the connection goes on.
    pub fn answer(&mut self) -> (u16, Vec<(String, String)>, Vec<u8>) {
        let (status, headers) = read_head(&mut self.reader);
        let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).expect("the whole body comes");
        (status, headers, body)
    }

    /// Reads until the server closes the connection, in order or not.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("the server does not close: {error}"),
            _ => rest,
        }
    }

    /// Turns it into its next answer.
    pub fn into_answer(mut self) -> Answer {
        let (status, headers) = read_head(&mut self.reader);
        let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let framing = match (header("transfer-encoding"), header("content-length")) {
            (Some(_), _) => Framing::Chunked(0),
            (None, Some(length)) => Framing::Length(length.parse().unwrap()),
            (None, None) => Framing::Length(0),
        };
        Answer { status, headers, body: Body { reader: self.reader, framing } }
    }
}

/// Sends a request on a connection of its own. `headers` are lines, without the line ends.
pub fn send(address: SocketAddr, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut connection = Connection::open(address);
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    let has = |name: &str| headers.iter().any(|line| line.to_ascii_lowercase().starts_with(name));
    if !has("host:") {
        head.push_str(&format!("host: {address}\r\n"));
    }
    if !body.is_empty() && !has("transfer-encoding:") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for line in headers.iter().chain(&["connection: close", ""]) {
        head.push_str(line);
        head.push_str("\r\n");
    }
    connection.send(head);
    connection.try_send(body);
    let mut answer = connection.into_answer();
    if method == "HEAD" {
        answer.body.framing = Framing::Length(0);
    }
    answer
}

fn read_head(reader: &mut BufReader<TcpStream>) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer comes");
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status line: {line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a whole head comes");
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => return (status, headers),
        }
    }
}

struct Body {
    reader: BufReader<TcpStream>,
    framing: Framing,
}

enum Framing {
    /// Bytes that are still to come.
    Length(usize),
    /// Bytes that are still to come of this chunk.
    Chunked(usize),
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if let Framing::Chunked(0) = self.framing {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| std::io::Error::other("the body is cut off"))?;
            self.framing = if size == 0 { Framing::Length(0) } else { Framing::Chunked(size) };
        }
        let (Framing::Length(left) | Framing::Chunked(left)) = &mut self.framing;
        let room = buf.len().min(*left);
        let read = self.reader.read(&mut buf[..room])?;
        *left -= read;
        if let Framing::Chunked(0) = self.framing {
            let mut end = String::new();
            self.reader.read_line(&mut end)?;
        }
        Ok(read)
    }
}
