//! Loads: a stampede, an origin that fails, a loader of many keys, and invalidation by tag and by cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::{Cache, Larder, Source};

use crate::catalogue::{Catalogue, Product, QueryError};
use crate::{Outcome, result, step, yes_no};

pub(crate) async fn stampede(products: &Cache<Product>, catalogue: &Catalogue) -> Outcome {
    step("1,000 readers ask for a product that is not cached, at the same moment.");
    let before = catalogue.queries();
    let direct = (0..1000).map(|_| {
        let catalogue = catalogue.clone();
        tokio::spawn(async move { catalogue.product(777).await.map(drop) })
    });
    for reader in direct.collect::<Vec<_>>() {
        reader.await??;
    }
    let direct = catalogue.queries() - before;

    products.delete(777).await?;
    let before = catalogue.queries();
    let cached = (0..1000).map(|_| {
        let (products, catalogue) = (products.clone(), catalogue.clone());
        tokio::spawn(async move {
            products.get_or_load(777, move || async move { catalogue.product(777).await }).await.map(drop)
        })
    });
    for reader in cached.collect::<Vec<_>>() {
        reader.await??;
    }
    let cached = catalogue.queries() - before;
    result(format!("Without larder {direct} queries reach SQLite. With get_or_load {cached} does."));
    Ok(())
}

pub(crate) async fn failing_origin(larder: &Larder, catalogue: &Catalogue) -> Outcome {
    step("The database goes down, and a price in the cache has expired.");
    let prices: Cache<Product> =
        larder.cache("price").ttl(Duration::from_millis(30)).stale_for(Duration::from_secs(60)).build()?;
    prices.delete_many([7, 8]).await?;
    let down = Arc::new(AtomicBool::new(false));
    let load = |id: u32| {
        let (catalogue, down) = (catalogue.clone(), down.clone());
        prices.get_or_load(id, move || async move {
            if down.load(Ordering::SeqCst) {
                return Err("the database is down".to_owned());
            }
            catalogue.product(id).await.map_err(|error| error.to_string())
        })
    };
    load(7).await?;
    while prices.get(7).await?.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    down.store(true, Ordering::SeqCst);
    let stale = load(7).entry().await?;
    if stale.source() != Source::Stale {
        return Err("an expired value was not reported as stale".into());
    }
    let cents = stale.value().cents;
    result(format!("Readers get the old price, {cents} cents, and are told that it is stale."));

    step("A price that was never cached is wanted meanwhile.");
    let error = load(8).await.err().map(|error| error.to_string());
    result(format!("An error: {}", error.unwrap_or_default()));
    Ok(())
}

pub(crate) async fn many(products: &Cache<Product>, catalogue: &Catalogue) -> Outcome {
    step("Eight products are wanted at once, and one of them is cached.");
    let ids: Vec<u32> = (401..=408).collect();
    products.delete_many(ids.clone()).await?;
    products.set(403, &catalogue.product(403).await?).await?;
    let loader = {
        let catalogue = catalogue.clone();
        move |missing: Vec<u32>| {
            let catalogue = catalogue.clone();
            async move {
                let mut found = Vec::new();
                for id in missing {
                    found.push((id, catalogue.product(id).await?));
                }
                Ok::<_, QueryError>(found)
            }
        }
    };
    let before = catalogue.queries();
    let found = products.get_or_load_many(ids.clone(), loader).await?;
    let asked = catalogue.queries() - before;
    let in_order = found.iter().flatten().map(|product| product.id).eq(ids);
    result(format!(
        "One loader is asked for the other {asked}; the answers are in order: {}",
        yes_no(in_order)
    ));
    Ok(())
}

pub(crate) async fn invalidation(larder: &Larder, catalogue: &Catalogue) -> Outcome {
    step("1,000 products are cached, half of them with the tag `even`. The tag is invalidated.");
    let shelves: Cache<Product> = larder.cache("by-shelf").ttl(Duration::from_secs(600)).build()?;
    for id in 1..=1000 {
        let tag = if id % 2 == 0 { "even" } else { "odd" };
        shelves.set(id, &catalogue.product(id).await?).tag(tag).await?;
    }
    let left = async || Ok::<_, larder::Error>(shelves.get_many(1..=1000).await?.iter().flatten().count());
    larder.tag("even").invalidate().await?;
    result(format!("{} are left, after one command.", left().await?));
    step("The whole cache is cleared.");
    shelves.clear().await?;
    result(format!("{} are left, after one more.", left().await?));
    Ok(())
}
