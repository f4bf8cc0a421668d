//! Loaders that load: a load that would wait for itself fails at once, and every wait ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use larder::{Cache, Format, Larder, LoadContext, LoadError};
use support::held::{LIMIT, within};
use support::{each_pair, each_store};
use tokio::sync::Barrier;

const HOUR: Duration = Duration::from_secs(3600);

type Failed = Arc<str>;

fn cache(larder: &Larder, name: &str) -> Cache<u32> {
    larder.cache(name).ttl(HOUR).build().unwrap()
}

/// What a loader returns from a load that it asked for.
fn text(error: LoadError<Failed>) -> Failed {
    match error {
        LoadError::Loader(inner) => Failed::clone(&inner),
        other => other.to_string().into(),
    }
}

async fn one(cache: Cache<u32>, key: &'static str) -> Result<u32, Failed> {
    cache.get_or_load(key, || async { Ok::<_, Failed>(1) }).await.map_err(text)
}

#[tokio::test]
async fn a_loader_that_asks_for_its_own_key_fails_at_once_and_the_error_names_it() {
    for (store, larder) in each_store().await {
        for format in [Format::Json, Format::Plain] {
            let cache: Cache<u32> =
                larder.cache(format!("{format:?}")).ttl(HOUR).format(format).build().unwrap();
            let inner = cache.clone();
            let load = cache.get_or_load("k", move || one(inner, "k"));
            let error = within("a load that waits for itself", LIMIT, load).await.unwrap_err();
            let said = text(error);
            assert!(
                said.contains("would wait for itself") && said.matches(":k").count() == 2,
                "{store}: {said}"
            );
            let next =
                within("the next load", LIMIT, cache.get_or_load("k", || async { Ok::<_, Failed>(7) })).await;
            assert_eq!(next.unwrap(), 7, "{store}: the key is free");
        }
    }
}

#[tokio::test]
async fn a_circle_over_two_keys_and_two_caches_is_named_whole() {
    for (store, larder) in each_store().await {
        let (xs, ys) = (cache(&larder, "xs"), cache(&larder, "ys"));
        let outer = xs.clone();
        let load = outer.get_or_load("x", move || async move {
            let inner = ys.clone();
            inner.get_or_load("y", move || one(xs, "x")).await.map_err(text)
        });
        let said = text(within("a circle of two", LIMIT, load).await.unwrap_err());
        let (x, y) = (said.find("xs:x"), said.find("ys:y"));
        assert!(x.is_some() && y.is_some() && said.contains("waits for"), "{store}: {said}");
    }
}

#[tokio::test]
async fn of_two_calls_whose_loaders_need_each_others_keys_one_fails_and_the_other_does_not_wait() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder, "c");
        let both = Arc::new(Barrier::new(2));
        let call = |own: &'static str, other: &'static str| {
            let (cache, both, inner) = (cache.clone(), both.clone(), cache.clone());
            async move {
                let loader = move || async move {
                    both.wait().await;
                    one(inner, other).await
                };
                cache.get_or_load(own, loader).await.map_err(text)
            }
        };
        let (p, q) = within("two loads", LIMIT, async { tokio::join!(call("p", "q"), call("q", "p")) }).await;
        let said = p.err().or(q.err()).expect("one of them fails");
        assert!(said.contains("would wait for itself"), "{store}: {said}");
    }
}

#[tokio::test]
async fn a_task_that_a_loader_spawns_in_its_scope_belongs_to_the_load() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder, "c");
        let inner = cache.clone();
        let load = cache.get_or_load_with("k", |cx: LoadContext<u32>| async move {
            tokio::spawn(cx.scope(async move { one(inner, "k").await })).await.unwrap()
        });
        let said = text(within("a spawned circle", LIMIT, load).await.unwrap_err());
        assert!(said.contains("would wait for itself"), "{store}: {said}");
    }
}

#[tokio::test]
async fn a_circle_that_no_scope_shows_ends_with_the_wait_timeout_and_says_so() {
    for (store, larder) in each_store().await {
        let cache: Cache<u32> =
            larder.cache("c").ttl(HOUR).wait_timeout(Duration::from_millis(200)).build().unwrap();
        let inner = cache.clone();
        let load =
            cache.get_or_load("k", move || async move { tokio::spawn(one(inner, "k")).await.unwrap() });
        let said = text(within("a hidden circle", LIMIT, load).await.unwrap_err());
        assert!(said.contains("wait_timeout") && said.contains("200ms"), "{store}: {said}");
    }
}

#[tokio::test]
async fn a_call_for_many_keys_whose_loader_asks_for_one_of_them_fails_at_once() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder, "c");
        for asked in ["get_or_load", "get_or_load_many"] {
            let inner = cache.clone();
            let loader = move |keys: Vec<u32>| {
                let inner = inner.clone();
                async move {
                    let mut rows = Vec::new();
                    for key in keys {
                        let row = if asked == "get_or_load" {
                            inner.get_or_load(key, move || async move { Ok::<_, Failed>(key) }).await
                        } else {
                            let one = inner.get_or_load_many([key], |keys| async move {
                                Ok::<_, Failed>(keys.into_iter().map(|key| (key, key)).collect::<Vec<_>>())
                            });
                            one.await.map(|rows| rows[0].unwrap())
                        };
                        rows.push((key, row.map_err(text)?));
                    }
                    Ok::<_, Failed>(rows)
                }
            };
            let load = cache.get_or_load_many([1u32, 2, 3], loader);
            let said = text(within("many", LIMIT, load.into_future()).await.unwrap_err());
            assert!(said.contains("would wait for itself"), "{store}, {asked}: {said}");
        }
    }
}

