//! A relay between `larder` and real servers, for what a server alone cannot be set up to do: several servers behind
//! one address, a clock that is wrong, a long way, pushes that are lost, a version that no test has.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What a relay does to replies.
#[derive(Default)]
pub(crate) struct Effects {
    /// Added to the seconds in replies to TIME.
    pub(crate) clock: AtomicI64,
    /// Milliseconds before each piece is passed on.
    pub(crate) delay: AtomicU64,
    /// Whether pushes are lost.
    pub(crate) mute: AtomicBool,
    /// The major version of Redis that INFO says, a digit; 0 leaves it as it is.
    pub(crate) major: AtomicU64,
}

/// Starts a relay and returns its URL. Clients are led to the servers in turn. It ends with the test program.
pub(crate) fn start(servers: &[SocketAddr], effects: Arc<Effects>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let servers = servers.to_vec();
    thread::spawn(move || {
        for (client, server) in listener.incoming().zip(servers.into_iter().cycle()) {
            let Ok(client) = client else { return };
            let Ok(server) = TcpStream::connect(server) else { continue };
            let (mut to_server, from_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut &from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Both);
            });
            let effects = Arc::clone(&effects);
            thread::spawn(move || replies(&server, &client, &effects));
        }
    });
    url
}

fn replies(mut server: &TcpStream, mut client: &TcpStream, effects: &Effects) {
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        let mut piece = buffer[..length].to_vec();
        thread::sleep(Duration::from_millis(effects.delay.load(Ordering::Relaxed)));
        if effects.mute.load(Ordering::Relaxed) && piece.starts_with(b">2\r\n$10\r\ninvalidate") {
            continue;
        }
        set_version(&mut piece, effects.major.load(Ordering::Relaxed));
        set_clock(&mut piece, effects.clock.load(Ordering::Relaxed));
        if client.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// The reply to TIME is small and comes in one piece: two strings, the first of ten digits.
fn set_clock(piece: &mut [u8], ahead: i64) {
    const START: &[u8] = b"*2\r\n$10\r\n";
    if ahead == 0 || !piece.starts_with(START) {
        return;
    }
    let digits = &mut piece[START.len()..START.len() + 10];
    let seconds: i64 = std::str::from_utf8(digits).unwrap().parse().unwrap();
    digits.copy_from_slice((seconds + ahead).to_string().as_bytes());
}

/// Changes the first digit of the version in INFO, and hides that of Valkey.
fn set_version(piece: &mut [u8], major: u64) {
    let Some(digit) = char::from_digit(u32::try_from(major).unwrap(), 10).filter(|_| major > 0) else {
        return;
    };
    let place = |piece: &[u8], text: &str| piece.windows(text.len()).position(|part| part == text.as_bytes());
    if let Some(start) = place(piece, "redis_version:") {
        piece[start + "redis_version:".len()] = u8::try_from(digit).unwrap();
    }
    if let Some(start) = place(piece, "valkey_version:") {
        piece[start] = b'x';
    }
}
