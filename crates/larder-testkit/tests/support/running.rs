//! examples/service.rs as a process, asked over real HTTP.
#![allow(dead_code, reason = "each test program uses some of it")]

mod built;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) use built::built;

/// A running instance; killed when it is dropped.
pub(crate) struct Service {
    process: Child,
    pub address: SocketAddr,
}

impl Service {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(built().join("service"));
        command.env("PORT", "0").envs(settings.iter().copied()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { process, address }
    }

    pub(crate) fn get(&self, path: &str, client: &str) -> Answer {
        self.send("GET", path, client)
    }

    /// One request of a client that a proxy names.
    pub(crate) fn send(&self, method: &str, path: &str, client: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nx-forwarded-for: 9.9.9.9, {client}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer { head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn counted(&self, what: &str) -> u64 {
        let stats: String = self.get("/stats", "unknown").body;
        let (_, rest) = stats.split_once(&format!("\"{what}\":")).unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}
