//! The spans of loads, as a subscriber sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Larder, Near};
use tokio::sync::oneshot;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Instrument, Subscriber, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::HOUR;
use crate::support::{User, until, user};

/// A span that was made: its name, where it belongs, and what was recorded.
#[derive(Debug, Clone, Default)]
struct Made {
    name: String,
    parent: Option<String>,
    follows: Vec<String>,
    fields: BTreeMap<String, String>,
    closed: bool,
}

impl Visit for Made {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

/// Keeps all spans, in the order in which they were made.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Made>>>);

/// The place of a span among those that were made.
struct Place(usize);

impl Spans {
    /// Collects the spans of this thread until the guards are dropped.
    fn collect() -> (Self, impl Drop) {
        // While there is only one subscriber, the thread that meets a span first decides for all threads whether it is
        // enabled, and the threads of the other tests have no subscriber.
        struct Guards(
            #[expect(dead_code, reason = "kept")] tracing::Dispatch,
            tracing::subscriber::DefaultGuard,
        );
        impl Drop for Guards {
            fn drop(&mut self) {
                let _ = &self.1;
            }
        }
        let spans = Self::default();
        let second = tracing::Dispatch::new(tracing_subscriber::registry().with(Self::default()));
        let subscribed = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
        (spans, Guards(second, subscribed))
    }

    fn named(&self, name: &str) -> Vec<Made> {
        self.0.lock().unwrap().iter().filter(|made| made.name == name).cloned().collect()
    }

