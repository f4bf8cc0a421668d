//! Traces through OpenTelemetry: two requests that share one load, sent to a collector by OTLP over HTTP.
//!
//! ```sh
//! docker run --rm -p 4318:4318 -p 16686:16686 docker.io/jaegertracing/jaeger:2.9.0
//! cargo run -p larder-examples --features otlp --example otlp
//! # both requests got "a jar of honey" from one query
//! # 4 spans sent to http://localhost:4318: see the service "shop"
//! ```
//!
//! In the collector the first request contains the load, and the load contains its query:
//!
//! ```text
//! GET /products/7                the request that leads the load
//! └─ cache.load                  cache=product outcome=loaded waiters=2
//!    └─ SELECT                   what the loader does
//! GET /products/7                the request that waits: a link leads to cache.load
//! ```
//!
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names another collector.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use larder::{Cache, Larder};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::Barrier;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, info_span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    // The exporter sends on a thread of its own, so it is made and shut down outside the runtime.
    let provider = traces()?;
    let result = requests();
    provider.shutdown()?;
    result?;
    let collector = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT");
    let collector = collector.unwrap_or_else(|_| "http://localhost:4318".to_owned());
    println!("4 spans sent to {collector}: see the service \"shop\"");
    Ok(())
}

/// Sends the spans of this program and of larder to the collector.
fn traces() -> Outcome<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_http().build()?;
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("shop").build())
        .with_batch_exporter(exporter)
        .build();
    // Without a filter the exporter's own HTTP client would be traced as well.
    let ours = Targets::new().with_target("otlp", LevelFilter::INFO).with_target("larder", LevelFilter::INFO);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("shop")).with_filter(ours);
    tracing_subscriber::registry().with(layer).try_init()?;
    Ok(provider)
}

#[tokio::main(flavor = "current_thread")]
async fn requests() -> Outcome<()> {
    let larder = Larder::connect("memory:").await?;
    let products = larder.cache::<String>("product").ttl(Duration::from_secs(60)).build()?;
    // The query ends when both requests are here, so that one of them waits for the other's load.
    let both = Arc::new(Barrier::new(2));
    let (first, second) = tokio::join!(
        request(&products, both.clone()).instrument(info_span!("GET /products/7")),
        async {
            let second = request(&products, both.clone());
            let (name, _) = tokio::join!(second, both.wait());
            name
        }
        .instrument(info_span!("GET /products/7")),
    );
    assert_eq!(first?, second?);
    println!("both requests got \"a jar of honey\" from one query");
    larder.close().await?;
    Ok(())
}

async fn request(products: &Cache<String>, both: Arc<Barrier>) -> Outcome<String> {
    let load = products.get_or_load(7, move || {
        let query = async move {
            both.wait().await;
            Ok::<_, std::io::Error>("a jar of honey".to_owned())
        };
        query.instrument(info_span!("SELECT"))
    });
    Ok(load.await?)
}
