//! Cache-aside on SQLite: read through, write, invalidate after the commit, and survive an origin that fails.
//!
//! ```sh
//! cargo run --release --example cache_aside
//! LARDER_URL=redis://127.0.0.1:6379 cargo run --release --example cache_aside
//! ```

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder::{Cache, Larder, LoadContext};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Author {
    id: u32,
    name: String,
    genre: String,
}

/// The origin. SQLite blocks, so each query gets a thread of its own.
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

/// A repository: the one place that knows both the database and the cache.
struct Library {
    authors: Authors,
    cache: Cache<Author>,
}

impl Library {
    async fn author(&self, id: u32) -> Result<Option<Author>, Box<dyn Error>> {
        let authors = self.authors.clone();
        let load = move |cx: LoadContext<Author>| async move {
            let author = authors.find(id).await?;
            if let Some(author) = &author {
                // Known only from the row: whoever changes a genre invalidates its tag.
                cx.tag(format!("genre:{}", author.genre));
            }
            Ok::<_, rusqlite::Error>(author)
        };
        Ok(self.cache.get_or_load_optional(id, load).await?)
    }

    async fn rename(&self, id: u32, name: &'static str) -> Result<(), Box<dyn Error>> {
        self.authors.rename(id, name).await?;
        // After the commit: a loader that read before it can no longer store what it read.
        self.cache.delete(id).or_queue().await?;
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
        .ttl_jitter(0.1)
        .stale_for(Duration::from_secs(3600))
        .negative_ttl(Duration::from_secs(10))
        .build()?;
    let library = Library { authors: Authors::open()?, cache };
    library.cache.clear().await?;

    let show = |author: Option<Author>| author.map_or("nobody".to_owned(), |author| author.name);
    println!("the first read loads:");
    println!("author 1: {}", show(library.author(1).await?));
    println!("the second does not:");
    println!("author 1: {}", show(library.author(1).await?));
    println!("what does not exist is remembered, too:");
    println!("author 9: {}", show(library.author(9).await?));
    println!("author 9: {}", show(library.author(9).await?));
    println!("a write invalidates, and the next read loads:");
    library.rename(1, "Ursula K.").await?;
    println!("author 1: {}", show(library.author(1).await?));
    println!("a tag voids every author of a genre:");
    larder.tag("genre:fantasy").invalidate().await?;
    println!("author 1: {}", show(library.author(1).await?));

    let stats = larder.stats().caches.remove("author").unwrap_or_default();
    println!("{} hits, {} misses, {} loads", stats.hits, stats.misses, stats.loads);
    larder.close().await?;
    Ok(())
}
