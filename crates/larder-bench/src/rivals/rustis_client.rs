//! The driver `rustis`, with serde_json: one multiplexed connection with its defaults.

use rustis::client::Client;
use rustis::commands::{SetCondition, SetExpiration, StringCommands};
use rustis::resp::BulkString;

use crate::item::Item;
use crate::lane::{Contender, Outcome};
use crate::ours::TTL;

#[derive(Clone)]
pub(super) struct RustisClient {
    client: Client,
}

impl RustisClient {
    pub(super) async fn connect(url: &str) -> Outcome<Self> {
        Ok(Self { client: Client::connect(url).await? })
    }
}

impl Contender for RustisClient {
    async fn get(&mut self, id: u64) -> Outcome<Option<Item>> {
        let json: Option<BulkString> = self.client.get(format!("client:{id}")).await?;
        json.map(|json| serde_json::from_slice(json.as_bytes())).transpose().map_err(Into::into)
    }

    async fn set(&mut self, id: u64, item: &Item) -> Outcome<()> {
        let json = BulkString::from(serde_json::to_vec(item)?);
        let expiry = SetExpiration::Px(TTL.as_secs() * 1000);
        self.client.set_with_options(format!("client:{id}"), json, None::<SetCondition<'_>>, expiry).await?;
        Ok(())
    }
}
