//! A value that the origin reports as gone stays gone: a known absence replaces the stale value.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use larder::{Cache, Larder, LoadError, Near};
use support::{User, each_pair, each_store, until, user};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, PartialEq)]
struct Down;

impl std::error::Error for Down {}

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the origin is down")
    }
}

fn caches(larder: &Larder) -> Vec<(&'static str, Cache<User>)> {
    let build = |name: &str| larder.cache::<User>(name).ttl(HOUR).stale_for(HOUR);
    vec![
        ("forgotten", build("forgotten").build().unwrap()),
        ("remembered", build("remembered").negative_ttl(HOUR).build().unwrap()),
        ("near", build("near").near(Near::bytes(1 << 20)).build().unwrap()),
    ]
}

async fn stale(users: &Cache<User>, key: &str) {
    users.set(key, &user("Ann")).await.unwrap();
    assert!(users.expire(key).await.unwrap());
}

async fn ask(
    users: &Cache<User>,
    key: &str,
    row: Result<Option<User>, Down>,
) -> Result<Option<User>, LoadError<Down>> {
    users.get_or_load_optional(key.to_owned(), |_| async move { row }).await
}

#[tokio::test]
async fn a_loader_that_says_it_is_gone_is_not_followed_by_the_old_value() {
    for (store, larder) in each_store().await {
        for (case, users) in caches(&larder) {
            stale(&users, "k").await;
            assert_eq!(ask(&users, "k", Ok(None)).await.unwrap(), None);
            let then = ask(&users, "k", Err(Down)).await;
            let remembered = case == "remembered";
            assert!(
                if remembered { matches!(then, Ok(None)) } else { then.is_err() },
                "{store}, {case}: {then:?}"
            );
            assert_eq!(users.get_entry("k").await.unwrap(), None, "{store}, {case}");
            assert_eq!(ask(&users, "other", Ok(Some(user("Bob")))).await.unwrap(), Some(user("Bob")));
        }
    }
}

#[tokio::test]
async fn a_key_that_a_loader_of_many_leaves_out_is_gone() {
    for (store, larder) in each_store().await {
        for (case, users) in caches(&larder) {
            stale(&users, "1").await;
            stale(&users, "2").await;
            let found = users
                .get_or_load_many(["1", "2"], |_| async { Ok::<_, Down>(vec![("2", user("Bob"))]) })
                .await
                .unwrap();
            assert_eq!(found, [None, Some(user("Bob"))], "{store}, {case}");
            let then = users.get_or_load_many(["1"], |_| async { Err::<Vec<(&str, User)>, _>(Down) }).await;
            assert!(then.is_err() || then.unwrap() == [None], "{store}, {case}");
            assert_eq!(users.get("2").await.unwrap(), Some(user("Bob")));
        }
    }
}

#[tokio::test]
async fn a_slow_loader_that_says_it_is_gone_ends_the_old_value() {
    for (store, larder) in each_store().await {
        let users: Cache<User> = larder
            .cache("slow")
            .ttl(HOUR)
            .stale_for(HOUR)
            .soft_timeout(Duration::from_millis(1))
            .build()
            .unwrap();
        stale(&users, "k").await;
        until("the old value is gone", async || {
            let asked = users.get_or_load_optional("k", |_| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok::<_, Down>(None)
            });
            asked.await.unwrap().is_none() && users.get_entry("k").await.unwrap().is_none()
        })
        .await;
        assert!(ask(&users, "k", Err(Down)).await.is_err(), "{store}");
    }
}

#[tokio::test]
async fn an_early_refresh_that_says_it_is_gone_ends_the_value() {
    for (store, larder) in each_store().await {
        for near in [false, true] {
            let name = if near { "near" } else { "far" };
            let builder = larder.cache::<User>(name).ttl(HOUR).early_refresh(100.0);
            let users = if near { builder.near(Near::bytes(1 << 20)) } else { builder }.build().unwrap();
            // The load is so expensive, and the value so near its end, that every call is due for an early refresh.
            let slow = || async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, Down>(user("Ann"))
            };
            users.get_or_load("k", slow).ttl(Duration::from_secs(2)).await.unwrap();
            until("it is gone", async || ask(&users, "k", Ok(None)).await.unwrap().is_none()).await;
            assert_eq!(users.get_entry("k").await.unwrap(), None, "{store}, {name}");
        }
    }
}

#[tokio::test]
async fn another_process_is_not_given_the_old_value_either() {
    for (store, here, there) in each_pair().await {
        let users = |larder: &Larder| -> Cache<User> {
            larder.cache("user").ttl(HOUR).stale_for(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
        };
        let (here, there) = (users(&here), users(&there));
        stale(&here, "k").await;
        assert_eq!(ask(&here, "k", Ok(None)).await.unwrap(), None);
        assert!(ask(&there, "k", Err(Down)).await.is_err(), "{store}");
    }
}

/// A value that was written while the loader ran is newer than the loader's answer.
#[tokio::test]
async fn a_write_during_the_load_stays() {
    for (store, larder) in each_store().await {
        for (case, users) in caches(&larder) {
            stale(&users, "k").await;
            let writer = users.clone();
            let asked = users.get_or_load_optional("k", |_| async move {
                writer.set("k", &user("Bob")).await.unwrap();
                Ok::<_, Down>(None)
            });
            assert_eq!(asked.await.unwrap(), None);
            assert_eq!(users.get("k").await.unwrap(), Some(user("Bob")), "{store}, {case}");
        }
    }
}
