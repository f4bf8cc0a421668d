//! A name that leads to another server after a failover, while the old server keeps its connections: all links of a
//! node move together, to a master. And a program that reads from a replica on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use larder::{Cache, ErrorKind, Larder, Near, NearVerdict, Stored};
use larder_testkit::{Proxy, Server, eventually};
use support::{patient, until};

const HOUR: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(20);

fn numbers(larder: &Larder) -> Cache<u32> {
    larder.cache("n").ttl(HOUR).build().unwrap()
}

/// The same entries, with copies in this process.
fn near(larder: &Larder) -> Cache<u32> {
    larder.cache("n").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap()
}

fn replicate(replica: &Server, master: &Server) {
    replica.command(&["REPLICAOF", "127.0.0.1", &master.addr().unwrap().port().to_string()]);
}

/// Waits until a replica has everything that its master has.
fn in_step(master: &Server, replica: &Server) {
    eventually("the replica is in step", LIMIT, || {
        let (of_master, of_replica) = (master.info("replication"), replica.info("replication"));
        let up = of_replica.get("master_link_status")? == "up";
        (up && of_master.get("master_repl_offset")? == of_replica.get("slave_repl_offset")?).then_some(())
    });
}

/// Two servers, the second a replica of the first, and a virtual IP that leads to the first.
async fn pair() -> (Server, Server, Proxy) {
    let (one, other) = (Server::builder().tcp().start(), Server::builder().tcp().start());
    replicate(&other, &one);
    in_step(&one, &other);
    let vip = Proxy::start(one.addr().unwrap()).await;
    (one, other, vip)
}

fn promote(server: &Server) {
    server.command(&["REPLICAOF", "NO", "ONE"]);
}