    #[track_caller]
    fn only(&self, name: &str) -> Made {
        let mut made = self.named(name);
        assert_eq!(made.len(), 1, "{name}: {made:?}");
        made.remove(0)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut made = Made {
            name: span.name().to_owned(),
            parent: span.parent().map(|parent| parent.name().to_owned()),
            ..Made::default()
        };
        attributes.record(&mut made);
        let mut all = self.0.lock().unwrap();
        span.extensions_mut().insert(Place(all.len()));
        all.push(made);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let place = span.extensions().get::<Place>().unwrap().0;
        values.record(&mut self.0.lock().unwrap()[place]);
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        let followed = context.span(follows).expect("the span that is followed is open").name().to_owned();
        let place = context.span(id).unwrap().extensions().get::<Place>().unwrap().0;
        self.0.lock().unwrap()[place].follows.push(followed);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let place = context.span(&id).unwrap().extensions().get::<Place>().unwrap().0;
        self.0.lock().unwrap()[place].closed = true;
    }
}

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_load_is_a_span_in_that_of_its_leader_and_a_waiter_follows_from_it() {
    let (spans, _guard) = Spans::collect();
    let larder = Larder::connect("memory:").await.unwrap();
    let users = larder.cache::<User>("user").ttl(HOUR).build().unwrap();
    let (go_on, wait) = oneshot::channel::<()>();
    let leader = async {
        let load = users.get_or_load("key-1", || async move {
            drop(info_span!("query"));
            wait.await.map_err(|error| error.to_string())?;
            drop(info_span!("another query"));
            Ok::<_, String>(user("Ann"))
        });
        load.await.unwrap()
    };
    let waiter = async {
        users.get_or_load("key-1", || async { Err::<User, _>("joined no load".to_owned()) }).await.unwrap()
    };
    let go_on = async {
        until("the waiter has joined", async || !spans.only("waiter").follows.is_empty()).await;
        go_on.send(()).unwrap();
    };
    tokio::join!(leader.instrument(info_span!("leader")), waiter.instrument(info_span!("waiter")), go_on);

    let load = spans.only("cache.load");
    assert_eq!(load.parent.as_deref(), Some("leader"));
    assert_eq!(load.fields, fields(&[("cache", "user"), ("outcome", "loaded"), ("waiters", "2")]));
    for query in ["query", "another query"] {
        assert_eq!(spans.only(query).parent.as_deref(), Some("cache.load"));
    }
    assert_eq!(spans.only("waiter").follows, ["cache.load"]);
    assert_eq!(spans.only("leader").follows, Vec::<String>::new());
    until("all spans are closed", async || spans.0.lock().unwrap().iter().all(|made| made.closed)).await;
}

#[tokio::test]
async fn a_hit_makes_no_span_and_a_load_that_fails_says_so() {
    let (spans, _guard) = Spans::collect();
    let larder = Larder::connect("memory:").await.unwrap();
    let users = larder.cache::<User>("user").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
    users.set("a", &user("Ann")).await.unwrap();
    for _ in 0..3 {
        users.get("a").await.unwrap();
        users.get_or_load("a", || async { Err::<User, _>("no") }).await.unwrap();
    }
    assert!(spans.0.lock().unwrap().is_empty());
    users.get_or_load("b", || async { Err::<User, _>("no") }).await.unwrap_err();
    users.get_or_load_optional("c", |_| async { Ok::<_, String>(None) }).await.unwrap();
    let outcomes: Vec<_> =
        spans.named("cache.load").iter().map(|load| load.fields["outcome"].clone()).collect();
    assert_eq!(outcomes, ["failed", "absent"]);
}

#[tokio::test]
async fn a_load_of_many_keys_is_one_span_for_each_call_of_the_loader() {
    let (spans, _guard) = Spans::collect();
    let larder = Larder::connect("memory:").await.unwrap();
    let users = larder.cache::<User>("user").ttl(HOUR).build().unwrap();
    let load = users.get_or_load_many(0..2_500, |missing| async move {
        drop(info_span!("query"));
        Ok::<_, String>(missing.into_iter().map(|key| (key, user("Ann"))).collect::<Vec<_>>())
    });
    load.into_future().instrument(info_span!("request")).await.unwrap();
    let loads = spans.named("cache.load");
    for (load, keys) in loads.iter().zip(["2000", "500"]) {
        assert_eq!(load.parent.as_deref(), Some("request"));
        let told = [("cache", "user"), ("keys", keys), ("outcome", "loaded"), ("waiters", keys)];
        assert_eq!(load.fields, fields(&told));
    }
    assert_eq!(loads.len(), 2);
    assert!(spans.named("query").iter().all(|query| query.parent.as_deref() == Some("cache.load")));
}

#[tokio::test]
async fn the_key_is_named_only_on_request_and_work_that_runs_once_is_in_the_span_of_its_caller() {
    let (spans, _guard) = Spans::collect();
    let larder = Larder::connect("memory:").await.unwrap();
    let users = larder.cache::<User>("user").ttl(HOUR).trace_keys().build().unwrap();
    users.get_or_load("key-1", || async { Ok::<_, String>(user("Ann")) }).await.unwrap();
    assert_eq!(spans.only("cache.load").fields["key"], "key-1");
    let work = async {
        drop(info_span!("work"));
        Ok::<_, String>(user("Ann"))
    };
    let once = users.run_once("payment", move || work);
    once.into_future().instrument(info_span!("request")).await.unwrap();
    assert_eq!(spans.only("work").parent.as_deref(), Some("request"));
}

#[tokio::test]
async fn an_early_refresh_is_a_root_that_follows_from_its_request_and_does_not_keep_that_open() {
    let (spans, _guard) = Spans::collect();
    let larder = Larder::connect("memory:").await.unwrap();
    let ttl = Duration::from_secs(2);
    let users = larder.cache::<User>("user").ttl(ttl).early_refresh(100.0).build().unwrap();
    // A load of 20 ms and a beta of 100: most reads begin a refresh. The refresh waits for the test.
    users.get_or_load("a", || slow(Duration::from_millis(20))).instrument(info_span!("first")).await.unwrap();
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let (begun, is_begun) = tokio::sync::watch::channel(false);
    let refresh = || {
        let (begun, mut wait) = (begun.clone(), wait.clone());
        move || async move {
            drop(info_span!("query"));
            begun.send_replace(true);
            wait.wait_for(|go_on| *go_on).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(user("Ann"))
        }
    };
    until("a read begins a refresh", async || {
        users.get_or_load("a", refresh()).instrument(info_span!("request")).await.unwrap();
        *is_begun.borrow()
    })
    .await;
    // The requests have returned, and the refresh runs: none of their spans is open.
    let load = spans.named("cache.load").into_iter().find(|load| load.parent.is_none()).unwrap();
    assert!(!load.closed && load.follows == ["request"], "{load:?}");
    assert_eq!(spans.only("query").parent.as_deref(), Some("cache.load"));
    let requests = spans.named("request");
    assert!(requests.iter().all(|request| request.closed && request.follows.is_empty()), "{requests:?}");

    go_on.send_replace(true);
    until("the refresh has ended", async || spans.0.lock().unwrap().iter().all(|made| made.closed)).await;
    let first = spans.named("cache.load").swap_remove(0);
    assert_eq!(first.parent.as_deref(), Some("first"));
    let refresh = spans.named("cache.load").into_iter().find(|load| load.parent.is_none()).unwrap();
    assert_eq!((refresh.fields["outcome"].as_str(), refresh.fields["waiters"].as_str()), ("loaded", "0"));
}

async fn slow(span: Duration) -> Result<User, String> {
    tokio::time::sleep(span).await;
    Ok(user("Ann"))
}
