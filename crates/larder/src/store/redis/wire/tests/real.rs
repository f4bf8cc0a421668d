//! What real servers send, which differs by version.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_testkit::Server;
use tokio::time::{sleep, timeout};

use super::super::{Connection, Event, Greeting, Reply, Request, connect, greet};
use crate::clock::Clock;
use crate::endpoint::Address;

/// A connection with tracking on, and the keys of all invalidations on it.
async fn tracked(server: &Server) -> (Connection, Arc<Mutex<Vec<String>>>) {
    let addr = server.addr().unwrap();
    let address = Address::Tcp { host: addr.ip().to_string(), port: addr.port() };
    let stream = connect(&address, None).await.unwrap();
    let changed = Arc::new(Mutex::new(Vec::new()));
    let told = changed.clone();
    let connection = Connection::start(stream, move |event: Event<'_>| {
        if let Event::Push([_, Reply::Array(names)]) = event {
            told.lock().unwrap().extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
        }
    });
    let greeting = Greeting { username: None, password: None, database: 0 };
    assert!(greet(&connection, greeting, &[], &Clock::default()).await.unwrap().hello.is_some());
    connection.send(&Request::new("CLIENT").arg("TRACKING").arg("ON")).await.unwrap();
    (connection, changed)
}

/// Redis 6 sends the invalidation of an expired key between the values of the reply.
#[tokio::test]
async fn several_keys_are_read_right_though_one_of_them_has_expired_and_is_invalidated_meanwhile() {
    let server = Server::builder().tcp().start();
    let (connection, _changed) = tracked(&server).await;
    // Only a read finds out that a key has expired.
    server.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    for round in 0..5 {
        for key in ["a", "c"] {
            connection.send(&Request::new("SET").arg(key).arg(key)).await.unwrap();
        }
        connection.send(&Request::new("SET").arg("b").arg("b").arg("PX").arg("15")).await.unwrap();
        let read = Request::new("MGET").arg("a").arg("b").arg("c");
        connection.send(&read).await.unwrap();
        // Several times the time to live, so the key has expired even if the server's clock is coarse.
        sleep(Duration::from_millis(60)).await;
        let reply = connection.send(&read).await.unwrap();
        let expected = [Reply::Bulk("a".into()), Reply::Nil, Reply::Bulk("c".into())];
        assert_eq!(reply, Reply::Array(expected.to_vec()), "round {round}");
        assert_eq!(connection.send(&Request::new("PING")).await.unwrap(), Reply::Simple("PONG".into()));
    }
}

/// A script reads and writes. The invalidation of the key that it wrote may arrive before its reply or after it; the
/// reply is correct in both cases.
#[tokio::test]
async fn the_reply_of_a_script_is_right_though_it_invalidates_what_it_read() {
    let server = Server::builder().tcp().start();
    let (connection, changed) = tracked(&server).await;
    let source =
        "local v = redis.call('GET', KEYS[1]); redis.call('SET', KEYS[2], 'x'); return {v, KEYS[2], 7}";
    let script = || Request::new("EVAL").arg(source).arg("2").arg("read").arg("written");
    connection.send(&Request::new("SET").arg("read").arg("r")).await.unwrap();
    let expected = vec![Reply::Bulk("r".into()), Reply::Bulk("written".into()), Reply::Int(7)];
    for _ in 0..3 {
        assert_eq!(connection.send(&script()).await.unwrap(), Reply::Array(expected.clone()));
    }
    changed.lock().unwrap().clear();
    server.command(&["SET", "read", "s"]);
    let told = async {
        while !changed.lock().unwrap().iter().any(|key| key == "read") {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), told).await.expect("what a script reads is tracked");
}
