//! The basic operations of a cache on a server: set, get, exists, delete, a time to live, and many keys at once.
//!
//! ```sh
//! ./redis-management.sh start
//! cargo run --example basic
//! ```
//!
//! Set `LARDER_URL` to use another server, or to `memory:` to run without one. It prints:
//!
//! ```text
//! get 123      Some(User { name: "Ann", email: "ann@example.org" })
//! exists 123   true
//! kept for     3599.999s
//! delete 123   true
//! get 123      None
//! get short    Some("Ann")
//! 150 ms later None
//! get_many     [Some("Bob"), None, Some("Ann")]
//! ```

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

    // A cache has a name, a type of values, and a time after which a value expires.
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

    // A single value may have a different time to live.
    users.set("short", &ann).ttl(Duration::from_millis(100)).await?;
    println!("get short    {:?}", users.get("short").await?.map(|user| user.name));
    tokio::time::sleep(Duration::from_millis(150)).await;
    println!("150 ms later {:?}", users.get("short").await?.map(|user| user.name));

    // Many keys at once take one round trip. The results are in the order of the keys.
    let bob = User { name: "Bob".into(), email: "bob@example.org".into() };
    users.set_many([("ann", &ann), ("bob", &bob)]).await?;
    let found = users.get_many(["bob", "carol", "ann"]).await?;
    println!(
        "get_many     {:?}",
        found.iter().map(|user| user.as_ref().map(|user| &user.name)).collect::<Vec<_>>()
    );
    users.delete_many(["ann", "bob"]).await?;

    larder.close().await
}
