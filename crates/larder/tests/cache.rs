//! What a cache does, on each store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use larder::{Cache, DisplayKey, ErrorKind, Expiry, Format, Larder};
use support::{User, each_store, patient, until, user};

const HOUR: Duration = Duration::from_secs(3600);

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).build().unwrap()
}

#[tokio::test]
async fn what_is_set_is_got_until_it_is_deleted() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        assert_eq!(users.get("123").await.unwrap(), None, "{store}");
        assert!(!users.exists("123").await.unwrap());
        assert!(!users.delete("123").await.unwrap());

        users.set("123", &user("Ann")).await.unwrap();
        assert_eq!(users.get("123").await.unwrap(), Some(user("Ann")));
        assert!(users.exists("123").await.unwrap());

        users.set("123", &user("Bob")).await.unwrap();
        assert_eq!(users.get("123").await.unwrap(), Some(user("Bob")));

        assert!(users.delete("123").await.unwrap());
        assert_eq!(users.get("123").await.unwrap(), None);
        assert!(!users.exists("123").await.unwrap());
    }
}

#[tokio::test]
async fn a_value_is_gone_after_its_time_to_live() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        users.set("short", &user("Ann")).ttl(Duration::from_millis(60)).await.unwrap();
        users.set("long", &user("Bob")).await.unwrap();
        assert!(users.exists("short").await.unwrap(), "{store}");
        until("the short one is gone", async || users.get("short").await.unwrap().is_none()).await;
        assert!(!users.exists("short").await.unwrap());
        assert_eq!(users.ttl("short").await.unwrap(), None);
        assert_eq!(users.get("long").await.unwrap(), Some(user("Bob")));
    }
}

#[tokio::test]
async fn ttl_returns_what_is_left_and_touch_changes_it() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let left = async |key: &str| users.ttl(key).await.unwrap();
        users.set("a", &user("Ann")).await.unwrap();
        let Some(Expiry::After(first)) = left("a").await else { panic!("{store}: no time to live") };
        assert!(first <= HOUR && first > HOUR - Duration::from_secs(60), "{store}: {first:?}");

        assert!(users.touch("a", Duration::from_secs(60)).await.unwrap());
        let Some(Expiry::After(touched)) = left("a").await else { panic!("{store}: no time to live") };
        assert!(touched <= Duration::from_secs(60) && touched > Duration::from_secs(30));

        users.set("b", &user("Bob")).no_expiry().await.unwrap();
        assert_eq!(left("b").await, Some(Expiry::Never));
        assert!(!users.touch("unknown", HOUR).await.unwrap());
        assert_eq!(left("unknown").await, None);
        assert_eq!(users.touch("a", Duration::ZERO).await.unwrap_err().kind(), ErrorKind::InvalidSetting);
    }
}

#[tokio::test]
async fn a_value_without_any_time_to_live_is_refused() {
    for (_, larder) in each_store().await {
        let users: Cache<User> = larder.cache("undecided").build().unwrap();
        let error = users.set("a", &user("Ann")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting);
        assert!(error.to_string().contains("no_expiry()"), "{error}");
        users.set("a", &user("Ann")).ttl(HOUR).await.unwrap();
        users.set("a", &user("Ann")).no_expiry().await.unwrap();
        for nonsense in [Duration::ZERO, Duration::MAX] {
            let error = users.set("a", &user("Bob")).ttl(nonsense).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting);
        }
        assert_eq!(users.get("a").await.unwrap(), Some(user("Ann")));
    }
}

#[tokio::test]
async fn many_keys_keep_their_order() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let people: Vec<User> = (0..100).map(|i| user(&format!("user {i}"))).collect();
        users.set_many((0..100).zip(&people)).await.unwrap();

        let keys: Vec<i32> = (0..200).rev().step_by(3).collect();
        let found = users.get_many(&keys).await.unwrap();
        for (key, found) in keys.iter().zip(&found) {
            assert_eq!(found.as_ref(), people.get(*key as usize), "{store}: {key}");
        }
        let deleted = users.delete_many(&keys).await.unwrap();
        assert_eq!(deleted, keys.iter().map(|key| *key < 100).collect::<Vec<_>>(), "{store}");
        assert!(users.get_many(&keys).await.unwrap().iter().all(Option::is_none));

        assert!(users.get_many(Vec::<i32>::new()).await.unwrap().is_empty());
        assert!(users.delete_many(Vec::<i32>::new()).await.unwrap().is_empty());
        users.set_many(Vec::<(i32, &User)>::new()).await.unwrap();

        users.set_many([("x", &people[0])]).ttl(Duration::from_secs(60)).await.unwrap();
        assert!(
            matches!(users.ttl("x").await.unwrap(), Some(Expiry::After(left)) if left <= Duration::from_secs(60))
        );
    }
}

