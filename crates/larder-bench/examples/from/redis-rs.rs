//! The program that docs/from/redis-rs.md starts from. A test of xtask compares it with the page.
//!
//! It needs a server on 127.0.0.1:6379.

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

async fn user(con: &mut MultiplexedConnection, db: &Db, id: u64) -> Result<User, Box<dyn std::error::Error>> {
    let key = format!("user:{id}");
    if let Some(json) = con.get::<_, Option<String>>(&key).await? {
        return Ok(serde_json::from_str(&json)?);
    }
    let user = db.user(id).await?;
    con.set_ex::<_, _, ()>(&key, serde_json::to_string(&user)?, 600).await?;
    Ok(user)
}

// What the page leaves out.
#[derive(serde::Serialize, serde::Deserialize)]
struct User {
    name: String,
}

struct Db;

impl Db {
    async fn user(&self, _: u64) -> Result<User, std::io::Error> {
        Ok(User { name: "Ann".to_owned() })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut con = redis::Client::open("redis://127.0.0.1:6379")?.get_multiplexed_async_connection().await?;
    println!("{}", user(&mut con, &Db, 7).await?.name);
    Ok(())
}