#[tokio::test]
async fn loaders_that_load_other_keys_are_no_circle() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder, "c");
        let (b, c) = (cache.clone(), cache.clone());
        let load = cache.get_or_load("a", move || async move {
            let chain = b.clone().get_or_load("b", move || one(c, "c")).await.map_err(text)?;
            // The same key twice, side by side, and a key whose load has ended.
            let (x, y) = tokio::join!(one(b.clone(), "d"), one(b.clone(), "d"));
            Ok::<_, Failed>(chain + x? + y? + one(b, "c").await?)
        });
        assert_eq!(within("a chain", LIMIT, load).await.unwrap(), 4, "{store}");
    }
}

#[tokio::test]
async fn two_processes_whose_loaders_need_each_others_keys_do_not_wait_for_ever() {
    for (store, here, there) in each_pair().await {
        let (here, there) = (cache(&here, "c"), cache(&there, "c"));
        let both = Arc::new(Barrier::new(2));
        let call = |cache: Cache<u32>, own: &'static str, other: &'static str| {
            let (both, inner) = (both.clone(), cache.clone());
            async move {
                let loader = move || async move {
                    both.wait().await;
                    one(inner, other).await.map(|row| row + 1)
                };
                cache.get_or_load(own, loader).await.map_err(text)
            }
        };
        let calls = async { tokio::join!(call(here, "p", "q"), call(there, "q", "p")) };
        let (p, q) = within("two processes", Duration::from_secs(15), calls).await;
        // The first load to continue loads the other's key itself; the second may get the value that the first one
        // stored.
        let (p, q) = (p.unwrap(), q.unwrap());
        assert!((p == 2 && q == 2) || p + q == 5, "{store}: {p} and {q}");
    }
}

// ---- Work that runs once -------------------------------------------------------------------------------------------

/// Runs work that must run once for a key, from any caller.
async fn run(cache: Cache<u32>, key: &'static str) -> Result<u32, String> {
    cache.run_once(key, || async { Ok::<_, String>(1) }).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn work_that_asks_for_its_own_result_fails_at_once_and_the_error_names_it() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder, "c");
        let inner = cache.clone();
        let work = cache.run_once("k", move || run(inner, "k"));
        let said = within("work that waits for itself", LIMIT, work).await.unwrap_err().to_string();
        assert!(said.contains("would wait for itself") && said.matches(":k").count() == 2, "{store}: {said}");
        assert_eq!(within("the next run", LIMIT, run(cache, "k")).await, Ok(1), "{store}: the key is free");
    }
}

#[tokio::test]
async fn of_two_runs_whose_work_needs_each_others_results_one_fails_and_the_other_does_not_wait() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder, "c");
        let both = Arc::new(Barrier::new(2));
        let call = |own: &'static str, other: &'static str| {
            let (cache, both, inner) = (cache.clone(), both.clone(), cache.clone());
            async move {
                let work = move || async move {
                    both.wait().await;
                    run(inner, other).await
                };
                cache.run_once(own, work).await.map_err(|error| error.to_string())
            }
        };
        let (p, q) = within("two runs", LIMIT, async { tokio::join!(call("p", "q"), call("q", "p")) }).await;
        let said = p.err().or(q.err()).expect("one of them fails");
        assert!(said.contains("would wait for itself"), "{store}: {said}");
    }
}

#[tokio::test]
async fn a_circle_of_a_load_and_work_is_named_and_a_chain_of_them_is_none() {
    for (store, larder) in each_store().await {
        let (rows, jobs) = (cache(&larder, "rows"), cache(&larder, "jobs"));
        for (asked, circle) in [("k", true), ("other", false)] {
            let (inner, jobs) = (rows.clone(), jobs.clone());
            let load = rows.get_or_load("k", move || async move {
                let work = move || async move { one(inner, asked).await.map_err(|error| error.to_string()) };
                jobs.run_once(asked, work).await.map_err(|error| Failed::from(error.to_string()))
            });
            let ended = within("a load that waits for work", LIMIT, load).await.map_err(text);
            match ended {
                Err(said) if circle => {
                    let named = said.contains("rows:k") && said.contains("jobs:k");
                    assert!(said.contains("would wait for itself") && named, "{store}: {said}");
                }
                ended => assert_eq!((ended, circle), (Ok(1), false), "{store}"),
            }
        }
    }
}

#[tokio::test]
async fn two_processes_whose_work_needs_each_others_results_do_not_wait_for_ever() {
    for (store, here, there) in each_pair().await {
        let [here, there] = [here, there].map(|larder| -> Cache<u32> {
            larder.cache("c").ttl(HOUR).wait_timeout(Duration::from_millis(200)).build().unwrap()
        });
        let both = Arc::new(Barrier::new(2));
        let call = |cache: Cache<u32>, own: &'static str, other: &'static str| {
            let (both, inner) = (both.clone(), cache.clone());
            async move {
                let work = move || async move {
                    both.wait().await;
                    run(inner, other).await
                };
                cache.run_once(own, work).await.map_err(|error| error.to_string())
            }
        };
        let calls = async { tokio::join!(call(here, "p", "q"), call(there, "q", "p")) };
        let (p, q) = within("two processes", LIMIT, calls).await;
        let said = p.err().or(q.err()).expect("the first to give up fails");
        assert!(said.contains("wait_timeout"), "{store}: {said}");
    }
}
