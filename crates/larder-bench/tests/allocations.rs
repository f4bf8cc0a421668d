//! Allocations, counted: none for a near hit, also through `#[larder::cached]`; and for a load the same number with the
//! feature `trace` as without it, if there is no subscriber: a disabled span allocates nothing. `cargo xtask test` runs
//! this with the feature.
//!
//! One test in a program of its own, because those of all threads are counted.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../src/allocations.rs"]
mod allocations;

use std::time::Duration;

use larder::{Cache, Larder, LoadError, Near};

const TIMES: u64 = 2000;
/// What a delete and a load in the embedded store take, counted without the feature `trace`.
const LOAD: u64 = 22;

#[larder::cached(cache = squares, key = number)]
async fn square(squares: &Cache<u64>, number: u64) -> Result<u64, LoadError<String>> {
    Ok(number * number)
}

/// The allocations of one call, rounded: tables that grow are seldom.
async fn each(mut call: impl AsyncFnMut()) -> u64 {
    for _ in 0..200 {
        call().await;
    }
    allocations::start();
    for _ in 0..TIMES {
        call().await;
    }
    (allocations::stop().count + TIMES / 2) / TIMES
}

#[tokio::test(flavor = "current_thread")]
async fn near_hits_allocate_nothing_and_the_span_of_a_load_nothing_without_a_subscriber() {
    let larder = Larder::connect("memory:").await.unwrap();
    let far: Cache<u64> = larder.cache("far").ttl(Duration::from_secs(3600)).build().unwrap();
    let near = larder.cache("near").ttl(Duration::from_secs(3600)).near(Near::bytes(1 << 20));
    let near: Cache<u64> = near.build().unwrap();
    let load = async |cache: &Cache<u64>| {
        cache.get_or_load(7, || async { Ok::<_, String>(49) }).await.unwrap();
    };
    for cache in [&far, &near] {
        cache.set(7, &49).await.unwrap();
        cache.get(7).await.unwrap();
    }

    assert_eq!(each(async || assert_eq!(near.get(7).await.unwrap(), Some(49))).await, 0, "get");
    assert_eq!(each(async || load(&near).await).await, 0, "get_or_load");
    assert_eq!(each(async || assert_eq!(square(&near, 7).await.unwrap(), 49)).await, 0, "the attribute");
    let plain = each(async || load(&far).await).await;
    assert_eq!(each(async || assert_eq!(square(&far, 7).await.unwrap(), 49)).await, plain, "the attribute");

    let loads = each(async || {
        far.delete(7).await.unwrap();
        load(&far).await;
    });
    assert_eq!(loads.await, LOAD, "a delete and a load");
}
