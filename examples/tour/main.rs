//! A tour of larder on a real SQLite database: each step does something, and says what happened.
//!
//! ```sh
//! cargo run --release --example tour
//! LARDER_URL=redis://127.0.0.1:6379 cargo run --release --example tour
//! ```
//!
//! It takes about a second and prints two screens (times and shares differ):
//!
//! ```text
//! larder's tour, on the embedded store, with 10,000 products in SQLite
//!
//! A product is stored, read and deleted.
//!    → It came back as it was stored; after the delete it is gone.
//! The same product is stored for 20 ms.
//!    → It is gone after 21 ms.
//! 1,000 readers ask for a product that is not cached, at the same moment.
//!    → Without larder 1000 queries reach SQLite. With get_or_load 1 does.
//! 20,000 visitors look at the catalogue, most of them at the same few products.
//!    → 77.5 % are served from the cache: in 1.4 µs, where a load takes 46.2 µs.
//! Popular products are kept in this process as well.
//!    → A read takes 0.09 µs in place of 1.03 µs.
//! The database goes down, and a price in the cache has expired.
//!    → Readers get the old price, 849 cents, and are told that it is stale.
//! A price that was never cached is wanted meanwhile.
//!    → An error: the loader failed: the database is down
//! Eight products are wanted at once, and one of them is cached.
//!    → One loader is asked for the other 7; the answers are in order: yes
//! 1,000 products are cached, half of them with the tag `even`. The tag is invalidated.
//!    → 500 are left, after one command.
//! The whole cache is cleared.
//!    → 0 are left, after one more.
//! Two workers want one lock. A holds it for 50 ms, and B waits.
//!    → B has it 0.05 ms after A's release. Its fence is higher: yes
//! One payment is sent twice.
//!    → It is charged 1 time; both callers get receipt 1.
//! Two clerks change the same version of a cart.
//!    → The first change is stored. The second is refused: yes
//! Two processes start the nightly job.
//!    → It runs 1 time.
//! A process stands for election; another watches.
//!    → The watcher saw no leader, and then: process A leads
//! Two readers hold a read-write lock, and a writer queues.
//!    → The writer may not enter: yes. When both have left it may: yes
//! One caller holds the locks of an invoice and a parcel, another wants parcel and stock.
//!    → The other gets neither: yes
//! Ten requests meet a limit of 5 in 10 seconds.
//!    → 5 pass and 5 are refused, 4 of them without asking the store.
//! Twelve mails wait for their turn, 5 in 200 ms.
//!    → The last is sent after 402 ms.
//!
//! In all: 21,009 reads of products, 73.8 % of them hits, and 4,509 loads.
//! ```

mod catalogue;
mod coordination;
mod loading;
mod near;

use std::error::Error;
use std::time::{Duration, Instant};

use catalogue::{Catalogue, PRODUCTS, Product};
use larder::{Cache, Larder};

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let url = std::env::var("LARDER_URL").unwrap_or_else(|_| "memory:".to_owned());
    let larder = Larder::builder().url(&url).namespace("larder-tour").connect().await?;
    let catalogue = Catalogue::open()?;
    let store = if url == "memory:" { "the embedded store" } else { "a server" };
    println!("larder's tour, on {store}, with 10,000 products in SQLite");

    let products: Cache<Product> = larder.cache("product").ttl(Duration::from_secs(600)).build()?;
    println!();
    basics(&products, &catalogue).await?;
    loading::stampede(&products, &catalogue).await?;
    browsing(&products, &catalogue).await?;
    near::near(&larder, &url, &catalogue).await?;
    loading::failing_origin(&larder, &catalogue).await?;
    loading::many(&products, &catalogue).await?;
    loading::invalidation(&larder, &catalogue).await?;
    coordination::handover(&larder).await?;
    coordination::once(&larder).await?;
    coordination::who_may_work(&larder).await?;
    coordination::limits(&larder).await?;
    println!();
    counted(&larder);

    larder.close().await?;
    Ok(())
}

/// Says what is done next.
fn step(what: &str) {
    println!("{what}");
}

/// Says what happened.
fn result(what: impl std::fmt::Display) {
    println!("   → {what}");
}

fn yes_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

async fn basics(products: &Cache<Product>, catalogue: &Catalogue) -> Outcome {
    step("A product is stored, read and deleted.");
    let product = catalogue.product(123).await?;
    products.set(123, &product).await?;
    let same = products.get(123).await?.as_ref() == Some(&product);
    let deleted = products.delete(123).await? && !products.exists(123).await?;
    if !same || !deleted {
        return Err("the product changed, or outlived its delete".into());
    }
    result("It came back as it was stored; after the delete it is gone.");

    step("The same product is stored for 20 ms.");
    products.set(123, &product).ttl(Duration::from_millis(20)).await?;
    let since = Instant::now();
    while products.exists(123).await? {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    result(format!("It is gone after {} ms.", since.elapsed().as_millis()));
    Ok(())
}

async fn browsing(products: &Cache<Product>, catalogue: &Catalogue) -> Outcome {
    step("20,000 visitors look at the catalogue, most of them at the same few products.");
    // Otherwise a second run on the same server would find the entries of the first.
    products.clear().await?;
    let (mut hits, mut misses) = (Vec::new(), Vec::new());
    let mut dice = 42u64;
    for _ in 0..20_000 {
        let id = skewed(&mut dice);
        let loader = catalogue.clone();
        let queries = catalogue.queries();
        let since = Instant::now();
        let product = products.get_or_load(id, move || async move { loader.product(id).await }).await?;
        let times = if catalogue.queries() == queries { &mut hits } else { &mut misses };
        times.push(since.elapsed());
        if product.id != id {
            return Err(format!("asked for product {id} and got {}", product.id).into());
        }
    }
    let share = 100.0 * hits.len() as f64 / 20_000.0;
    let (hit, miss) = (median(&mut hits), median(&mut misses));
    result(format!(
        "{share:.1} % are served from the cache: in {hit:.1} µs, where a load takes {miss:.1} µs."
    ));
    Ok(())
}

fn counted(larder: &Larder) {
    let stats = larder.stats().caches.remove("product").unwrap_or_default();
    let ratio = 100.0 * stats.hit_ratio().unwrap_or_default();
    let (reads, loads) = (thousands(stats.hits + stats.misses), thousands(stats.loads));
    println!("In all: {reads} reads of products, {ratio:.1} % of them hits, and {loads} loads.");
}

fn thousands(number: u64) -> String {
    let (high, low) = (number / 1000, number % 1000);
    if high == 0 { low.to_string() } else { format!("{high},{low:03}") }
}

/// Draws a product's number; small numbers are drawn far more often than large ones.
fn skewed(dice: &mut u64) -> u32 {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let uniform = (*dice >> 11) as f64 / (1u64 << 53) as f64;
    // Zipf's law, continuous: as many draws between 1 and 10 as between 1,000 and 10,000.
    (f64::from(PRODUCTS).powf(uniform) as u32).clamp(1, PRODUCTS)
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().map(micros).unwrap_or_default()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
