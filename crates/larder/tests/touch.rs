//! `touch`: near copies follow the new time to live, and so does everything that the entry's validity depends on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::time::Duration;

use larder::{Cache, Format, Larder, Near, Source};
use larder_testkit::Server;
use support::{User, each_pair, each_store, patient, until, user};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn near(larder: &Larder, format: Format) -> Cache<User> {
    larder.cache("user").ttl(HOUR).format(format).near(Near::bytes(1 << 20)).build().unwrap()
}

async fn warm(users: &Cache<User>, key: &str) {
    until("a near copy is served", async || {
        users.get_entry(key).await.unwrap().is_some_and(|entry| entry.source() == Source::Near)
    })
    .await;
}

/// The server finds expired keys only when they are asked for.
#[tokio::test]
async fn near_copies_end_with_the_shorter_time_to_live_of_a_touch_here_or_elsewhere() {
    let server = Server::start();
    let _: String = server.query(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    let connect = async || patient().url(server.url()).connect().await.unwrap();
    let (one, other) = (connect().await, connect().await);
    for format in [Format::Json, Format::Plain] {
        let (here, there) = (near(&one, format), near(&other, format));
        here.set("a", &user("Ann")).await.unwrap();
        warm(&here, "a").await;
        warm(&there, "a").await;
        assert!(here.touch("a", Duration::from_millis(700)).await.unwrap());
        // Both have it near again, or neither has.
        for users in [&here, &there] {
            users.get("a").await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(800)).await;
        for users in [&here, &there] {
            until("no near copy is served", async || users.get("a").await.unwrap().is_none()).await;
        }
        let hits = one.stats().caches["user"].near_hits;
        assert_eq!(here.get("a").await.unwrap(), None);
        assert_eq!(one.stats().caches["user"].near_hits, hits);
    }
}

#[tokio::test]
async fn near_copies_are_served_past_the_first_end_of_what_was_touched() {
    for (store, larder) in each_store().await {
        let users = near(&larder, Format::Json);
        users.set("a", &user("Ann")).ttl(Duration::from_millis(300)).await.unwrap();
        users.touch("a", HOUR).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        warm(&users, "a").await;
        assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")), "{store}");
    }
}

#[tokio::test]
async fn the_versions_of_what_is_touched_live_as_long_as_it_does() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let left = |name: &str| Duration::from_millis(server.query::<u64>(&["PTTL", name]));
    for (cache, stale_for) in [("undated", Duration::ZERO), ("dated", HOUR)] {
        let users: Cache<User> = larder.cache(cache).ttl(HOUR).stale_for(stale_for).build().unwrap();
        users.set("a", &user("Ann")).tag(cache).await.unwrap();
        assert!(users.touch("a", 30 * DAY).await.unwrap());
        let entry = left(&format!("{cache}:a"));
        assert!(entry > 29 * DAY, "{entry:?}");
        for version in [format!("~clear.1:{{/{cache}}}"), format!("~tag.1:{{/{cache}}}")] {
            assert!(left(&version) >= entry, "{version}: {:?}, the entry: {entry:?}", left(&version));
        }
        assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")));
    }
}

#[tokio::test]
async fn what_no_reader_gets_is_not_touched() {
    for (store, here, there) in each_pair().await {
        let users: Cache<User> = here.cache("user").ttl(HOUR).build().unwrap();
        users.set("tagged", &user("Ann")).tag("t").await.unwrap();
        users.set("cleared", &user("Ann")).await.unwrap();
        there.tag("t").invalidate().await.unwrap();
        until("the tag's new version is known", async || users.get("tagged").await.unwrap().is_none()).await;
        assert!(!users.touch("tagged", HOUR).await.unwrap(), "{store}");
        users.clear().await.unwrap();
        assert!(!users.touch("cleared", HOUR).await.unwrap(), "{store}");
        assert!(!users.touch("missing", HOUR).await.unwrap(), "{store}");
    }
}

#[tokio::test]
async fn a_touch_leaves_a_load_under_way_its_right_to_store() {
    for (store, larder) in each_store().await {
        let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
        users.set("a", &user("old")).await.unwrap();
        let other = users.clone();
        let refreshed = users.refresh("a", |_| async move {
            assert!(other.touch("a", HOUR).await.unwrap());
            Ok::<_, Infallible>(user("new"))
        });
        refreshed.await.unwrap();
        assert_eq!(users.get("a").await.unwrap(), Some(user("new")), "{store}");
        assert_eq!(larder.stats().caches["user"].fills_invalidated, 0, "{store}");
    }
}
