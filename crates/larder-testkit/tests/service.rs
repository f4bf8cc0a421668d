//! examples/service.rs over real HTTP: many clients, and two instances that share one server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

// In a folder, so that it is no test program of its own.
#[path = "support/running.rs"]
mod running;

use std::time::Duration;

use larder_testkit::{Server, eventually};
use running::{Answer, Service};

/// The second's limit of ten binds first: one client asks more slowly than that.
fn patiently(service: &Service, path: &str, client: &str, times: usize) -> Vec<Answer> {
    (0..times)
        .map(|_| {
            eventually("the second's limit lets it pass", Duration::from_secs(20), || {
                let answer = service.get(path, client);
                let by_second = answer.status() == 429 && answer.field("ratelimit")?.contains("api-1s");
                (!by_second).then_some(answer)
            })
        })
        .collect()
}

#[test]
fn clients_are_limited_each_by_itself_and_learn_it() {
    let service = Service::start(&[("TRUSTED_PROXIES", "127.0.0.0/8"), ("PER_MINUTE", "12")]);
    let answers = patiently(&service, "/products/7", "192.0.2.1", 12);
    assert!(answers.iter().all(|answer| answer.status() == 200), "{:?}", answers.last().unwrap().head);
    assert!(answers[0].body.contains("a jar of honey"), "{}", answers[0].body);
    assert_eq!(answers[0].field("ratelimit-policy"), Some("\"api-1s\";q=10;w=1,\"api-60s\";q=12;w=60"));

    let refused = &patiently(&service, "/products/7", "192.0.2.1", 1)[0];
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((30..=61).contains(&wait), "{wait}");
    assert!(refused.field("ratelimit").unwrap().starts_with("\"api-60s\";r=0;t="));
    assert_eq!(refused.field("content-type"), Some("application/problem+json"));
    assert!(refused.body.contains("#quota-exceeded"), "{}", refused.body);

    // Another client, one of the same /64, and what is not limited at all.
    assert_eq!(service.get("/products/7", "2001:db8::1").status(), 200);
    assert_eq!(service.get("/products/7", "192.0.2.2").status(), 200);
    assert_eq!(service.get("/products/9", "192.0.2.2").status(), 404);
    for _ in 0..30 {
        assert_eq!(service.get("/stats", "192.0.2.1").status(), 200);
    }
    // SQLite was asked once for what is there and once for what is not.
    assert_eq!(service.counted("queries"), 2);
}

#[test]
fn a_client_cannot_name_itself_where_no_proxy_is_trusted() {
    let service = Service::start(&[("PER_MINUTE", "5")]);
    let statuses: Vec<u16> =
        (0..8).map(|n| service.get("/products/7", &format!("192.0.2.{n}")).status()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
}

#[test]
fn a_scrape_of_the_service_has_at_most_200_lines_of_series_also_after_an_outage() {
    let server = Server::builder().tcp().start();
    let url = server.url();
    let service = Service::start(&[
        ("LARDER_URL", url.as_str()),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ("PER_MINUTE", "12"),
        ("JOB_EVERY_MS", "400"),
        ("NEAR_BYTES", "1048576"),
    ]);
    let series = || {
        let scrape = service.get("/metrics", "unknown").body;
        let lines = scrape.lines().filter(|line| line.starts_with("larder_"));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let counts = |what: &str| series().iter().any(|line| line.starts_with(what));
    // All that it does: hits, near hits, misses, refusals, reports, writes, jobs.
    patiently(&service, "/products/7", "192.0.2.1", 13);
    patiently(&service, "/products/9", "192.0.2.2", 1);
    assert_eq!(patiently(&service, "/report", "192.0.2.2", 1)[0].body, "{\"products\":2}");
    assert_eq!(service.send("POST", "/products/7?cents=700", "192.0.2.2").status(), 204);
    eventually("the job has run", Duration::from_secs(20), || (service.counted("jobs") > 0).then_some(()));
    for metric in
        ["larder_cache_near_hits_total{", "larder_limiter_decisions_total{", "larder_lock_hold_seconds"]
    {
        assert!(counts(metric), "{metric}");
    }
    let usual = series().len();
    assert!((50..=200).contains(&usual), "{usual} lines: {:#?}", series());

    server.kill();
    eventually("an outage is counted", Duration::from_secs(20), || {
        patiently(&service, "/products/7", "192.0.2.3", 1);
        service.send("POST", "/products/7?cents=650", "192.0.2.4");
        service.get("/report", "192.0.2.5");
        (counts("larder_cache_bypassed_total{") && counts("larder_errors_total{")).then_some(())
    });
    let in_outage = series().len();
    assert!(in_outage <= 200, "{in_outage} lines: {:#?}", series());
}

#[test]
fn two_instances_share_one_limit_one_cache_and_one_job() {
    let server = Server::builder().tcp().start();
    let folder = std::env::temp_dir().join(format!("larder-service-{}.sqlite", std::process::id()));
    let (url, database) = (server.url(), folder.display().to_string());
    let settings = [
        ("LARDER_URL", url.as_str()),
        ("DATABASE", database.as_str()),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ("PER_MINUTE", "40"),
        ("JOB_EVERY_MS", "600"),
    ];
    let both = [Service::start(&settings), Service::start(&settings)];

    // Eight clients at once, each through both instances, until nothing passes.
    let admitted: Vec<usize> = std::thread::scope(|scope| {
        let ask = |client: usize| {
            let both = &both;
            scope.spawn(move || {
                let name = format!("192.0.2.{client}");
                let mut passed = 0;
                loop {
                    let answer = &patiently(&both[passed % 2], "/products/8", &name, 1)[0];
                    match answer.status() {
                        200 => passed += 1,
                        429 => return passed,
                        other => panic!("{other}: {}", answer.head),
                    }
                }
            })
        };
        let clients: Vec<_> = (0..8).map(ask).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    // Forty in any minute for each, whichever instance is asked; it all takes less than one.
    assert_eq!(admitted, [40; 8]);
    let queries: u64 = both.iter().map(|service| service.counted("queries")).sum();
    assert!((1..=2).contains(&queries), "{queries} queries reached SQLite");

    // What one changes, the other sees.
    assert!(both[1].get("/products/7", "192.0.2.100").body.contains("650"));
    assert_eq!(both[0].send("POST", "/products/7?cents=700", "192.0.2.100").status(), 204);
    assert!(both[1].get("/products/7", "192.0.2.100").body.contains("700"));

    // The job runs on one of them at a time.
    let jobs = || both.iter().map(|service| service.counted("jobs")).sum::<u64>();
    eventually("the job has run", Duration::from_secs(20), || (jobs() >= 2).then_some(()));

    // When the server is gone the service stays: it loads by itself, and allows half of the limit.
    server.kill();
    let answer = &patiently(&both[0], "/products/7", "192.0.2.200", 1)[0];
    assert_eq!(answer.status(), 200);
    drop(both);
    let _ = std::fs::remove_file(folder);
}
