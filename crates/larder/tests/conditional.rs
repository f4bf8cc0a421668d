//! Conditional writes, on each store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::join_all;
use larder::{Cache, EntryVersion, ErrorKind, Format, Larder, Near};
use support::{connect, each_pair, each_store, until};
use tokio::sync::oneshot;

const HOUR: Duration = Duration::from_secs(3600);

fn words(larder: &Larder) -> Cache<String> {
    larder.cache("word").ttl(HOUR).build().unwrap()
}

/// The embedded store used twice, and two `Larder`s, as two programs have them, on each other store.
async fn pairs() -> Vec<(&'static str, Larder, Larder)> {
    let embedded = connect("memory:").await;
    let mut pairs = each_pair().await;
    pairs.push(("memory", embedded.clone(), embedded));
    pairs
}

#[tokio::test]
async fn of_all_that_set_if_absent_one_is_first() {
    for (store, one, other) in pairs().await {
        for round in 0..20 {
            let caches = [words(&one), words(&other)];
            let values: Vec<String> = (0..10).map(|caller| format!("caller {caller}")).collect();
            let writes = values.iter().enumerate().map(|(caller, value)| {
                let cache = &caches[caller % 2];
                async move { cache.set_if_absent(round, value).await.unwrap() }
            });
            let first: Vec<bool> = join_all(writes).await;
            assert_eq!(first.iter().filter(|first| **first).count(), 1, "{store}");
            let winner = &values[first.iter().position(|first| *first).unwrap()];
            assert_eq!(caches[0].get(round).await.unwrap().as_ref(), Some(winner), "{store}");
        }
    }
}

#[tokio::test]
async fn what_get_takes_for_absent_is_replaced() {
    for (store, larder) in each_store().await {
        let words: Cache<String> =
            larder.cache("word").ttl(HOUR).stale_for(HOUR).negative_ttl(HOUR).build().unwrap();
        let (old, new) = ("old".to_owned(), "new".to_owned());

        words.set("stale", &old).await.unwrap();
        words.expire("stale").await.unwrap();
        words.set("tagged", &old).tag("t").await.unwrap();
        larder.tag("t").invalidate().await.unwrap();
        words.set("cleared", &old).await.unwrap();
        words.clear().await.unwrap();
        let none = words.get_or_load_optional("absent", |_| async { Ok::<_, Infallible>(None) });
        assert_eq!(none.await.unwrap(), None);

        for key in ["stale", "tagged", "cleared", "absent", "nothing"] {
            assert!(words.set_if_absent(key, &new).await.unwrap(), "{store}: {key}");
            assert_eq!(words.get(key).await.unwrap().as_ref(), Some(&new), "{store}: {key}");
            assert!(!words.set_if_absent(key, &old).await.unwrap(), "{store}: {key}");
        }
    }
}

#[tokio::test]
async fn a_load_under_way_stores_nothing_over_it() {
    for (store, larder) in each_store().await {
        let words = words(&larder);
        let (begun, begins) = oneshot::channel();
        let (go, wait) = oneshot::channel::<()>();
        let load = tokio::spawn({
            let words = words.clone();
            async move {
                words
                    .get_or_load("k", || async {
                        begun.send(()).unwrap();
                        wait.await.unwrap();
                        Ok::<_, Infallible>("loaded".to_owned())
                    })
                    .await
            }
        });
        begins.await.unwrap();
        assert!(words.set_if_absent("k", &"first".to_owned()).await.unwrap(), "{store}");
        go.send(()).unwrap();
        assert_eq!(load.await.unwrap().unwrap(), "loaded");
        assert_eq!(words.get("k").await.unwrap().as_deref(), Some("first"), "{store}");
    }
}

async fn version(words: &Cache<String>, key: &str) -> EntryVersion {
    words.fresh().get_entry(key).await.unwrap().unwrap().version().unwrap()
}

#[tokio::test]
async fn compare_and_set_loses_no_update() {
    for (store, one, other) in pairs().await {
        let caches: Vec<Cache<u32>> =
            [&one, &other].map(|larder| larder.cache("count").ttl(HOUR).build().unwrap()).into();
        caches[0].set("k", &0).await.unwrap();
        let callers = (0..8).map(|caller| {
            let cache = &caches[caller % 2];
            async move {
                for _ in 0..10 {
                    loop {
                        let entry = cache.get_entry("k").await.unwrap().unwrap();
                        let next = entry.value() + 1;
                        if cache.set("k", &next).if_version(entry.version().unwrap()).await.unwrap() {
                            break;
                        }
                    }
                }
            }
        });
        join_all(callers).await;
        assert_eq!(caches[0].get("k").await.unwrap(), Some(80), "{store}");
    }
}

