//! An origin that fails, a loader of many keys, and invalidation by tag and by cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::{Cache, Larder, Source};

use crate::catalogue::{Catalogue, Product};
use crate::{Outcome, heading, yes_no};

pub(crate) async fn failing_origin(larder: &Larder, catalogue: &Catalogue) -> Outcome {
    heading("The origin fails: a stale value is better than none");
    let prices: Cache<Product> = larder
        .cache("price")
        .ttl(Duration::from_millis(30))
        .stale_for(Duration::from_secs(60))
        .negative_ttl(Duration::from_secs(5))
        .build()?;
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
    let first = load(7).entry().await?;
    println!("loaded              → {:?}, {} cents", first.source(), first.value().cents);
    while prices.get(7).await?.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    down.store(true, Ordering::SeqCst);
    let stale = load(7).entry().await?;
    println!("it has expired and the database is down → {:?}, {} cents", stale.source(), stale.value().cents);
    if stale.source() != Source::Stale {
        return Err("an expired value was not reported as stale".into());
    }
    println!(
        "a key never seen    → {}",
        load(8).await.err().map_or_else(String::new, |error| error.to_string())
    );
    Ok(())
}

pub(crate) async fn many(products: &Cache<Product>, catalogue: &Catalogue) -> Outcome {
    heading("Many keys, one loader for what is missing");
    let ids: Vec<u32> = (401..=408).collect();
    products.delete_many(ids.clone()).await?;
    products.set(403, &catalogue.product(403).await?).await?;
    let loader = {
        let catalogue = catalogue.clone();
        move |missing: Vec<u32>| {
            let catalogue = catalogue.clone();
            async move {
                println!("the loader is given → {missing:?}");
                let mut found = Vec::new();
                for id in missing {
                    found.push((id, catalogue.product(id).await?));
                }
                Ok::<_, crate::catalogue::QueryError>(found)
            }
        }
    };
    let found = products.get_or_load_many(ids.clone(), loader).await?;
    let names: Vec<&str> = found.iter().flatten().map(|product| product.shelf.as_str()).collect();
    println!("in order            → {}", names.join(" "));
    Ok(())
}

pub(crate) async fn forgetting(larder: &Larder, catalogue: &Catalogue) -> Outcome {
    heading("A tag, and a whole cache, invalidated by one write");
    let shelves: Cache<Product> = larder.cache("by-shelf").ttl(Duration::from_secs(600)).build()?;
    for id in 1..=1000 {
        shelves.set(id, &catalogue.product(id).await?).tag(if id % 2 == 0 { "even" } else { "odd" }).await?;
    }
    let there = async || Ok::<_, larder::Error>(shelves.get_many(1..=1000).await?.iter().flatten().count());
    println!("1,000 products      → {} found", there().await?);
    larder.tag("even").invalidate().await?;
    println!("invalidate \"even\"   → {} found", there().await?);
    println!("why not 2?          → {}", larder.explain("by-shelf:2").await?);
    shelves.clear().await?;
    println!("clear()             → {} found", there().await?);
    println!("1 exists            → {}", yes_no(shelves.exists(1).await?));
    Ok(())
}
