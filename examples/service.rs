//! An axum service on SQLite: cached reads, a rate limit for each client, a report that only one caller at a time runs,
//! and a job that only one instance runs.
//!
//! ```sh
//! cargo run -p larder-examples --features service --example service     # in memory, on port 3000
//! LARDER_URL=redis://127.0.0.1:6379 PORT=3001 cargo run -p larder-examples --features service --example service
//! ```
//!
//! All instances on one server share one cache and one limit. Each prints `listening on 127.0.0.1:3000`. Then try:
//!
//! ```sh
//! curl -i localhost:3000/products/7
//! # 200 {"id":7,"name":"a jar of honey","cents":650}: from SQLite the first time, then from the cache.
//! # The header RateLimit says how many requests are left.
//!
//! curl -i -X POST 'localhost:3000/products/7?cents=999'
//! # 204: the price is written, and then the cache is invalidated.
//!
//! curl -i localhost:3000/report
//! # 200 {"products":2}: expensive, so callers of all instances wait for their turn; 503 after five seconds.
//!
//! curl -i localhost:3000/stats
//! # 200 {"jobs":1,"queries":2}: queries that reached SQLite. This path is not limited, nor are the next two.
//!
//! curl -s localhost:3000/metrics | grep larder_cache
//! # larder_cache_misses_total{cache="product"} 1 … : for Prometheus, with the dashboard and the alerts of ops/.
//!
//! curl -s localhost:3000/health
//! # 200 {"closed":false,"connections":[],"queued_invalidations":0,"tracking":true}
//!
//! for i in $(seq 40); do curl -s -o /dev/null -w '%{http_code} ' localhost:3000/products/7; done
//! # 200 200 200 … 429 429: the limit is 10 a second and 30 a minute.
//! ```
//!
//! | variable | default | |
//! |---|---|---|
//! | `LARDER_URL` | `memory:` | the server |
//! | `COORDINATION_URL` | none | a second server for locks and limits, which should not evict |
//! | `ADDRESS`, `PORT` | `127.0.0.1`, `3000` | where to listen; the port 0 chooses a free one |
//! | `DATABASE` | `:memory:` | the file of SQLite |
//! | `NEAR_BYTES` | none | keeps up to so many bytes of products in this process |
//! | `PER_MINUTE` | 30 | requests of a client in a minute |
//! | `TRUSTED_PROXIES` | none | proxies in front of the service: `10.0.0.0/8,fd00::/8` |
//! | `JOB_EVERY_MS` | 3600000 | the period of the job |
//!
//! Behind a proxy that is not listed in `TRUSTED_PROXIES`, all clients of the proxy count as one.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve};
use larder::http::{ClientIp, RateLimitLayer, RequestHead};
use larder::limit::OutagePolicy;
use larder::lock::JobRun;
use larder::{Cache, Larder, LoadError, Near, Quota};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Product {
    id: u32,
    name: String,
    cents: u32,
}

#[derive(Clone)]
struct Service {
    larder: Larder,
    products: Cache<Option<Product>>,
    database: Database,
    metrics: PrometheusHandle,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    // Before the connection, which describes its metrics to the recorder.
    let prometheus = recorder()?;
    let mut builder = Larder::builder()
        .url(setting("LARDER_URL", "memory:"))
        .namespace("service")
        .response_timeout(Duration::from_millis(250));
    // A second server, for locks and limits: one that does not evict.
    if let Ok(url) = std::env::var("COORDINATION_URL") {
        builder = builder.coordination(url);
    }
    let larder = builder.connect().await?;
    let database = Database::open(&setting("DATABASE", ":memory:"))?;
    let mut products = larder.cache("product").ttl(Duration::from_secs(300)).ttl_jitter(0.1);
    if let Ok(bytes) = setting("NEAR_BYTES", "").parse() {
        products = products.near(Near::bytes(bytes));
    }
    let service = Service {
        larder: larder.clone(),
        products: products.build()?,
        database: database.clone(),
        metrics: prometheus.clone(),
    };

    let per_minute = setting("PER_MINUTE", "30").parse()?;
    let limiter = larder
        .rate_limiter("api", [Quota::per_second(10), Quota::per_minute(per_minute)])?
        // In an outage of the server the service goes on: each of two instances grants half of the limit itself.
        .outage(OutagePolicy::LocalShare(2))?;
    let proxies = setting("TRUSTED_PROXIES", "");
    let clients = ClientIp::new().peer(peer).trust(proxies.split(',').filter(|proxy| !proxy.is_empty()))?;
    let limit = RateLimitLayer::new(limiter, clients)
        .skip(|request| ["/stats", "/metrics", "/health"].contains(&request.uri().path()));

    let app = Router::new()
        .route("/products/{id}", get(product).post(reprice))
        .route("/report", get(report))
        .route("/stats", get(stats))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .layer(limit)
        .with_state(service);

    let nightly =
        tokio::spawn(nightly_job(larder.clone(), database, setting("JOB_EVERY_MS", "3600000").parse()?));
    let upkeep = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            prometheus.run_upkeep();
        }
    });
    let address: IpAddr = setting("ADDRESS", "127.0.0.1").parse()?;
    let listener = TcpListener::bind((address, setting("PORT", "3000").parse()?)).await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    // Wait until the job has let go of its lock, so that `close` can release it.
    nightly.abort();
    upkeep.abort();
    let _ = nightly.await;
    larder.close().await?;
    Ok(())
}