#[tokio::test]
async fn compare_and_set_fails_where_anything_was_written_between() {
    for (store, larder) in each_store().await {
        let words = words(&larder);
        let (old, new) = ("old".to_owned(), "new".to_owned());
        words.set("k", &old).await.unwrap();
        let seen = version(&words, "k").await;
        words.set("k", &old).await.unwrap();
        assert!(
            !words.set("k", &new).if_version(seen).await.unwrap(),
            "{store}: the same value, written again"
        );
        let seen = version(&words, "k").await;
        words.delete("k").await.unwrap();
        assert!(!words.set("k", &new).if_version(seen).await.unwrap(), "{store}: deleted");
        words.set("k", &old).await.unwrap();
        let seen = version(&words, "k").await;
        words.clear().await.unwrap();
        assert!(!words.set("k", &new).if_version(seen).await.unwrap(), "{store}: cleared");
        assert_eq!(words.get("k").await.unwrap(), None, "{store}: a cleared value came back");
        words.set("k", &old).await.unwrap();
        let seen = version(&words, "k").await;
        assert!(words.set("k", &new).if_version(seen).ttl(Duration::from_secs(60)).await.unwrap(), "{store}");
        assert!(!words.set("k", &old).if_version(seen).await.unwrap(), "{store}: a version counts once");
        assert_eq!(words.get("k").await.unwrap().as_ref(), Some(&new), "{store}");
        let entry = words.get_entry("k").await.unwrap().unwrap();
        assert!(entry.remaining().unwrap() <= Duration::from_secs(60), "{store}");
    }
}

#[tokio::test]
async fn another_programs_clear_is_not_outlived() {
    for (store, one, other) in each_pair().await {
        let (one, other) = (words(&one), words(&other));
        one.set("k", &"old".to_owned()).await.unwrap();
        let seen = version(&one, "k").await;
        other.clear().await.unwrap();
        // Correct whether or not this program has already been notified of the clear.
        let _ = one.set("k", &"new".to_owned()).if_version(seen).await.unwrap();
        assert_eq!(other.get("k").await.unwrap(), None, "{store}");
    }
}

#[tokio::test]
async fn near_copies_see_conditional_writes() {
    for (store, larder) in each_store().await {
        let words: Cache<String> = larder.cache("word").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
        words.set("k", &"old".to_owned()).await.unwrap();
        until("it is near", async || {
            words.get("k").await.unwrap();
            larder.stats().caches["word"].near_hits > 0
        })
        .await;
        let seen = version(&words, "k").await;
        assert!(words.set("k", &"new".to_owned()).if_version(seen).await.unwrap());
        assert_eq!(words.get("k").await.unwrap().as_deref(), Some("new"), "{store}");
    }
}

#[tokio::test]
async fn a_version_is_shown_and_parsed() {
    let larder = connect("memory:").await;
    let words = words(&larder);
    words.set("k", &"a".to_owned()).await.unwrap();
    let seen = version(&words, "k").await;
    assert_eq!(seen.to_string().len(), 32);
    assert_eq!(seen.to_string().parse(), Ok(seen));
    for wrong in ["", "12", "+1234567890123456789012345678901", "größegrößegrößegrößegröße"] {
        assert!(wrong.parse::<EntryVersion>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_conditional_write_takes_its_own_time_to_live_and_needs_an_envelope() {
    for (store, larder) in each_store().await {
        let bare: Cache<String> = larder.cache("bare").build().unwrap();
        let fence = larder.lock("l").acquire().await.unwrap().fence();
        let value = "a".to_owned();
        let missing = bare.set_fenced("k", &value, fence).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::InvalidSetting, "{store}");
        assert!(bare.set_fenced("k", &value, fence).ttl(HOUR).await.unwrap(), "{store}");
        assert!(bare.set_if_absent("l", &value).no_expiry().await.unwrap(), "{store}");

        let plain: Cache<String> = larder.cache("plain").ttl(HOUR).format(Format::Plain).build().unwrap();
        let refused = plain.set_if_absent("k", &value).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidSetting, "{store}");
    }
}
