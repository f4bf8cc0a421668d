//! The scrape of metrics-exporter-prometheus, with larder's buckets.

use std::collections::BTreeSet;

use larder::{Cache, Larder, Near, Quota};
use larder_testkit::Server;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::HOUR;
use crate::support::{User, patient, user};

/// Records what this thread records, as a service does that follows the documentation.
fn prometheus() -> (metrics::LocalRecorderGuard<'static>, PrometheusHandle) {
    let mut builder = PrometheusBuilder::new();
    for (metric, buckets) in larder::metrics::buckets() {
        builder = builder.set_buckets_for_metric(Matcher::Full((*metric).to_owned()), buckets).unwrap();
    }
    let recorder: &'static PrometheusRecorder = Box::leak(Box::new(builder.build_recorder()));
    (metrics::set_default_local_recorder(recorder), recorder.handle())
}

/// The lines of series, without comments.
fn series(scrape: &str) -> Vec<&str> {
    scrape.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[tokio::test]
async fn a_scrape_of_a_small_service_has_at_most_200_lines_and_one_of_an_idle_service_a_few() {
    let (_recording, handle) = prometheus();
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let caches: Vec<Cache<User>> = ["user", "post", "page"]
        .map(|name| larder.cache(name).ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap())
        .into();
    let limiters = ["api", "login"].map(|name| larder.rate_limiter(name, Quota::per_hour(100)).unwrap());
    let idle = handle.render();
    assert!(series(&idle).len() <= 5, "{idle}");

    for cache in &caches {
        cache.set("a", &user("Ann")).await.unwrap();
        cache.get("a").await.unwrap();
        cache.get_or_load("b", || async { Ok::<_, String>(user("Bob")) }).await.unwrap();
        cache.delete("a").await.unwrap();
    }
    for limiter in &limiters {
        assert!(limiter.allow("a").await.unwrap());
    }
    larder.lock("a").acquire().await.unwrap().release().await.unwrap();
    let scrape = handle.render();
    assert!(series(&scrape).len() <= 200, "{} lines: {scrape}", series(&scrape).len());

    // Every metric has a description, and every histogram has buckets: a summary could not be added up.
    let names = |comment: &str| -> BTreeSet<String> {
        let lines = scrape.lines().filter_map(|line| line.strip_prefix(comment));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names("# HELP "), names("# TYPE "));
    assert!(!scrape.contains(" summary\n"), "{scrape}");
    let histograms = scrape.lines().filter(|line| line.ends_with(" histogram"));
    let histograms: BTreeSet<&str> = histograms.map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(histograms, larder::metrics::buckets().iter().map(|(metric, _)| *metric).collect());
}

#[tokio::test]
async fn a_program_that_makes_nothing_has_nothing_to_scrape() {
    let (_recording, handle) = prometheus();
    let larder = Larder::connect("memory:").await.unwrap();
    assert_eq!(series(&handle.render()), Vec::<&str>::new());
    drop(larder);
}