/// Makes a recorder whose histograms have buckets, and installs it for the whole program.
fn recorder() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (metric, buckets) in larder::metrics::buckets() {
        builder = builder.set_buckets_for_metric(Matcher::Full((*metric).to_owned()), buckets)?;
    }
    builder.install_recorder()
}

fn peer(request: &RequestHead<'_>) -> Option<IpAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
}

async fn product(State(service): State<Service>, Path(id): Path<u32>) -> Result<Response, Failure> {
    let database = service.database.clone();
    // The cached type is an `Option`: a product that does not exist is cached, too.
    match service.products.get_or_load(id, move || database.product(id)).await? {
        Some(product) => Ok(json(&product)),
        None => Ok(StatusCode::NOT_FOUND.into_response()),
    }
}

#[derive(Deserialize)]
struct Price {
    cents: u32,
}

async fn reprice(
    State(service): State<Service>,
    Path(id): Path<u32>,
    Query(price): Query<Price>,
) -> Result<StatusCode, Failure> {
    service.database.clone().reprice(id, price.cents).await?;
    // Invalidate after the commit: a load that read the old price can then no longer store it. If the server is away,
    // `or_queue` sends the invalidation later, so that the client does not get a 503 for a price that was written.
    service.products.delete(id).or_queue().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Runs one at a time, of all instances: the callers wait in a queue. A dropped request gives its place or permit back.
async fn report(State(service): State<Service>) -> Result<Response, Failure> {
    let permit = service.larder.semaphore("report", 1).acquire_within(Duration::from_secs(5)).await?;
    let products = service.database.clone().count().await;
    permit.release().await?;
    Ok(json(&serde_json::json!({ "products": products? })))
}

async fn stats(State(service): State<Service>) -> Response {
    let counted = &service.database.counted;
    json(&serde_json::json!({
        "queries": counted.queries.load(Ordering::Relaxed),
        "jobs": counted.jobs.load(Ordering::Relaxed),
    }))
}

/// What Prometheus scrapes.
async fn metrics(State(service): State<Service>) -> String {
    service.metrics.render()
}

/// The state of the connections. This service works without its server, so an orchestrator must not stop it for that:
/// the answer is always 200.
async fn health(State(service): State<Service>) -> Response {
    json(&service.larder.health())
}

/// Runs the job once in each period, on the first instance that asks; the other instances skip it.
async fn nightly_job(larder: Larder, database: Database, every_ms: u64) {
    let every = Duration::from_millis(every_ms);
    let nightly = larder.job("nightly").every(every).ttl(Duration::from_secs(60));
    let mut times = tokio::time::interval(every);
    loop {
        times.tick().await;
        let run = nightly.run(async |_| {
            database.counted.jobs.fetch_add(1, Ordering::Relaxed);
            Ok::<_, String>(())
        });
        match run.await {
            Ok(JobRun::Ran(Err(error))) => eprintln!("the nightly job: {error}"),
            Ok(_) => {}
            Err(error) => eprintln!("the nightly job waits for the server: {error}"),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// SQLite blocks its thread, so each query runs on a thread for blocking work.
#[derive(Clone)]
struct Database {
    connection: Arc<Mutex<Connection>>,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Counted {
    queries: AtomicU64,
    jobs: AtomicU64,
}

impl Database {
    fn open(path: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS product (id INTEGER PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL);
             INSERT OR IGNORE INTO product VALUES (7, 'a jar of honey', 650), (8, 'a wheel of cheese', 4200);",
        )?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), counted: Arc::default() })
    }

    async fn product(self, id: u32) -> Result<Option<Product>, String> {
        self.run(move |connection| {
            let row = |row: &rusqlite::Row<'_>| Ok(Product { id, name: row.get(0)?, cents: row.get(1)? });
            connection.query_row("SELECT name, cents FROM product WHERE id = ?1", [id], row).optional()
        })
        .await
    }

    async fn count(self) -> Result<u32, String> {
        self.run(|connection| connection.query_row("SELECT count(*) FROM product", [], |row| row.get(0)))
            .await
    }

    async fn reprice(self, id: u32, cents: u32) -> Result<usize, String> {
        self.run(move |connection| {
            connection.execute("UPDATE product SET cents = ?2 WHERE id = ?1", params![id, cents])
        })
        .await
    }

    async fn run<T: Send + 'static>(
        self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        self.counted.queries.fetch_add(1, Ordering::Relaxed);
        let work = move || query(&self.connection.lock().unwrap_or_else(PoisonError::into_inner));
        let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
        done.map_err(|error| error.to_string())
    }
}

/// The response to a request that failed: 503 if the client should try again, else 500.
struct Failure(StatusCode, String);

impl From<larder::Error> for Failure {
    fn from(error: larder::Error) -> Self {
        let status = if error.is_retryable() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self(status, error.to_string())
    }
}

impl From<LoadError<String>> for Failure {
    fn from(error: LoadError<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        eprintln!("{}", self.1);
        self.0.into_response()
    }
}
