//! A lock whose holder pauses until its lease expires, and a SQLite table that uses fences to refuse its late write.
//!
//! ```sh
//! cargo run --release --example lock
//! LARDER_URL=redis://127.0.0.1:6379 cargo run --release --example lock
//! ```
//!
//! It prints (the word at the end of a line says whether the step succeeded):
//!
//! ```text
//! A holds the lock and reads 0
//! A is notified that it has lost the lock; its guard is valid: false
//! B, next in the queue, holds it; its fence is higher: true
//! B writes 20        → true
//! A, late, writes 10 → false
//! the total is 20
//! A cannot extend the lock that it lost: true
//! run: writes 30     → true
//! ```

use std::error::Error;
use std::time::Duration;

use larder::lock::Fence;
use larder::{ErrorKind, Larder};
use rusqlite::{Connection, params};

/// The data that the lock protects: a value, and the highest fence of a holder that has used it.
struct Report(Connection);

impl Report {
    fn open() -> rusqlite::Result<Self> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(
            "CREATE TABLE report (id INTEGER PRIMARY KEY, total INTEGER NOT NULL, fence INTEGER NOT NULL);
             INSERT INTO report VALUES (1, 0, 0);",
        )?;
        Ok(Self(connection))
    }

    /// Raises the fence without writing a value. Call it before the first read under a lock: from then on an older
    /// holder cannot write, so the value cannot change between this holder's read and its write.
    fn enter(&self, fence: Fence) -> rusqlite::Result<bool> {
        let entered = self.0.execute(
            "UPDATE report SET fence = ?1 WHERE id = 1 AND fence <= ?1",
            params![i64::try_from(fence.get()).unwrap_or(i64::MAX)],
        )?;
        Ok(entered == 1)
    }

    /// Writes the value, and returns whether it did: not if a newer holder has raised the fence.
    fn write(&self, total: i64, fence: Fence) -> rusqlite::Result<bool> {
        let written = self.0.execute(
            "UPDATE report SET total = ?1, fence = ?2 WHERE id = 1 AND fence <= ?2",
            params![total, i64::try_from(fence.get()).unwrap_or(i64::MAX)],
        )?;
        Ok(written == 1)
    }

    fn total(&self) -> rusqlite::Result<i64> {
        self.0.query_row("SELECT total FROM report WHERE id = 1", [], |row| row.get(0))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("LARDER_URL").unwrap_or_else(|_| "memory:".to_owned());
    let larder = Larder::connect(&url).await?;
    let report = Report::open()?;
    let lock = larder.lock("example-report").ttl(Duration::from_millis(200));

    // A takes the lock and reads. Then it pauses for longer than its lease, as if the operating system had stopped it.
    let a = lock.acquire().await?;
    report.enter(a.fence())?;
    let total = report.total()?;
    println!("A holds the lock and reads {total}");
    let lost = a.lost();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });

    lost.await;
    println!("A is notified that it has lost the lock; its guard is valid: {}", a.is_valid());
    let b = waiting.await??;
    println!("B, next in the queue, holds it; its fence is higher: {}", b.fence() > a.fence());
    report.enter(b.fence())?;
    println!("B writes 20        → {}", report.write(report.total()? + 20, b.fence())?);
    println!("A, late, writes 10 → {}", report.write(total + 10, a.fence())?);
    println!("the total is {}", report.total()?);
    let revived = a.extend(Duration::from_secs(10)).await;
    println!(
        "A cannot extend the lock that it lost: {}",
        revived.is_err_and(|error| error.kind() == ErrorKind::LockLost)
    );
    b.release().await?;

    // `run` does all this itself: it renews the lock while the body runs, and drops the body if the lock is lost.
    let fence = lock.run(|lease| async move { lease.fence() }).await?;
    println!("run: writes 30     → {}", report.write(30, fence)?);
    larder.close().await?;
    Ok(())
}
