//! A tour of larder on a real SQLite database: each section runs a feature and prints what happened.
//!
//! ```sh
//! cargo run --release --example tour
//! LARDER_URL=redis://127.0.0.1:6379 cargo run --release --example tour
//! ```
//!
//! The sections are: basic operations, a stampede on a cold key, 20,000 reads with few misses, the near tier, an origin
//! that fails, loading many keys, invalidation by tag, a lock handed over, work that runs once, elections and
//! read-write locks, rate limits, and larder's own counts. The output begins like this; times differ:
//!
//! ```text
//! ── Set, get, exists, delete ────────────
//! set 123, get 123    → Mill Lane olives no. 123
//! the same as stored  → yes
//! exists 123          → yes
//! delete 123          → yes
//! exists 123          → no
//! set for 20 ms       → gone after 20 ms
//!
//! ── 1,000 readers of one cold key ────────────
//! without larder   1000 queries reached SQLite,    22.4 ms
//! get_or_load         1 queries reached SQLite,     6.3 ms
//! ```

mod catalogue;
mod loading;
mod near;
mod once;

use std::error::Error;
use std::time::{Duration, Instant};

use catalogue::{Catalogue, PRODUCTS, Product};
use larder::limit::DecidedBy;
use larder::{Cache, Larder, Quota};

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let url = std::env::var("LARDER_URL").unwrap_or_else(|_| "memory:".to_owned());
    let larder = Larder::builder().url(&url).namespace("larder-tour").connect().await?;
    let (catalogue, path, made) = Catalogue::open()?;
    println!("larder's tour, on {}", if url == "memory:" { "the embedded store" } else { "a server" });
    println!(
        "The data: {PRODUCTS} products in SQLite, {} at\n{}",
        if made { "made just now" } else { "found" },
        path.display()
    );

    let products: Cache<Product> = larder.cache("product").ttl(Duration::from_secs(600)).build()?;
    basics(&products, &catalogue).await?;
    stampede(&products, &catalogue).await?;
    browsing(&products, &catalogue).await?;
    near::near(&larder, &url, &catalogue).await?;
    loading::failing_origin(&larder, &catalogue).await?;
    loading::many(&products, &catalogue).await?;
    loading::forgetting(&larder, &catalogue).await?;
    handover(&larder).await?;
    once::once(&larder).await?;
    limit(&larder).await?;
    counted(&larder);

    larder.close().await?;
    if url == "memory:" {
        println!("\nThe same program on a server: ./redis-management.sh start, then");
        println!("LARDER_URL=redis://127.0.0.1:6379 cargo run --release --example tour");
    }
    Ok(())
}

fn heading(text: &str) {
    println!("\n── {text} {}", "─".repeat(74usize.saturating_sub(text.chars().count())));
}

fn yes_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

