//! The near tier: hits in this process, and a write by a second program that is seen here at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::{Cache, Larder, Near};

use crate::catalogue::{Catalogue, Product};
use crate::{Outcome, micros, result, step};

const READS: u32 = 20_000;

pub(crate) async fn near(larder: &Larder, url: &str, catalogue: &Catalogue) -> Outcome {
    step("Popular products are kept in this process as well.");
    let far: Cache<Arc<Product>> = larder.cache("far").ttl(Duration::from_secs(600)).build()?;
    let near: Cache<Arc<Product>> =
        larder.cache("near").ttl(Duration::from_secs(600)).near(Near::bytes(16 << 20)).build()?;
    let product = Arc::new(catalogue.product(42).await?);
    far.set(42, &product).await?;
    near.set(42, &product).await?;
    let store = mean(&far, READS / 10).await?;
    let process = mean(&near, READS).await?;
    result(format!("A read takes {process:.2} µs in place of {store:.2} µs."));

    if url == "memory:" {
        // A second program cannot share the embedded store.
        return Ok(());
    }
    step("Another program changes the price of one of them.");
    let second = Larder::builder().url(url).namespace("larder-tour").connect().await?;
    let theirs: Cache<Arc<Product>> = second.cache("near").ttl(Duration::from_secs(600)).build()?;
    let changed = Arc::new(Product { cents: product.cents + 1, ..(*product).clone() });
    let since = Instant::now();
    theirs.set(42, &changed).await?;
    while near.get(42).await?.is_none_or(|seen| seen.cents != changed.cents) {
        tokio::task::yield_now().await;
    }
    result(format!("This process sees the new price after {:.0} µs.", micros(since.elapsed())));
    second.close().await?;
    Ok(())
}

async fn mean(products: &Cache<Arc<Product>>, reads: u32) -> Result<f64, larder::Error> {
    products.get(42).await?;
    let since = Instant::now();
    for _ in 0..reads {
        products.get(42).await?;
    }
    Ok(micros(since.elapsed() / reads))
}
