//! The program that docs/from/rslock.md starts from. A test of xtask compares it with the page.
//!
//! It needs three servers.

use std::time::Duration;

use rslock::{LockError, LockManager};

async fn nightly() -> Result<(), LockError> {
    let locks = LockManager::new(vec!["redis://10.0.0.1/", "redis://10.0.0.2/", "redis://10.0.0.3/"]);
    let guard = locks.acquire("report", Duration::from_secs(10)).await?;
    report().await;
    guard.release().await;
    Ok(())
}

// What the page leaves out.
async fn report() {
    println!("reporting");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), LockError> {
    nightly().await
}
