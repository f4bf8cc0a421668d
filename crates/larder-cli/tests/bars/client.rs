//! A client that measures single requests: one connection, no library in between.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Returns how long a PING takes.
    pub(crate) fn ping(&mut self) -> Duration {
        self.ask(b"*1\r\n$4\r\nPING\r\n", |reply| reply.ends_with(b"\r\n"))
    }

    /// Returns how long a GET of a short string takes.
    pub(crate) fn get(&mut self, key: &str) -> Duration {
        let command = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        self.ask(command.as_bytes(), |reply| {
            assert!(reply.starts_with(b"$"), "{}", String::from_utf8_lossy(reply));
            reply.ends_with(b"\r\n") && reply.iter().filter(|byte| **byte == b'\n').count() == 2
        })
    }

    fn ask(&mut self, command: &[u8], is_whole: impl Fn(&[u8]) -> bool) -> Duration {
        let mut reply = Vec::with_capacity(1024);
        let mut buffer = [0; 1024];
        let begin = Instant::now();
        self.0.write_all(command).unwrap();
        while reply.is_empty() || !is_whole(&reply) {
            let length = self.0.read(&mut buffer).unwrap();
            assert!(length > 0, "the server has closed the connection");
            reply.extend_from_slice(&buffer[..length]);
        }
        begin.elapsed()
    }
}
