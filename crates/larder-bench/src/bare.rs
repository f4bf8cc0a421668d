//! The baseline: the driver alone, used as a careful program would use it.
//!
//! One multiplexed connection without Nagle's delay, with a response timeout and with a queue as long as larder's; the
//! same protocol; serde_json; a key built for each operation. It does not classify errors, reconnect, keep statistics
//! or compute checksums: the ratio shows the cost of everything that larder does beyond this.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, cmd};

use crate::item::Item;
use crate::lane::{Complete, Contender, Outcome};
use crate::ours::TTL;

#[derive(Clone)]
pub(crate) struct Bare {
    connection: MultiplexedConnection,
}

impl Bare {
    pub(crate) async fn connect(url: &str) -> Outcome<Self> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info =
            info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_pipeline_buffer_size(1024);
        let connection = Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection })
    }

    pub(crate) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }
}

fn name(id: u64) -> String {
    format!("bare:{id}")
}

fn decode(bytes: Option<Vec<u8>>) -> Outcome<Option<Item>> {
    bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(Into::into)
}

impl Contender for Bare {
    async fn get(&mut self, id: u64) -> Outcome<Option<Item>> {
        decode(cmd("GET").arg(name(id)).query_async(&mut self.connection).await?)
    }

    async fn set(&mut self, id: u64, item: &Item) -> Outcome<()> {
        let json = serde_json::to_vec(item)?;
        let mut command = cmd("SET");
        command.arg(name(id)).arg(json).arg("PX").arg(TTL.as_secs() * 1000);
        command.query_async(&mut self.connection).await.map_err(Into::into)
    }
}

impl Complete for Bare {
    async fn exists(&mut self, id: u64) -> Outcome<bool> {
        cmd("EXISTS").arg(name(id)).query_async(&mut self.connection).await.map_err(Into::into)
    }

    async fn delete(&mut self, id: u64) -> Outcome<bool> {
        cmd("UNLINK").arg(name(id)).query_async(&mut self.connection).await.map_err(Into::into)
    }

    async fn get_many(&mut self, ids: impl Iterator<Item = u64> + Send) -> Outcome<Vec<Option<Item>>> {
        let mut command = cmd("MGET");
        for id in ids {
            command.arg(name(id));
        }
        let stored: Vec<Option<Vec<u8>>> = command.query_async(&mut self.connection).await?;
        stored.into_iter().map(decode).collect()
    }
}