/// The connections of larder at a server.
fn connections(server: &Server) -> usize {
    let list: String = server.query(&["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains(" name=larder ")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_links_go_to_the_new_master_though_the_old_server_keeps_them() {
    let (old, new, vip) = pair().await;
    let larder = patient().url(vip.url()).connections(2).connect().await.unwrap();
    numbers(&larder).set("a", &1).await.unwrap();
    in_step(&old, &new);
    until("near reads work", async || {
        assert_eq!(near(&larder).get("a").await.unwrap(), Some(1));
        larder.stats().caches["n"].near_hits > 0
    })
    .await;

    promote(&new);
    vip.redirect(new.addr().unwrap());
    // The link follows the new master, and its connections stay open.
    replicate(&old, &new);
    until("writes go to the new master", async || numbers(&larder).set("a", &2).await.is_ok()).await;
    // At this moment, and not only after the next heartbeat: the old server must not serve a key that was written.
    for number in 3..50 {
        numbers(&larder).set("a", &number).await.unwrap();
        assert_eq!(numbers(&larder).get("a").await.unwrap(), Some(number));
        assert_eq!(near(&larder).get("a").await.unwrap(), Some(number));
        numbers(&larder).clear().await.unwrap();
        assert_eq!(numbers(&larder).get("a").await.unwrap(), None, "cleared, and served");
    }
    until("no link is left behind", async || connections(&old) == 0).await;
    // And the tracked link receives the invalidations for what other clients write there.
    let other = patient().url(new.url()).connect().await.unwrap();
    numbers(&larder).set("b", &1).await.unwrap();
    until("near reads work", async || {
        let hits = larder.stats().caches["n"].near_hits;
        assert_eq!(near(&larder).get("b").await.unwrap(), Some(1));
        larder.stats().caches["n"].near_hits > hits
    })
    .await;
    numbers(&other).set("b", &2).await.unwrap();
    until("the write is seen", async || near(&larder).get("b").await.unwrap() == Some(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demotion_is_noticed_without_any_request() {
    let (old, new, vip) = pair().await;
    let larder = patient().url(vip.url()).connect().await.unwrap();
    assert!(connections(&old) >= 2);
    promote(&new);
    vip.redirect(new.addr().unwrap());
    replicate(&old, &new);
    until("all links have moved", async || connections(&old) == 0 && connections(&new) >= 2).await;
    numbers(&larder).set("a", &1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_its_master_is_given_up_and_named() {
    let (old, new, vip) = pair().await;
    let larder = patient().url(vip.url()).connect().await.unwrap();
    numbers(&larder).set("a", &1).await.unwrap();
    old.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    old.command(&["REPLICAOF", "127.0.0.1", "1"]);
    until("it says what is wrong", async || match numbers(&larder).get("a").await {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
            error.is_retryable()
        }
        Ok(_) => false,
    })
    .await;
    promote(&new);
    vip.redirect(new.addr().unwrap());
    until("the new master is used", async || numbers(&larder).set("a", &2).await.is_ok()).await;
    until("no link is left behind", async || connections(&old) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_read_back_while_the_links_talk_to_different_masters() {
    let servers = [(); 3].map(|()| Server::builder().tcp().start());
    let vip = Proxy::start(servers[0].addr().unwrap()).await;
    let larder = patient().url(vip.url()).connect().await.unwrap();
    numbers(&larder).set("a", &1).await.unwrap();
    // A first move, after which the next one has to wait.
    vip.redirect(servers[1].addr().unwrap());
    let list: String = servers[0].query(&["CLIENT", "LIST"]);
    let one = list.lines().find(|line| line.contains(" name=larder ")).unwrap();
    let id = one.split_whitespace().find_map(|field| field.strip_prefix("id=")).unwrap();
    servers[0].command(&["CLIENT", "KILL", "ID", id]);
    until("all links have moved", async || connections(&servers[0]) == 0 && connections(&servers[1]) == 3)
        .await;
    numbers(&larder).set("a", &1).await.unwrap();
    assert_eq!(near(&larder).get("a").await.unwrap(), Some(1));
    // Only the tracked link stays.
    vip.redirect(servers[2].addr().unwrap());
    vip.only_untracked().drop_connections();
    until("writes go to the third", async || {
        let written = numbers(&larder).set("a", &2).await.is_ok();
        written && servers[2].query::<u64>(&["DBSIZE"]) > 0
    })
    .await;
    for number in 3..100 {
        numbers(&larder).set("a", &number).await.unwrap();
        assert_eq!(numbers(&larder).get("a").await.unwrap(), Some(number));
        assert_eq!(near(&larder).get("a").await.unwrap(), Some(number));
    }
    until("the links agree again", async || connections(&servers[1]) == 0).await;
    until("near reads work", async || {
        let hits = larder.stats().caches["n"].near_hits;
        assert_eq!(near(&larder).get("a").await.unwrap(), Some(99));
        larder.stats().caches["n"].near_hits > hits
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_reach_different_masters_move_together() {
    // The old server is cut off and does not know that it was replaced. It stays a master, and only its run id differs.
    let (old, new) = (Server::builder().tcp().start(), Server::builder().tcp().start());
    let vip = Proxy::start(old.addr().unwrap()).await;
    let larder = patient().url(vip.url()).connections(3).connect().await.unwrap();
    numbers(&larder).set("a", &1).await.unwrap();
    let before = connections(&old);
    vip.redirect(new.addr().unwrap());
    // One connection breaks.
    let list: String = old.query(&["CLIENT", "LIST"]);
    let one = list.lines().find(|line| line.contains(" name=larder ")).unwrap();
    let id = one.split_once("id=").unwrap().1.split(' ').next().unwrap();
    old.command(&["CLIENT", "KILL", "ID", id]);
    until("all links have moved", async || connections(&old) == 0 && connections(&new) == before).await;
    numbers(&larder).set("a", &2).await.unwrap();
    assert_eq!(numbers(&larder).get("a").await.unwrap(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_read_on_purpose_serves_reads_without_ever_dialling_again() {
    let (master, replica, _vip) = pair().await;
    let writer = patient().url(master.url()).connect().await.unwrap();
    numbers(&writer).set("a", &1).await.unwrap();
    in_step(&master, &replica);
    let reader = patient().url(replica.url()).connect().await.unwrap();
    assert_eq!(numbers(&reader).get("a").await.unwrap(), Some(1));
    let ids = || {
        let list: String = replica.query(&["CLIENT", "LIST"]);
        let mine = list.lines().filter(|line| line.contains(" name=larder ") && line.contains("db=0"));
        let mut ids: Vec<String> = mine.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let before = ids();
    let beats = || replica.calls("time");
    let began = beats();
    until("ten heartbeats have passed", async || {
        let refused = numbers(&reader).set("b", &1).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnly, "{refused:?}");
        assert_eq!(near(&reader).get("a").await.unwrap(), Some(1));
        beats() > began + 10
    })
    .await;
    let after = ids();
    assert!(before.iter().all(|id| after.contains(id)), "{before:?} {after:?}");
    // A replica may lag by any time, so nothing that it returned is kept near.
    assert_eq!(reader.stats().caches["n"].near_hits, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_started_on_a_replica_finds_the_master_when_its_name_leads_there() {
    let (master, replica, vip) = pair().await;
    vip.redirect(replica.addr().unwrap());
    let larder = patient().url(vip.url()).connect().await.unwrap();
    assert_eq!(numbers(&larder).set("a", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    vip.redirect(master.addr().unwrap());
    until("the master is found", async || numbers(&larder).set("a", &1).await.is_ok()).await;
    until("near reads work", async || {
        assert_eq!(near(&larder).get("a").await.unwrap(), Some(1));
        larder.stats().caches["n"].near_hits > 0
    })
    .await;
    until("no link is left behind", async || connections(&replica) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_promoted_where_it_is_becomes_a_master_for_its_links() {
    let (_master, replica, _vip) = pair().await;
    let larder = patient().url(replica.url()).connect().await.unwrap();
    assert_eq!(numbers(&larder).set("a", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    promote(&replica);
    until("writes work", async || numbers(&larder).set("a", &1).await.is_ok()).await;
    until("near reads work", async || {
        assert_eq!(near(&larder).get("a").await.unwrap(), Some(1));
        larder.stats().caches["n"].near_hits > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_swapped_database_get_and_explain_say_the_same_and_new_connections_forget_the_old_one() {
    let server = Server::builder().tcp().start();
    let url = |database: u32| format!("redis://{}/{database}", server.addr().unwrap());
    let (larder, other) =
        (patient().url(url(0)).connect().await.unwrap(), patient().url(url(1)).connect().await.unwrap());
    for (larder, number) in [(&larder, 1), (&other, 2)] {
        near(larder).set("a", &number).tag("t").await.unwrap();
        until("near reads work", async || {
            assert_eq!(near(larder).get("a").await.unwrap(), Some(number));
            larder.stats().caches["n"].near_hits > 0
        })
        .await;
    }
    // The server notifies no client.
    server.command(&["SWAPDB", "0", "1"]);
    let agree = async |larder: &Larder, number: u32| {
        let explained = larder.explain("n:a").await.unwrap();
        let (kept, fresh) =
            (near(larder).get("a").await.unwrap(), near(larder).fresh().get("a").await.unwrap());
        assert_eq!(explained.stored == Stored::Fresh, fresh.is_some(), "{explained}");
        // A copy that is still served is the old one, and `explain` reports that it is served.
        if kept.is_some_and(|kept| kept != number) {
            assert_eq!(explained.near, NearVerdict::Served, "{explained}");
        }
        fresh == Some(number) && kept == fresh
    };
    for (larder, number) in [(&larder, 2), (&other, 1)] {
        agree(larder, number).await;
    }
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    for (larder, number) in [(&larder, 2), (&other, 1)] {
        until("the other database is read", async || {
            larder.ping().await.is_ok() && agree(larder, number).await
        })
        .await;
    }
}
