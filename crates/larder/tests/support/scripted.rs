//! A fake server whose replies a test chooses, for what no real server does on demand.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One command, as larder sends it.
pub async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|count| *count > 0)?;
    let parts = line.trim().trim_start_matches('*').parse().unwrap();
    let mut command = Vec::new();
    for _ in 0..parts {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let length: usize = line.trim().trim_start_matches('$').parse().unwrap();
        let mut part = vec![0; length + 2];
        stream.read_exact(&mut part).await.ok()?;
        part.truncate(length);
        command.push(String::from_utf8_lossy(&part).into_owned());
    }
    Some(command)
}

pub fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// The commands that a [`scripted`] server was sent, on all connections, without those of the handshake.
#[derive(Clone, Default)]
pub struct Sent(Arc<Mutex<Vec<Vec<String>>>>);

impl Sent {
    /// Returns them, and forgets them.
    pub fn take(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts a server with this name and version, which answers commands of the handshake as a server does, and others
/// with what `reply` says. Returns its URL, and what it is sent.
pub async fn scripted(
    name: &'static str,
    version: &'static str,
    reply: impl Fn(&[String]) -> String + Send + Sync + 'static,
) -> (String, Sent) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (sent, reply) = (Sent::default(), Arc::new(reply));
    let noted = sent.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (noted, reply) = (noted.clone(), reply.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(command) = command(&mut stream).await {
                    let answer = match (command[0].as_str(), command.get(1).map(String::as_str)) {
                        ("HELLO", _) => {
                            let fields = ["server", name, "version", version, "role", "master"].map(bulk);
                            format!("%3\r\n{}", fields.concat())
                        }
                        ("INFO", Some("server")) => bulk("run_id:of-the-test\r\n"),
                        ("INFO", _) => bulk("maxmemory:0\r\nmaxmemory_policy:noeviction\r\n"),
                        ("TIME", _) => format!("*2\r\n{}{}", bulk("1700000000"), bulk("0")),
                        ("CLIENT" | "PING", _) => "+OK\r\n".to_owned(),
                        _ => {
                            let answer = reply(&command);
                            noted.0.lock().unwrap_or_else(PoisonError::into_inner).push(command);
                            answer
                        }
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, sent)
}
