//! The near tier: hits in this process, and a write by a second program that is seen here at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::{Cache, Larder, Near};

use crate::catalogue::{Catalogue, Product};
use crate::{Outcome, bar, heading, micros};

const READS: u32 = 20_000;

pub(crate) async fn near(larder: &Larder, url: &str, catalogue: &Catalogue) -> Outcome {
    heading("Near: decoded values in this process, in step with the server");
    let far: Cache<Arc<Product>> = larder.cache("far").ttl(Duration::from_secs(600)).build()?;
    let near: Cache<Arc<Product>> =
        larder.cache("near").ttl(Duration::from_secs(600)).near(Near::bytes(16 << 20)).build()?;
    let product = Arc::new(catalogue.product(42).await?);
    far.set(42, &product).await?;
    near.set(42, &product).await?;
    let store = mean(&far, READS / 10).await?;
    let process = mean(&near, READS).await?;
    println!("from the store      {store:>9.3} µs  {}", bar(store, store));
    println!("from this process   {process:>9.3} µs  {}", bar(process, store));

    if url == "memory:" {
        println!("(on a server, a second program's write would be shown here)");
        return Ok(());
    }
    let second = Larder::builder().url(url).namespace("larder-tour").connect().await?;
    let theirs: Cache<Arc<Product>> = second.cache("near").ttl(Duration::from_secs(600)).build()?;
    let changed = Arc::new(Product { cents: product.cents + 1, ..(*product).clone() });
    let since = Instant::now();
    theirs.set(42, &changed).await?;
    let answered = since.elapsed();
    while near.get(42).await?.is_none_or(|seen| seen.cents != changed.cents) {
        tokio::task::yield_now().await;
    }
    println!(
        "another program sets it: answered after {:.0} µs, seen here after {:.0} µs",
        micros(answered),
        micros(since.elapsed())
    );
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
