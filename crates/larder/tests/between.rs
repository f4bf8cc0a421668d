//! Races between the two round trips of an operation. A proxy holds back the reply to the first round trip: the server
//! has executed it, and the second one has not been sent yet. Another `Larder`, connected without the proxy, acts at
//! that moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::time::Duration;

use larder::{Cache, Larder, LoadError, Near};
use larder_testkit::{Direction, Proxy, Server};
use support::held::{Held, LIMIT, within};
use support::{User, connect_as, until, user};

const HOUR: Duration = Duration::from_secs(3600);
const TAG: &str = "team:7";

/// A server, a `Larder` whose replies can be held back (`slow`), and one whose replies always arrive (`quick`).
struct Scene {
    server: Server,
    proxy: Proxy,
    slow: Larder,
    quick: Larder,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::builder().tcp().start();
        let proxy = Proxy::start(server.addr().unwrap()).await;
        let (slow, quick) = (connect_as(&proxy.url(), "n").await, connect_as(&server.url(), "n").await);
        let scene = Self { server, proxy, slow, quick };
        // From here on the scripts, the clear version and the epoch are known, and no request is needed for them.
        for users in [scene.users(&scene.slow), scene.users(&scene.quick)] {
            let load = users.get_or_load_with("warm", |cx| async move {
                cx.tag("warm");
                Ok::<_, Infallible>(user("warm"))
            });
            within("a first load", LIMIT, load).await.unwrap();
            users.set("warm", &user("warm")).await.unwrap();
            users.expire("warm").await.unwrap();
        }
        scene
    }

    /// Entries carry their expiry in the envelope, so `touch` takes two round trips: a read and a write.
    fn users(&self, larder: &Larder) -> Cache<User> {
        larder.cache("user").ttl(HOUR).stale_for(HOUR).build().unwrap()
    }

    /// From here on the slow `Larder` receives no reply.
    fn keep_answers_back(&self) {
        self.server.reset_stats();
        self.proxy.silence(Direction::ToClient);
    }

    /// Waits until the server has run this command `times` times.
    async fn ran(&self, command: &str, times: u64) {
        until(&format!("{command} has run"), async || self.server.calls(command) >= times).await;
    }
}