#[tokio::test]
async fn keys_of_every_kind_name_their_own_entry() {
    for (store, larder) in each_store().await {
        let names: Cache<String> = larder.cache("name").ttl(HOUR).build().unwrap();
        let id = uuid::Uuid::new_v4();
        macro_rules! round_trip {
            ($($key:expr),* $(,)?) => {$(
                let value = stringify!($key).to_owned();
                names.set($key, &value).await.unwrap();
            )* $(
                assert_eq!(names.get($key).await.unwrap().as_deref(), Some(stringify!($key)), "{store}");
            )*};
        }
        round_trip!(
            "plain",
            String::from("owned"),
            7u64,
            -7i32,
            u128::MAX,
            true,
            'c',
            id,
            ("a", 1),
            ("a:1", "b"),
            ("a", "1:b"),
            (1, 2, 3, 4),
            DisplayKey(std::net::Ipv6Addr::LOCALHOST),
            "{tag}",
            "per%cent",
            "line\nbreak",
            "größe 🦀",
            "",
        );
    }
}

#[tokio::test]
async fn a_key_or_value_that_is_too_large_is_refused_and_nothing_is_lost() {
    for (store, url) in [("memory", "memory:".to_owned()), ("server", support::server().url())] {
        let builder = patient().url(url).namespace(support::namespace());
        let larder = builder.max_key_bytes(64).max_value_bytes(100).connect().await.unwrap();
        let names: Cache<String> = larder.cache("name").ttl(HOUR).build().unwrap();
        names.set("a", &"x".repeat(98)).await.unwrap();

        let error = names.set("a", &"x".repeat(99)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueTooLarge, "{store}");
        let error = names.set_many([("a", &"y".to_owned()), ("b", &"x".repeat(99))]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueTooLarge, "{store}");
        assert_eq!(names.get("a").await.unwrap(), Some("x".repeat(98)));

        let long = "k".repeat(64);
        assert_eq!(names.get(&long).await.unwrap_err().kind(), ErrorKind::KeyTooLong);
        assert_eq!(names.set(&long, &String::new()).await.unwrap_err().kind(), ErrorKind::KeyTooLong);
    }
}

#[tokio::test]
async fn every_format_is_read_whatever_the_cache_writes_now() {
    for (store, larder) in each_store().await {
        let build = |format| larder.cache::<User>("user").ttl(HOUR).format(format).build().unwrap();
        let caches = [build(Format::Json), build(Format::MessagePack), build(Format::Plain)];
        for writer in &caches {
            writer.set("a", &user("Ann")).await.unwrap();
            for reader in &caches {
                assert_eq!(reader.get("a").await.unwrap(), Some(user("Ann")), "{store}");
            }
            writer.delete("a").await.unwrap();
        }
        let packed = larder.cache::<String>("text").ttl(HOUR).compress_above(1000).build().unwrap();
        let text = "larder ".repeat(10_000);
        packed.set("a", &text).await.unwrap();
        assert_eq!(packed.get("a").await.unwrap(), Some(text.clone()));
        let written = larder.stats().caches["text"].bytes_written;
        assert!(written < text.len() as u64 / 10, "{store}: {written}");
    }
}

#[tokio::test]
async fn schemas_and_namespaces_stay_apart() {
    for (_, larder) in each_store().await {
        let old: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
        let new: Cache<User> = larder.cache("user").schema(2).ttl(HOUR).build().unwrap();
        old.set("a", &user("old")).await.unwrap();
        assert_eq!(new.get("a").await.unwrap(), None);
        new.set("a", &user("new")).await.unwrap();
        assert_eq!(old.get("a").await.unwrap(), Some(user("old")));
    }
    let url = support::server().url();
    let (here, there) = (support::connect(&url).await, support::connect(&url).await);
    users(&here).set("a", &user("here")).await.unwrap();
    assert_eq!(users(&there).get("a").await.unwrap(), None);
}

