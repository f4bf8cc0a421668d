//! Cache-aside on SQLite, with `#[larder::cached]`: load what is missing, remember what does not exist, and invalidate
//! after each write, by key and by tag.
//!
//! ```sh
//! cargo run --release --example cache_aside
//! LARDER_URL=redis://127.0.0.1:6379 cargo run --release --example cache_aside
//! ```
//!
//! Each `SQLite:` line is a query that reaches the database:
//!
//! ```text
//! the first read loads:
//!     SQLite: SELECT author 1
//! author 1: Ursula
//! the second does not:
//! author 1: Ursula
//! an author who does not exist is remembered, too:
//!     SQLite: SELECT author 9
//! author 9: no such author
//! author 9: no such author
//! a write invalidates, and the next read loads:
//!     SQLite: UPDATE author 1
//!     SQLite: SELECT author 1
//! author 1: Ursula K.
//! a tag invalidates every author of a genre:
//!     SQLite: SELECT author 1
//! author 1: Ursula K.
//! 1 hits, 5 misses, 4 loads
//! ```

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder::{Cache, Larder, LoadError};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Author {
    id: u32,
    name: String,
    genre: String,
}

/// The origin. SQLite blocks its thread, so each query runs on a thread for blocking work.
#[derive(Clone)]
struct Authors(Arc<Mutex<Connection>>);

impl Authors {
    fn open() -> rusqlite::Result<Self> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(
            "CREATE TABLE author (id INTEGER PRIMARY KEY, name TEXT NOT NULL, genre TEXT NOT NULL);
             INSERT INTO author VALUES (1, 'Ursula', 'fantasy'), (2, 'Stanisław', 'science fiction'), (3, 'Tove', 'children');",
        )?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    async fn find(&self, id: u32) -> rusqlite::Result<Option<Author>> {
        println!("    SQLite: SELECT author {id}");
        self.query(move |connection| {
            let mut statement = connection.prepare_cached("SELECT name, genre FROM author WHERE id = ?1")?;
            let author = |row: &rusqlite::Row<'_>| Ok(Author { id, name: row.get(0)?, genre: row.get(1)? });
            statement.query_row(params![id], author).optional()
        })
        .await
    }

    async fn rename(&self, id: u32, name: &'static str) -> rusqlite::Result<usize> {
        println!("    SQLite: UPDATE author {id}");
        self.query(move |connection| {
            connection.execute("UPDATE author SET name = ?2 WHERE id = ?1", params![id, name])
        })
        .await
    }

    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let connection = self.0.clone();
        let run = move || query(&connection.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(run).await.unwrap_or(Err(rusqlite::Error::InvalidQuery))
    }
}

/// The repository: the only code that uses both the database and the cache. A load gets a clone of it.
#[derive(Clone)]
struct Library {
    authors: Authors,
    cache: Cache<Author>,
}

impl Library {
    // Only the loaded row says which genre it is. A later write to the genre invalidates the tag.
    #[larder::cached(
        cache = self.cache, key = id,
        tags_of = |author| author.iter().map(|author| format!("genre:{}", author.genre)),
    )]
    async fn author(&self, id: u32) -> Result<Option<Author>, LoadError<rusqlite::Error>> {
        self.authors.find(id).await
    }

    async fn rename(&self, id: u32, name: &'static str) -> Result<(), Box<dyn Error>> {
        self.authors.rename(id, name).await?;
        // Invalidate after the commit, not before. A loader that read the old row can then no longer store it.
        // `or_queue` keeps the invalidation for later if the server is away.
        self.cache.delete(self.author_key(id)).or_queue().await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("LARDER_URL").unwrap_or_else(|_| "memory:".to_owned());
    let larder = Larder::builder().url(&url).namespace("larder-example").connect().await?;
    let cache = larder
        .cache("author")
        .ttl(Duration::from_secs(300))
        // Entries that are stored together do not expire together.
        .ttl_jitter(0.1)
        // If a load fails, an expired value is served for up to an hour.
        .stale_for(Duration::from_secs(3600))
        // How long a known absence is kept.
        .negative_ttl(Duration::from_secs(10))
        .build()?;
    let library = Library { authors: Authors::open()?, cache };
    library.cache.clear().await?;

    let show = |author: Option<Author>| author.map_or("no such author".to_owned(), |author| author.name);
    println!("the first read loads:");
    println!("author 1: {}", show(library.author(1).await?));
    println!("the second does not:");
    println!("author 1: {}", show(library.author(1).await?));
    println!("an author who does not exist is remembered, too:");
    println!("author 9: {}", show(library.author(9).await?));
    println!("author 9: {}", show(library.author(9).await?));
    println!("a write invalidates, and the next read loads:");
    library.rename(1, "Ursula K.").await?;
    println!("author 1: {}", show(library.author(1).await?));
    println!("a tag invalidates every author of a genre:");
    larder.tag("genre:fantasy").invalidate().await?;
    println!("author 1: {}", show(library.author(1).await?));

    let stats = larder.stats().caches.remove("author").unwrap_or_default();
    println!("{} hits, {} misses, {} loads", stats.hits, stats.misses, stats.loads);
    larder.close().await?;
    Ok(())
}
