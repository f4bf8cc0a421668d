//! Set, get, exists, delete and expiry on a server.
//!
//! ```sh
//! ./redis-management.sh start
//! cargo run --example basic
//! ```
//!
//! `LARDER_URL` names another server, or `memory:` for none.

use std::time::Duration;

use larder::{Cache, ErrorKind, Expiry, Larder};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct User {
    name: String,
    email: String,
}

#[tokio::main]
async fn main() -> larder::Result<()> {
    let url = std::env::var("LARDER_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let larder = match Larder::connect(&url).await {
        Err(error) if error.kind() == ErrorKind::Refused => {
            eprintln!("{error}\nStart a server with ./redis-management.sh start, or set LARDER_URL=memory:");
            std::process::exit(1);
        }
        connected => connected?,
    };

    // The type of the values and how long they are kept.
    let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(3600)).build()?;

    let ann = User { name: "Ann".into(), email: "ann@example.org".into() };
    users.set("123", &ann).await?;
    println!("get 123      {:?}", users.get("123").await?);
    println!("exists 123   {}", users.exists("123").await?);
    if let Some(Expiry::After(left)) = users.ttl("123").await? {
        println!("kept for     {left:?}");
    }
    println!("delete 123   {}", users.delete("123").await?);
    println!("get 123      {:?}", users.get("123").await?);

    // A value may have a time to live of its own.
    users.set("short", &ann).ttl(Duration::from_millis(100)).await?;
    println!("get short    {:?}", users.get("short").await?.map(|user| user.name));
    tokio::time::sleep(Duration::from_millis(150)).await;
    println!("150 ms later {:?}", users.get("short").await?.map(|user| user.name));

    // Many at once are one round trip.
    let bob = User { name: "Bob".into(), email: "bob@example.org".into() };
    users.set_many([("ann", &ann), ("bob", &bob)]).await?;
    let found = users.get_many(["bob", "nobody", "ann"]).await?;
    println!(
        "get_many     {:?}",
        found.iter().map(|user| user.as_ref().map(|user| &user.name)).collect::<Vec<_>>()
    );
    users.delete_many(["ann", "bob"]).await?;

    larder.close().await
}
