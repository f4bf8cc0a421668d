//! A real SQLite database of 10,000 products. The first run creates it, and it counts the queries that reach it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

pub(crate) const PRODUCTS: u32 = 10_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) shelf: String,
    pub(crate) cents: u32,
    pub(crate) description: String,
}

#[derive(Clone)]
pub(crate) struct Catalogue {
    connection: Arc<Mutex<Connection>>,
    queries: Arc<AtomicU64>,
}

impl Catalogue {
    /// Opens the database in the build folder, and creates it if it is not there.
    pub(crate) fn open() -> Result<Self, Box<dyn std::error::Error>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tour");
        std::fs::create_dir_all(&folder)?;
        let path = folder.canonicalize()?.join("catalogue.sqlite");
        let mut connection = Connection::open(&path)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS product (
                 id INTEGER PRIMARY KEY, name TEXT NOT NULL, shelf TEXT NOT NULL,
                 cents INTEGER NOT NULL, description TEXT NOT NULL
             )",
        )?;
        let rows: u32 = connection.query_row("SELECT count(*) FROM product", [], |row| row.get(0))?;
        if rows != PRODUCTS {
            fill(&mut connection)?;
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)), queries: Arc::default() })
    }

    /// Runs one query. SQLite blocks its thread, so the query runs on a thread for blocking work.
    pub(crate) async fn product(&self, id: u32) -> Result<Product, QueryError> {
        let catalogue = self.clone();
        tokio::task::spawn_blocking(move || catalogue.query(id)).await.map_err(|_| QueryError::Interrupted)?
    }

    pub(crate) fn queries(&self) -> u64 {
        self.queries.load(Ordering::SeqCst)
    }

    fn query(&self, id: u32) -> Result<Product, QueryError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        self.queries.fetch_add(1, Ordering::SeqCst);
        let mut statement = connection
            .prepare_cached("SELECT id, name, shelf, cents, description FROM product WHERE id = ?1")?;
        let found = statement.query_row(params![id], |row| {
            Ok(Product {
                id: row.get(0)?,
                name: row.get(1)?,
                shelf: row.get(2)?,
                cents: row.get(3)?,
                description: row.get(4)?,
            })
        });
        found.optional()?.ok_or(QueryError::NoSuchProduct(id))
    }
}

#[derive(Debug)]
pub(crate) enum QueryError {
    NoSuchProduct(u32),
    Sqlite(rusqlite::Error),
    Interrupted,
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl std::fmt::Display for QueryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchProduct(id) => write!(f, "there is no product {id}"),
            Self::Sqlite(error) => error.fmt(f),
            Self::Interrupted => f.write_str("the query was interrupted"),
        }
    }
}

impl std::error::Error for QueryError {}

fn fill(connection: &mut Connection) -> rusqlite::Result<()> {
    const KINDS: [&str; 8] = ["flour", "honey", "rice", "olives", "tea", "beans", "figs", "salt"];
    const MAKERS: [&str; 5] = ["Mill Lane", "Old Orchard", "Harbour", "Stone Oven", "Green Hill"];
    let transaction = connection.transaction()?;
    transaction.execute("DELETE FROM product", [])?;
    {
        let mut insert = transaction.prepare("INSERT INTO product VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let pick = |list: &[&'static str], at: usize| {
            list.iter().cycle().nth(at % list.len()).copied().unwrap_or("")
        };
        for id in 1..=PRODUCTS {
            let at = id as usize;
            let (kind, maker) = (pick(&KINDS, at), pick(&MAKERS, at / KINDS.len()));
            let description = format!("{maker}'s {kind}, batch {id}. Keep cool, dry and dark. ").repeat(8);
            let shelf = format!("{kind}-{}", at % 40);
            insert.execute(params![
                id,
                format!("{maker} {kind} no. {id}"),
                shelf,
                100 + id * 7 % 900,
                description
            ])?;
        }
    }
    transaction.commit()
}
