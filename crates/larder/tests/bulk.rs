//! Calls with very many keys: no batch times out because it waits behind the other batches, and a batch that fails does
//! not fail the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use larder::{Cache, Larder};
use larder_testkit::Server;
use support::until;

const HOUR: Duration = Duration::from_secs(3600);

/// A connection with a timeout that is ample for one batch and too short for all of them together.
async fn connect_with_short_timeout(server: &Server) -> Larder {
    Larder::builder().url(server.url()).response_timeout(Duration::from_millis(1500)).connect().await.unwrap()
}

fn texts(larder: &Larder) -> Cache<String> {
    larder.cache("text").ttl(HOUR).verify_encoding(false).build().unwrap()
}

#[tokio::test]
async fn fifty_thousand_values_are_stored_read_and_deleted_and_nothing_is_cleared() {
    let server = Server::start();
    let larder = connect_with_short_timeout(&server).await;
    let texts = texts(&larder);
    texts.set("bystander", &"here".to_owned()).await.unwrap();
    let value = "x".repeat(1024);
    texts.set_many((0..50_000u32).map(|key| (key, &value))).await.unwrap();
    let found = texts.get_many(0..50_000u32).await.unwrap();
    assert_eq!(found.iter().flatten().count(), 50_000);
    assert!(found.iter().flatten().all(|found| *found == value));
    let deleted = texts.delete_many(0..50_000u32).await.unwrap();
    assert!(deleted.iter().all(|deleted| *deleted));
    assert_eq!(texts.get("bystander").await.unwrap().as_deref(), Some("here"));
    assert_eq!(larder.stats().invalidations.waiting, 0);
}

#[tokio::test]
async fn a_bulk_write_that_times_out_queues_its_own_keys_and_clears_nothing() {
    let server = Server::start();
    let larder = Larder::builder().url(server.url()).connect().await.unwrap();
    let texts = texts(&larder);
    texts.set("bystander", &"here".to_owned()).await.unwrap();
    let (old, value) = ("old".to_owned(), "x".repeat(1024));
    texts.set_many((0..20_000u32).map(|key| (key, &old))).await.unwrap();
    server.pause();
    let late =
        texts.set_many((0..20_000u32).map(|key| (key, &value))).timeout(Duration::from_millis(100)).await;
    let late = late.unwrap_err();
    assert!(late.is_timeout() && late.is_queued(), "{late:?}");
    server.resume();
    until("the queue is empty", async || larder.stats().invalidations.waiting == 0).await;
    assert_eq!(texts.get("bystander").await.unwrap().as_deref(), Some("here"), "the cache was cleared");
    let found = texts.get_many(0..20_000u32).await.unwrap();
    assert!(found.iter().flatten().all(|found| *found != old), "an old value is served");
}

#[tokio::test]
async fn a_hundred_thousand_missing_keys_are_loaded_and_stored() {
    let server = Server::start();
    let larder = connect_with_short_timeout(&server).await;
    let numbers: Cache<u32> = larder.cache("number").ttl(HOUR).verify_encoding(false).build().unwrap();
    let (calls, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (calls.clone(), most.clone());
    let loaded = numbers
        .get_or_load_many(0..100_000u32, move |missing| {
            counted.0.fetch_add(1, SeqCst);
            counted.1.fetch_max(missing.len(), SeqCst);
            async move { Ok::<_, Infallible>(missing.into_iter().map(|key| (key, key)).collect::<Vec<_>>()) }
        })
        .await
        .unwrap();
    assert!(loaded.iter().enumerate().all(|(key, value)| *value == u32::try_from(key).ok()));
    assert_eq!((calls.load(SeqCst), most.load(SeqCst)), (50, 2_000));
    let stats = &larder.stats().caches["number"];
    assert_eq!((stats.bypassed, stats.fills_invalidated), (0, 0));
    let stored = numbers.get_many(0..100_000u32).await.unwrap();
    assert_eq!(stored.iter().flatten().count(), 100_000, "what was loaded is not stored");
}

#[tokio::test]
async fn a_timeout_that_is_given_bounds_a_bulk_call_as_a_whole() {
    let server = Server::start();
    let larder = Larder::builder().url(server.url()).connect().await.unwrap();
    let texts = texts(&larder);
    texts.set("a", &"x".to_owned()).await.unwrap();
    server.pause();
    let late = texts.get_many(0..5_000u32).timeout(Duration::from_millis(50)).await.unwrap_err();
    assert!(late.is_timeout() && late.to_string().contains("50ms"), "{late}");
    server.resume();
}