/// What the call may return when its load fails: a stale value, or nothing.
async fn fallback(users: &Cache<User>, key: &str) -> Option<User> {
    users.get_or_load(key, || async { Err::<User, _>("the origin is down") }).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_whose_loaders_tag_is_invalidated_between_the_reads_of_tag_and_epoch_is_not_stored() {
    let scene = Scene::new().await;
    let users = scene.users(&scene.slow);
    let held = Held::with(&users, "a", user("old"), |cx| cx.tag(TAG)).await;
    scene.keep_answers_back();
    let finished = tokio::spawn(held.finish());
    // The request goes out on the tracked connection first, and again on the other one when the first gets no reply.
    scene.ran("get", 2).await;
    scene.quick.tag(TAG).invalidate().await.unwrap();
    scene.proxy.restore();
    assert_eq!(within("the load ends", LIMIT, finished).await.unwrap(), user("old"));
    assert_eq!(scene.users(&scene.quick).get("a").await.unwrap(), None);
    assert_eq!(users.get("a").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_ends_between_the_two_writes_of_an_invalidation_is_not_served_after_it() {
    let scene = Scene::new().await;
    let users = scene.users(&scene.quick);
    let held = Held::with(&users, "a", user("old"), |cx| cx.tag(TAG)).await;
    scene.keep_answers_back();
    let tag = scene.slow.tag(TAG);
    let invalidation = tokio::spawn(async move { tag.invalidate().await });
    scene.ran("set", 1).await;
    assert_eq!(held.finish().await, user("old"));
    scene.proxy.restore();
    within("the invalidation ends", LIMIT, invalidation).await.unwrap().unwrap();
    until("the push has come", async || users.get("a").await.unwrap().is_none()).await;
    assert_eq!(scene.users(&scene.slow).get("a").await.unwrap(), None);
    let load = support::held::load(&users, "a", user("new"));
    assert_eq!(load.await, user("new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_between_the_read_and_the_write_of_an_expire_is_not_replaced_by_the_old_value() {
    let scene = Scene::new().await;
    let (slow, quick) = (scene.users(&scene.slow), scene.users(&scene.quick));
    slow.set("a", &user("old")).await.unwrap();
    scene.keep_answers_back();
    let expire = tokio::spawn({
        let slow = slow.clone();
        async move { slow.expire("a").await }
    });
    scene.ran("get", 1).await;
    quick.set("a", &user("new")).await.unwrap();
    scene.proxy.restore();
    assert!(within("the expire ends", LIMIT, expire).await.unwrap().unwrap());
    assert_eq!(quick.get("a").await.unwrap(), None, "it is stale");
    assert_eq!(fallback(&quick, "a").await, Some(user("new")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_between_the_read_and_the_write_of_an_expire_stays_deleted() {
    let scene = Scene::new().await;
    let (slow, quick) = (scene.users(&scene.slow), scene.users(&scene.quick));
    slow.set("a", &user("old")).await.unwrap();
    scene.keep_answers_back();
    let expire = tokio::spawn(async move { slow.expire("a").await });
    scene.ran("get", 1).await;
    assert!(quick.delete("a").await.unwrap());
    scene.proxy.restore();
    assert!(!within("the expire ends", LIMIT, expire).await.unwrap().unwrap());
    assert_eq!(fallback(&quick, "a").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_between_the_read_and_the_write_of_a_touch_stays_as_it_is() {
    for deleted in [true, false] {
        let scene = Scene::new().await;
        let (slow, quick) = (scene.users(&scene.slow), scene.users(&scene.quick));
        slow.set("a", &user("old")).await.unwrap();
        scene.keep_answers_back();
        let touch = tokio::spawn(async move { slow.touch("a", 2 * HOUR).await });
        scene.ran("get", 1).await;
        if deleted {
            assert!(quick.delete("a").await.unwrap());
        } else {
            quick.set("a", &user("new")).await.unwrap();
        }
        scene.proxy.restore();
        let touched = within("the touch ends", LIMIT, touch).await.unwrap().unwrap();
        let found = quick.get("a").await.unwrap();
        assert_eq!((touched, found), if deleted { (false, None) } else { (true, Some(user("new"))) });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_between_the_read_and_the_claim_of_a_load_is_its_answer() {
    for stale in [false, true] {
        let scene = Scene::new().await;
        let (slow, quick) = (scene.users(&scene.slow), scene.users(&scene.quick));
        if stale {
            slow.set("a", &user("stale")).await.unwrap();
            assert!(slow.expire("a").await.unwrap());
        }
        scene.keep_answers_back();
        let load = tokio::spawn(async move {
            slow.get_or_load("a", || async { Ok::<_, Infallible>(user("loaded for nothing")) }).await
        });
        scene.ran("get", 1).await;
        quick.set("a", &user("new")).await.unwrap();
        scene.proxy.restore();
        let loaded: Result<User, LoadError<Infallible>> = within("the load ends", LIMIT, load).await.unwrap();
        assert_eq!(loaded.unwrap(), user("new"), "stale: {stale}");
        assert_eq!(quick.get("a").await.unwrap(), Some(user("new")), "stale: {stale}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_whose_tag_is_invalidated_between_the_read_of_its_version_and_the_write_is_not_served() {
    let scene = Scene::new().await;
    let (slow, quick) = (scene.users(&scene.slow), scene.users(&scene.quick));
    scene.keep_answers_back();
    let set = tokio::spawn(async move { slow.set("a", &user("old")).tag(TAG).await });
    scene.ran("get", 2).await;
    scene.quick.tag(TAG).invalidate().await.unwrap();
    scene.proxy.restore();
    within("the set ends", LIMIT, set).await.unwrap().unwrap();
    // The value may be served only if its tag version was read again after the invalidation; then the entry carries
    // that version.
    assert_eq!(quick.get("a").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cleared_between_the_read_of_a_value_and_of_its_version_is_not_kept_near() {
    let scene = Scene::new().await;
    let near = |larder: &Larder, name: &str| -> Cache<User> {
        larder.cache(name).ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
    };
    let (slow, quick) = (near(&scene.slow, "near"), near(&scene.quick, "near"));
    quick.set("a", &user("old")).await.unwrap();
    scene.keep_answers_back();
    let read = tokio::spawn({
        let slow = slow.clone();
        async move { slow.get("a").await }
    });
    scene.ran("get", 2).await;
    quick.clear().await.unwrap();
    scene.proxy.restore();
    assert_eq!(within("the read ends", LIMIT, read).await.unwrap().unwrap(), None);
    assert_eq!(slow.get("a").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_is_seen_by_its_own_larder_though_no_push_reports_it() {
    let scene = Scene::new().await;
    let users: Cache<User> = scene.slow.cache("own").ttl(HOUR).build().unwrap();
    users.set("a", &user("old")).await.unwrap();
    assert_eq!(users.get("a").await.unwrap(), Some(user("old")));
    scene.proxy.only_tracked().silence(Direction::ToClient);
    users.clear().await.unwrap();
    assert_eq!(users.get("a").await.unwrap(), None);
    assert_eq!(users.get_many(["a"]).await.unwrap(), [None]);
    scene.proxy.restore();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidated_tag_is_seen_by_its_own_larder_though_no_push_reports_it() {
    let scene = Scene::new().await;
    let users: Cache<User> = scene.slow.cache("own").ttl(HOUR).build().unwrap();
    users.set("a", &user("old")).tag(TAG).await.unwrap();
    assert_eq!(users.get("a").await.unwrap(), Some(user("old")));
    scene.proxy.only_tracked().silence(Direction::ToClient);
    scene.slow.tag(TAG).invalidate().await.unwrap();
    assert_eq!(users.get("a").await.unwrap(), None);
    scene.proxy.restore();
}

/// The push names the clear version, which was already known when the value was first validated. It arrives while the
/// version of the tag is being fetched.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_forgotten_while_another_is_asked_for_does_not_make_a_value_a_miss() {
    for way in ["get", "get_many", "exists"] {
        let scene = Scene::new().await;
        let (slow, quick) = (scene.users(&scene.slow), scene.users(&scene.quick));
        quick.set("a", &user("Ann")).tag(TAG).await.unwrap();
        quick.set("b", &user("Bob")).await.unwrap();
        assert_eq!(slow.get("b").await.unwrap(), Some(user("Bob")));
        scene.proxy.only_tracked().silence(Direction::ToClient);
        assert_eq!(scene.server.query::<u64>(&["PEXPIRE", "~clear.1:{n/user}", "100000000"]), 1);
        scene.server.reset_stats();
        let read = tokio::spawn(async move {
            match way {
                "get" => Ok(slow.get("a").await?.is_some()),
                "get_many" => Ok(slow.get_many(["a"]).await?[0].is_some()),
                _ => slow.exists("a").await,
            }
        });
        let asked = async || ["get", "mget"].iter().map(|name| scene.server.calls(name)).sum::<u64>() >= 2;
        until("the version of the tag is asked for", asked).await;
        scene.proxy.restore();
        let found: larder::Result<bool> = within("the read ends", LIMIT, read).await.unwrap();
        assert!(found.unwrap(), "{way}");
    }
}