#[tokio::test]
async fn another_type_for_a_name_is_refused_at_build() {
    for (_, larder) in each_store().await {
        let _users = users(&larder);
        let error = larder.cache::<String>("user").ttl(HOUR).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting);
        assert!(larder.cache::<User>("user").ttl(HOUR).build().is_ok());
    }
}

#[tokio::test]
async fn nonsense_is_refused_at_build() {
    let larder = Larder::connect("memory:").await.unwrap();
    let build = || larder.cache::<User>("user").ttl(HOUR);
    for builder in [
        larder.cache("no spaces"),
        build().ttl(Duration::ZERO),
        build().ttl_jitter(1.5),
        build().ttl_jitter(f64::NAN),
        build().format(Format::Plain).compress_above(1),
    ] {
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::InvalidSetting);
    }
}

#[tokio::test]
async fn jitter_shortens_times_to_live_within_its_share() {
    for (store, larder) in each_store().await {
        let users: Cache<User> = larder.cache("user").ttl(HOUR).ttl_jitter(0.5).build().unwrap();
        let mut lefts = Vec::new();
        for i in 0..50 {
            users.set(i, &user("Ann")).await.unwrap();
            let Some(Expiry::After(left)) = users.ttl(i).await.unwrap() else { panic!("{store}") };
            assert!(left <= HOUR && left >= HOUR / 2 - Duration::from_secs(20), "{store}: {left:?}");
            lefts.push(left);
        }
        lefts.sort();
        assert!(lefts[49] - lefts[0] > HOUR / 10, "{store}: no spread");
    }
}

#[tokio::test]
async fn an_invalidated_tag_invalidates_all_that_carry_it_and_nothing_else() {
    for (store, larder) in each_store().await {
        let users = users(&larder);
        let teams: Cache<String> = larder.cache("team").ttl(HOUR).build().unwrap();
        users.set("ann", &user("Ann")).tag("team:7").tag("town:1").await.unwrap();
        users.set("bob", &user("Bob")).tag("team:8").await.unwrap();
        users.set("cid", &user("Cid")).await.unwrap();
        teams.set("7", &"seven".to_owned()).tag("team:7").await.unwrap();
        assert!(users.exists("ann").await.unwrap(), "{store}");
        assert_eq!(users.get_many(["ann", "bob", "cid"]).await.unwrap().iter().flatten().count(), 3);

        larder.tag("team:7").invalidate().await.unwrap();
        assert_eq!(users.get("ann").await.unwrap(), None, "{store}");
        assert!(!users.exists("ann").await.unwrap());
        assert_eq!(teams.get("7").await.unwrap(), None);
        let left = users.get_many(["ann", "bob", "cid"]).await.unwrap();
        assert_eq!(left, [None, Some(user("Bob")), Some(user("Cid"))], "{store}");

        users.set("ann", &user("Ann")).tag("team:7").await.unwrap();
        assert_eq!(users.get("ann").await.unwrap(), Some(user("Ann")), "{store}");
        let (one, two) = (user("One"), user("Two"));
        users.set_many([(1, &one), (2, &two)]).tag("batch").await.unwrap();
        assert_eq!(users.get_many([1, 2]).await.unwrap().iter().flatten().count(), 2);
        larder.tag("batch").invalidate().await.unwrap();
        assert_eq!(users.get_many([1, 2]).await.unwrap(), [None, None], "{store}");

        let too_long = users.set("a", &user("A")).tag("t".repeat(201)).await.unwrap_err();
        assert_eq!(too_long.kind(), ErrorKind::InvalidSetting);
    }
}

#[tokio::test]
async fn the_embedded_store_keeps_as_many_entries_as_it_may() {
    let larder = Larder::builder().url("memory:").memory_max_entries(500).connect().await.unwrap();
    let users = users(&larder);
    for key in 0..5000 {
        users.set(key, &user("Ann")).await.unwrap();
    }
    let left = users.get_many(0..5000).await.unwrap().iter().flatten().count();
    assert!((400..=500).contains(&left), "{left} of 500");
}

