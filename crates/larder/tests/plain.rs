//! Bare JSON (`Format::Plain`) has no fence on the server. Within one process, a value that was read before a write is
//! still not stored after it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::time::Duration;

use larder::{Cache, Format, Larder};
use larder_testkit::Server;
use support::{each_store, patient};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

fn cache(larder: &Larder) -> Cache<String> {
    larder.cache("c").ttl(Duration::from_secs(60)).format(Format::Plain).build().unwrap()
}

/// A load that has read "old" and continues when it is told to. It may name tags if `with` is set.
struct Held {
    go: oneshot::Sender<()>,
    load: JoinHandle<String>,
}

impl Held {
    async fn load(cache: &Cache<String>, with: bool) -> Self {
        let ((go, wait), (begun, begins)) = (oneshot::channel::<()>(), oneshot::channel::<()>());
        let body = async move {
            begun.send(()).unwrap();
            wait.await.unwrap();
            Ok::<_, Infallible>("old".to_owned())
        };
        let cache = cache.clone();
        let load = tokio::spawn(async move {
            let loaded = match with {
                true => cache.get_or_load_with("k", |_| body).await,
                false => cache.get_or_load("k", || body).await,
            };
            loaded.unwrap()
        });
        begins.await.unwrap();
        Self { go, load }
    }

    async fn ends(self) {
        self.go.send(()).unwrap();
        assert_eq!(self.load.await.unwrap(), "old", "its callers get what it loaded");
    }
}

#[tokio::test]
async fn an_old_row_is_not_stored_after_a_write_though_a_tag_has_detached_its_load() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder);
        let held = Held::load(&cache, true).await;
        larder.tag("whatever").invalidate().await.unwrap();
        cache.delete("k").await.unwrap();
        held.ends().await;
        assert_eq!(cache.get("k").await.unwrap(), None, "{store}");
    }
}

#[tokio::test]
async fn an_old_row_is_not_stored_over_the_value_of_a_refresh() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder);
        let held = Held::load(&cache, false).await;
        let refreshed =
            cache.refresh("k", |_| async { Ok::<_, Infallible>("new".to_owned()) }).await.unwrap();
        assert_eq!(refreshed, "new");
        held.ends().await;
        assert_eq!(cache.get("k").await.unwrap().as_deref(), Some("new"), "{store}");
    }
}

#[tokio::test]
async fn a_refresh_that_a_write_has_outrun_removes_what_it_could_not_replace() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder);
        cache.set("k", &"before".to_owned()).await.unwrap();
        let (writer, reader) = (cache.clone(), cache.clone());
        let refreshed = cache.refresh("k", |_| async move {
            writer.set("k", &"written".to_owned()).await.unwrap();
            Ok::<_, Infallible>("refreshed".to_owned())
        });
        assert_eq!(refreshed.await.unwrap(), "refreshed");
        assert_eq!(reader.get("k").await.unwrap(), None, "{store}: which of the two is newer is not known");
    }
}

#[tokio::test]
async fn an_old_row_whose_load_began_during_a_write_is_not_stored_after_the_next() {
    let server = Server::start();
    if !server.version().at_least(6, 2) {
        // The proxy can only hold back reads and writes together, and then the load does not begin during the write.
        return;
    }
    let larder = patient().url(server.url()).connect().await.unwrap();
    let cache = cache(&larder);
    let _: String = server.query(&["CLIENT", "PAUSE", "600", "WRITE"]);
    let first = tokio::spawn({
        let cache = cache.clone();
        async move { cache.delete("k").await }
    });
    // The request has been sent, and has no reply yet.
    support::until("the first delete waits", async || {
        server.query::<String>(&["CLIENT", "LIST"]).contains("cmd=unlink")
    })
    .await;
    let held = Held::load(&cache, false).await;
    first.await.unwrap().unwrap();
    cache.delete("k").await.unwrap();
    held.ends().await;
    assert_eq!(cache.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_value_whose_load_began_during_a_write_that_has_ended_is_loaded_again() {
    for (store, larder) in each_store().await {
        let cache = cache(&larder);
        let (writer, held) = (cache.clone(), Held::load(&cache, false).await);
        // A set that is sent before the row is committed.
        writer.set("k", &"new".to_owned()).await.unwrap();
        held.ends().await;
        assert_eq!(cache.get("k").await.unwrap().as_deref(), Some("new"), "{store}: own writes are read");
        cache.delete("k").await.unwrap();
        let loaded =
            cache.get_or_load("k", || async { Ok::<_, Infallible>("newer".to_owned()) }).await.unwrap();
        assert_eq!((loaded.as_str(), cache.get("k").await.unwrap().as_deref()), ("newer", Some("newer")));
    }
}
