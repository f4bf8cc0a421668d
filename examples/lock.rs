//! A lock whose holder is paused past its time, and a SQLite table that refuses what such a holder writes late.
//!
//! ```sh
//! cargo run --release --example lock
//! LARDER_URL=redis://127.0.0.1:6379 cargo run --release --example lock
//! ```

use std::error::Error;
use std::time::Duration;

use larder::{ErrorKind, Larder};

use larder::lock::Fence;
use rusqlite::{Connection, params};

/// What the lock protects. Beside the value stands the highest fence that has written it.
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

    /// Raises the fence without writing: before the first read under a lock, so that no older holder writes between that
    /// read and the write which follows from it.
    fn enter(&self, fence: Fence) -> rusqlite::Result<bool> {
        let entered = self.0.execute(
            "UPDATE report SET fence = ?1 WHERE id = 1 AND fence <= ?1",
            params![i64::try_from(fence.get()).unwrap_or(i64::MAX)],
        )?;
        Ok(entered == 1)
    }

    /// Whether it was written: not where a newer holder has been here.
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

    // A holds the lock, reads, and is then paused for longer than the lock's time: by the operating system, say.
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
    println!("A is told that it has lost the lock: valid {}", a.is_valid());
    let b = waiting.await??;
    println!("B, next in line, holds it; its fence is higher: {}", b.fence() > a.fence());
    report.enter(b.fence())?;
    println!("B writes 20        → {}", report.write(report.total()? + 20, b.fence())?);
    println!("A, late, writes 10 → {}", report.write(total + 10, a.fence())?);
    println!("the total is {}", report.total()?);
    let revived = a.extend(Duration::from_secs(10)).await;
    println!(
        "A cannot extend what it lost: {}",
        revived.is_err_and(|error| error.kind() == ErrorKind::LockLost)
    );
    b.release().await?;

    // The same with a body that is renewed while it runs, and dropped when its lock is lost.
    let fence = lock.run(|lease| async move { lease.fence() }).await?;
    println!("run: written by fence {}", report.write(30, fence)?);
    larder.close().await?;
    Ok(())
}