#[tokio::test]
async fn the_embedded_store_keeps_as_many_bytes_as_it_may() {
    let larder = Larder::builder().url("memory:").memory_max_bytes(512 << 10).connect().await.unwrap();
    let names: Cache<String> = larder.cache("name").ttl(HOUR).build().unwrap();
    let kibibyte = "x".repeat(1024);
    for key in 0..5120 {
        names.set(key, &kibibyte).await.unwrap();
    }
    let left = names.get_many(0..5120).await.unwrap().iter().flatten().count();
    // Names and envelopes use a part of the bytes.
    assert!((350..=512).contains(&left), "{left} of 512");
}

#[tokio::test]
async fn handles_are_shared_by_any_number_of_tasks() {
    for (store, larder) in each_store().await {
        let numbers: Cache<Arc<u64>> = larder.cache("number").ttl(HOUR).build().unwrap();
        let tasks: Vec<_> = (0..64u64)
            .map(|task| {
                let numbers = numbers.clone();
                tokio::spawn(async move {
                    for round in 0..50 {
                        let key = (task, round);
                        numbers.set(key, &Arc::new(task * round)).await.unwrap();
                        assert_eq!(numbers.get(key).await.unwrap().as_deref(), Some(&(task * round)));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap_or_else(|e| panic!("{store}: {e}"));
        }
        assert_eq!(larder.stats().caches["number"].hits, 64 * 50);
    }
}

#[tokio::test]
async fn a_closed_larder_says_so() {
    for (_, larder) in each_store().await {
        let users = users(&larder);
        larder.close().await.unwrap();
        assert_eq!(users.get("a").await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(users.set("a", &user("Ann")).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(larder.ping().await.unwrap_err().kind(), ErrorKind::Closed);
        larder.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_entry_carries_64_tags_and_no_more() {
    for (store, larder) in each_store().await {
        let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
        let tags = |count: usize| (0..count).map(|tag| format!("tag {tag}")).collect::<Vec<_>>();
        let ann = user("Ann");
        for (count, fits) in [(64, true), (65, false)] {
            // A tag that is given twice counts once.
            let set =
                tags(count).into_iter().fold(users.set("set", &ann).tag("tag 0"), |set, tag| set.tag(tag));
            let load = users.get_or_load("call", || async { Ok::<_, String>(user("Ann")) });
            let load = tags(count).into_iter().fold(load, |load, tag| load.tag(tag));
            let named = users.get_or_load_with("loader", move |cx| async move {
                tags(count).into_iter().for_each(|tag| cx.tag(tag));
                Ok::<_, String>(user("Ann"))
            });
            // A value that cannot be stored is returned all the same.
            assert_eq!(named.await.unwrap(), ann, "{store}");
            let kinds = [
                ("set", set.await.err().map(|error| error.kind())),
                ("call", load.await.err().and_then(|error| error.larder().map(|error| error.kind()))),
                ("snapshot", larder.tag_snapshot(tags(count)).await.err().map(|error| error.kind())),
            ];
            for (what, kind) in kinds {
                assert_eq!(
                    kind,
                    (!fits).then_some(ErrorKind::InvalidSetting),
                    "{store}: {count} tags by {what}"
                );
            }
            for key in ["set", "call", "loader"] {
                assert_eq!(users.exists(key).await.unwrap(), fits, "{store}: {count} tags by {key}");
                users.delete(key).await.unwrap();
            }
        }
        // The tags of the call and the tags that its loader names count together.
        for (count, fits) in [(32, true), (33, false)] {
            let both = users.get_or_load_with("both", move |cx| async move {
                tags(count).into_iter().for_each(|tag| cx.tag(format!("loader's {tag}")));
                Ok::<_, String>(user("Ann"))
            });
            let both = tags(32).into_iter().fold(both, |load, tag| load.tag(tag));
            assert_eq!(both.await.unwrap(), ann, "{store}");
            assert_eq!(users.exists("both").await.unwrap(), fits, "{store}: 32 and {count} tags");
            users.delete("both").await.unwrap();
        }
    }
}
