//! The program that docs/from/moka.md starts from. A test of xtask compares it with the page.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

fn users() -> Cache<u64, Arc<String>> {
    Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(600)).build()
}

async fn user(cache: &Cache<u64, Arc<String>>, db: &Db, id: u64) -> Result<Arc<String>, Arc<DbError>> {
    cache.try_get_with(id, db.user(id)).await
}

// What the page leaves out.
type DbError = std::io::Error;

struct Db;

impl Db {
    async fn user(&self, id: u64) -> Result<Arc<String>, DbError> {
        Ok(Arc::new(format!("user {id}")))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Arc<DbError>> {
    let users = users();
    println!("{}", user(&users, &Db, 7).await?);
    Ok(())
}
