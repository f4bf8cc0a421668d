//! examples/otlp.rs against a collector: the spans arrive, and belong together as its documentation says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

// In a folder, so that it is no test program of its own.
#[path = "support/running.rs"]
mod running;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

/// A field of a protobuf message: its number, and its bytes or number.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn number(message: &mut &[u8]) -> u64 {
        let length = message.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let (bytes, rest) = message.split_at(length);
        *message = rest;
        bytes.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = number(&mut message);
        let length = match key & 7 {
            0 => {
                let value = number(&mut message);
                found.push((key >> 3, value.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => usize::try_from(number(&mut message)).unwrap(),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (bytes, rest) = message.split_at(length);
        message = rest;
        found.push((key >> 3, bytes.to_vec()));
    }
    found
}

/// The fields with this number.
fn all(message: &[u8], number: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(found, _)| *found == number).map(|(_, bytes)| bytes).collect()
}

fn text(message: &[u8], number: u64) -> String {
    all(message, number).first().map(|bytes| String::from_utf8(bytes.clone()).unwrap()).unwrap_or_default()
}

/// A span of an ExportTraceServiceRequest.
#[derive(Debug)]
struct Sent {
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    links: Vec<Vec<u8>>,
    attributes: Vec<String>,
}

fn spans(request: &[u8]) -> Vec<Sent> {
    let scopes = all(request, 1).into_iter().flat_map(|resource| all(&resource, 2));
    let spans = scopes.flat_map(|scope| all(&scope, 2));
    let one = |span: &[u8], number| all(span, number).pop().unwrap_or_default();
    spans
        .map(|span| Sent {
            name: text(&span, 5),
            trace: one(&span, 1),
            id: one(&span, 2),
            parent: one(&span, 4),
            links: all(&span, 13).iter().map(|link| one(link, 2)).collect(),
            attributes: all(&span, 9)
                .iter()
                .map(|attribute| format!("{}={}", text(attribute, 1), text(&one(attribute, 2), 1)))
                .collect(),
        })
        .collect()
}

/// Answers one export at a time, and returns their spans when the exporter has gone.
fn collect(listener: &TcpListener, wanted: usize) -> Vec<Sent> {
    let mut sent = Vec::new();
    while sent.len() < wanted {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let (mut length, mut line) = (0, String::new());
        while stream.read_line(&mut line).unwrap() > 2 {
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\
                      connection: close\r\n\r\n";
        stream.get_mut().write_all(answer.as_bytes()).unwrap();
        sent.extend(spans(&body));
    }
    sent
}

#[test]
fn the_load_is_in_its_requests_trace_and_the_other_request_has_a_link_to_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = thread::spawn(move || collect(&listener, 4));
    let mut example = Command::new(running::built().join("otlp"));
    let output = example.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(printed.lines().next(), Some("both requests got \"a jar of honey\" from one query"));

    let sent = collector.join().unwrap();
    let named = |name: &str| sent.iter().filter(move |span| span.name == name).collect::<Vec<_>>();
    let (load, query, requests) = (named("cache.load")[0], named("SELECT")[0], named("GET /products/7"));
    assert_eq!((sent.len(), requests.len()), (4, 2), "{sent:?}");
    assert_eq!(query.parent, load.id);
    let (leader, waiter) =
        if load.parent == requests[0].id { (requests[0], requests[1]) } else { (requests[1], requests[0]) };
    assert_eq!((&load.parent, &load.trace), (&leader.id, &leader.trace));
    assert_eq!(waiter.links, std::slice::from_ref(&load.id));
    assert_ne!(waiter.trace, load.trace);
    for attribute in ["cache=product", "outcome=loaded"] {
        assert!(load.attributes.iter().any(|found| found == attribute), "{load:?}");
    }
}