async fn basics(products: &Cache<Product>, catalogue: &Catalogue) -> Outcome {
    heading("Set, get, exists, delete");
    let product = catalogue.product(123).await?;
    products.set(123, &product).await?;
    let found = products.get(123).await?;
    println!("set 123, get 123    → {}", found.as_ref().map_or("nothing", |product| &product.name));
    println!("the same as stored  → {}", yes_no(found.as_ref() == Some(&product)));
    println!("exists 123          → {}", yes_no(products.exists(123).await?));
    println!("delete 123          → {}", yes_no(products.delete(123).await?));
    println!("exists 123          → {}", yes_no(products.exists(123).await?));
    products.set(123, &product).ttl(Duration::from_millis(20)).await?;
    let since = Instant::now();
    while products.exists(123).await? {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("set for 20 ms       → gone after {} ms", since.elapsed().as_millis());
    Ok(())
}

async fn stampede(products: &Cache<Product>, catalogue: &Catalogue) -> Outcome {
    heading("1,000 readers of one cold key");
    let readers = 1000;
    let before = catalogue.queries();
    let since = Instant::now();
    let direct: Vec<_> = (0..readers)
        .map(|_| {
            let catalogue = catalogue.clone();
            tokio::spawn(async move { catalogue.product(777).await })
        })
        .collect();
    for reader in direct {
        reader.await??;
    }
    let (direct_queries, direct_time) = (catalogue.queries() - before, since.elapsed());

    products.delete(777).await?;
    let before = catalogue.queries();
    let since = Instant::now();
    let cached: Vec<_> = (0..readers)
        .map(|_| {
            let (products, catalogue) = (products.clone(), catalogue.clone());
            tokio::spawn(async move {
                products.get_or_load(777, move || async move { catalogue.product(777).await }).await
            })
        })
        .collect();
    for reader in cached {
        reader.await??;
    }
    let (cached_queries, cached_time) = (catalogue.queries() - before, since.elapsed());
    println!("without larder  {direct_queries:>5} queries reached SQLite, {:>7.1} ms", millis(direct_time));
    println!("get_or_load     {cached_queries:>5} queries reached SQLite, {:>7.1} ms", millis(cached_time));
    Ok(())
}

async fn browsing(products: &Cache<Product>, catalogue: &Catalogue) -> Outcome {
    heading("20,000 visits to the catalogue, most of them to the same few products");
    let before = catalogue.queries();
    let (mut hits, mut misses) = (Vec::new(), Vec::new());
    let mut dice = 42u64;
    for id in 1..=PRODUCTS {
        // Otherwise a second run on the same server would find the entries of the first.
        if id % 1000 == 1 {
            products.delete_many(id..(id + 1000).min(PRODUCTS + 1)).await?;
        }
    }
    for _ in 0..20_000 {
        let id = skewed(&mut dice);
        let loader = catalogue.clone();
        let queries = catalogue.queries();
        let since = Instant::now();
        let product = products.get_or_load(id, move || async move { loader.product(id).await }).await?;
        let taken = since.elapsed();
        if catalogue.queries() == queries {
            hits.push(taken)
        } else {
            misses.push(taken)
        }
        if product.id != id {
            return Err(format!("asked for product {id} and got {}", product.id).into());
        }
    }
    let queries = catalogue.queries() - before;
    println!("{queries} queries reached SQLite; {:.1} % were hits", 100.0 * hits.len() as f64 / 20_000.0);
    let (hit, miss) = (percentiles(&mut hits), percentiles(&mut misses));
    println!("            median      99 %");
    println!("hit    {:>8.1} µs {:>8.1} µs  {}", hit.0, hit.1, bar(hit.0, miss.0));
    println!("miss   {:>8.1} µs {:>8.1} µs  {}", miss.0, miss.1, bar(miss.0, miss.0));
    Ok(())
}

async fn handover(larder: &Larder) -> Outcome {
    heading("A lock, handed over between two workers");
    let lock = larder.lock("nightly-report").ttl(Duration::from_secs(10));
    let first = lock.acquire().await?;
    println!("worker A holds it, fence {}", first.fence());
    println!(
        "worker B tries     → {}",
        if lock.try_acquire().await?.is_some() { "has it too!" } else { "taken" }
    );
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move {
            let guard = lock.acquire().await?;
            Ok::<_, larder::Error>((guard.fence(), Instant::now(), guard.release().await?))
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let fence = first.fence();
    let released = Instant::now();
    first.release().await?;
    let (next, granted, _) = waiter.await??;
    println!(
        "A works for 200 ms and releases; B has it {:.1} ms later, fence {next}",
        millis(granted - released)
    );
    println!("the fence grew     → {}", yes_no(next > fence));
    Ok(())
}

async fn limit(larder: &Larder) -> Outcome {
    heading("Limits of 5 in 10 seconds and 100 in an hour against 10 requests");
    let limiter =
        larder.rate_limiter("tour", [Quota::new(5, Duration::from_secs(10)), Quota::per_hour(100)])?;
    // Each run uses a new key, so that a second run on the same server starts from zero.
    let visitor = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let mut known = 0;
    for request in 1..=10 {
        let decision = limiter.check(visitor).await?;
        known += u32::from(decision.decided_by() == DecidedBy::Refusal);
        match decision.retry_after() {
            None => println!("request {request:>2}: allowed, {} left", decision.remaining()),
            Some(wait) => println!("request {request:>2}: refused, try again in {:.2} s", wait.as_secs_f64()),
        }
    }
    println!("refused in this process, without asking the store: {known}");

    let mails = larder.rate_limiter("tour-mails", Quota::new(5, Duration::from_millis(200)))?;
    let since = Instant::now();
    for _ in 0..12 {
        if !mails.acquire(visitor, Duration::from_secs(10)).await?.is_allowed() {
            return Err("no turn within ten seconds".into());
        }
    }
    println!("12 turns at 5 in 200 ms took {:.0} ms", millis(since.elapsed()));
    Ok(())
}

fn counted(larder: &Larder) {
    heading("What larder counted");
    for (name, cache) in larder.stats().caches {
        let ratio = cache.hit_ratio().unwrap_or_default();
        println!(
            "cache {name}: {} hits, {} misses ({:.1} % hits), {} loads",
            cache.hits,
            cache.misses,
            100.0 * ratio,
            cache.loads
        );
        println!("{} KiB read, {} KiB written", cache.bytes_read / 1024, cache.bytes_written / 1024);
        for (operation, stats) in cache.operations {
            let mean = stats.mean_time().unwrap_or_default();
            println!("  {operation:<12} {:>6} calls, mean {:>8.1} µs", stats.count, micros(mean));
        }
    }
}

/// Draws a product's number; small numbers are drawn far more often than large ones.
fn skewed(dice: &mut u64) -> u32 {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let uniform = (*dice >> 11) as f64 / (1u64 << 53) as f64;
    // Zipf's law, continuous: as many draws between 1 and 10 as between 1,000 and 10,000.
    (f64::from(PRODUCTS).powf(uniform) as u32).clamp(1, PRODUCTS)
}

fn percentiles(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().map(micros).unwrap_or_default();
    (at(50), at(99))
}

fn bar(value: f64, most: f64) -> String {
    "█".repeat(((value / most * 36.0).round() as usize).max(1))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
