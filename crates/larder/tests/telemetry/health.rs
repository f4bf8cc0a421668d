//! `larder.health()` and `cache.hot_keys()`.

use larder::{Cache, ConnectionRole, ConnectionState, Health, Larder, Near};
use larder_testkit::Server;

use super::HOUR;
use crate::support::{User, patient, until, user};

fn states(health: &Health, role: ConnectionRole) -> Vec<ConnectionState> {
    let of_role = health.connections.iter().filter(|connection| connection.role == role);
    of_role.map(|connection| connection.state).collect()
}

#[tokio::test]
async fn health_follows_the_server_through_an_outage() {
    let server = Server::start();
    let larder = patient().url(server.url()).connections(2).connect().await.unwrap();
    let users: Cache<User> = larder.cache("user").ttl(HOUR).build().unwrap();
    until("the server has answered a heartbeat", async || larder.health().tracking).await;
    let health = larder.health();
    assert!(health.is_ready());
    assert_eq!(states(&health, ConnectionRole::Commands), [ConnectionState::Up; 2]);
    assert_eq!(states(&health, ConnectionRole::Tracking), [ConnectionState::Up]);
    assert_eq!(states(&health, ConnectionRole::Background).len(), 1);
    let json = serde_json::to_value(&health).unwrap();
    assert_eq!(json["queued_invalidations"], 0);
    assert_eq!(json["connections"][0]["role"], "commands");
    assert_eq!(json["connections"][0]["purpose"], "caches");
    assert_eq!(json["connections"][0]["state"], "up");
    assert_eq!(json["connections"][0]["error"], serde_json::Value::Null);

    server.kill();
    until("both connections for requests are down", async || {
        let _ = users.get("a").await;
        states(&larder.health(), ConnectionRole::Commands) == [ConnectionState::Down; 2]
    })
    .await;
    assert!(users.delete("a").await.unwrap_err().is_queued());
    let health = larder.health();
    assert!(!health.is_ready() && !health.tracking && health.queued_invalidations == 1, "{health:?}");
    assert!(health.connections[0].error.is_some(), "{health:?}");

    server.restart();
    until("it is well again", async || {
        let health = larder.health();
        health.is_ready() && health.tracking && health.queued_invalidations == 0
    })
    .await;
    larder.close().await.unwrap();
    let health = larder.health();
    assert!(health.closed && !health.is_ready());
    assert!(health.connections.iter().all(|connection| connection.error == Some("closed")), "{health:?}");
}

#[tokio::test]
async fn a_larder_that_has_not_reached_its_server_is_not_ready_and_one_in_memory_is() {
    let server = Server::start();
    server.kill();
    let away = patient().url(server.url()).connect_lazy().unwrap();
    assert!(!away.health().is_ready());
    assert!(Larder::connect("memory:").await.unwrap().health().is_ready());
}

#[tokio::test]
async fn the_hot_keys_of_a_cache_are_those_that_are_read_most_near_hits_included() {
    let larder = Larder::connect("memory:").await.unwrap();
    let near = larder.cache::<User>("user").ttl(HOUR).near(Near::bytes(1 << 20)).hot_keys(3);
    let (users, plain) = (near.build().unwrap(), larder.cache::<User>("plain").ttl(HOUR).build().unwrap());
    for key in 0..100 {
        users.set(key, &user("Ann")).await.unwrap();
        users.get(key).await.unwrap();
        plain.get(key).await.unwrap();
    }
    for _ in 0..64 * 100 {
        users.get(7).await.unwrap();
    }
    let hot = users.hot_keys();
    assert_eq!((hot.len(), hot[0].key.as_str()), (3, "7"));
    // 6,400 of 6,500 reads; where the sample begins is not known.
    assert!(hot[0].share > 0.9 && hot[0].share <= 1.0 && hot[0].error < 0.1, "{hot:?}");
    assert!(plain.hot_keys().is_empty(), "it was not asked to count");
    assert!(larder.cache::<User>("other").hot_keys(101).build().is_err());
}

#[tokio::test]
async fn results_that_run_once_finds_count_as_reads_of_their_keys_near_hits_included() {
    let larder = Larder::connect("memory:").await.unwrap();
    let cache = |name, near: Option<Near>| {
        let cache = larder.cache::<User>(name).ttl(HOUR).hot_keys(2);
        near.into_iter().fold(cache, |cache, near| cache.near(near)).build().unwrap()
    };
    let (stored, near) = (cache("stored", None), cache("near", Some(Near::bytes(1 << 20))));
    let work = || async { Ok::<_, String>(user("Ann")) };
    for key in [7, 7, 7, 8] {
        stored.run_once(key, work).await.unwrap();
    }
    let hot = stored.hot_keys();
    assert_eq!((hot[0].key.as_str(), hot[0].share), ("7", 0.75), "{hot:?}");

    for key in 0..100 {
        near.run_once(key, work).await.unwrap();
        near.get(key).await.unwrap();
    }
    let before = larder.stats().caches["near"].near_hits;
    for _ in 0..64 * 100 {
        near.run_once(7, || async { Err::<User, _>("it ran twice") }).await.unwrap();
    }
    assert_eq!(larder.stats().caches["near"].near_hits - before, 64 * 100);
    let hot = near.hot_keys();
    // 6,400 of 6,600 reads.
    assert!(hot[0].key == "7" && hot[0].share > 0.9 && hot[0].share <= 1.0, "{hot:?}");
}
