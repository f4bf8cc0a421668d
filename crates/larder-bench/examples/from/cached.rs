//! The program that docs/from/cached.md starts from. A test of xtask compares it with the page.
//!
//! It needs a server, whose URL is in `CACHED_REDIS_CONNECTION_STRING`.

use cached::macros::concurrent_cached;

#[concurrent_cached(redis = true, ttl_secs = 60, map_error = |error| DbError(format!("{error:?}")))]
async fn user(id: u64) -> Result<String, DbError> {
    find_user(id).await
}

// What the page leaves out.
#[derive(Debug, Clone)]
struct DbError(#[expect(dead_code, reason = "shown")] String);

async fn find_user(id: u64) -> Result<String, DbError> {
    Ok(format!("user {id}"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), DbError> {
    println!("{}", user(7).await?);
    Ok(())
}
