//! A typed cache under a name: what a key means, how a value is kept, and who loads it.
//!
//! A [`Cache`] is a handle. What all handles of one name share (the loads under way, the counts) is one object of the
//! `Larder`; how values are written (time to live, format, sizes) belongs to the handle.

mod builder;
mod flight;
mod load;
mod load_error;
mod many;
mod single;
mod tag;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::{AnyCache, Context};
use crate::envelope::TagVersion;
use crate::error::{Error, Result};
use crate::key::{CacheKey, KeyText};
use crate::stats::CacheStats;
use crate::store::{Expiry, Store};
use crate::telemetry::CacheMeter;
use crate::value::{Decoded, Encoder, Stamp, decode};
pub use builder::CacheBuilder;
use flight::Flights;
pub use load::Load;
pub use load_error::LoadError;
pub use many::SetMany;
pub use single::Set;
pub use tag::Tag;

/// A typed cache. Made by [`Larder::cache`](crate::Larder::cache); cheap to clone, for any number of tasks.
///
/// A value that is dear to clone is best cached as `Arc<T>`.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Larder};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// struct User { name: String }
///
/// # async fn run() -> larder::Result<()> {
/// # let larder = Larder::connect("memory:").await?;
/// let users: Cache<User> = larder.cache("user").ttl(Duration::from_secs(3600)).build()?;
/// let ann = User { name: "Ann".into() };
///
/// users.set("123", &ann).await?;
/// assert_eq!(users.get("123").await?, Some(ann));
/// assert!(users.exists("123").await?);
/// assert!(users.delete("123").await?);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
pub struct Cache<V> {
    context: Arc<Context>,
    shared: Arc<Shared<V>>,
    policy: Arc<Policy>,
}

/// What all handles of one name share.
pub(crate) struct Shared<V> {
    name: String,
    meter: CacheMeter,
    flights: Flights<V>,
}

impl<V: Send + Sync + 'static> AnyCache for Shared<V> {
    fn stats(&self) -> CacheStats {
        self.meter.stats()
    }

    fn detach_tagged(&self, tag: &str) {
        self.flights.detach_tagged(tag);
    }
}

/// How one handle keeps its values.
#[derive(Debug)]
struct Policy {
    /// What every name begins with.
    prefix: String,
    expiry: Option<Expiry>,
    /// By how much of itself a time to live is shortened at most, from 0 to 1.
    jitter: f64,
    encoder: Encoder,
}

/// What a look at the store found.
enum Found<V> {
    Value(V),
    Nothing,
    /// Something that no reader can use, and what it was: damaged, foreign, or void since a tag was invalidated.
    Unusable(Bytes),
}

impl<V> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The name that the cache was built with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The key's whole name in the store.
    fn entry(&self, key: impl CacheKey) -> Result<String> {
        // Most keys are a number or a UUID.
        let mut name = String::with_capacity(self.policy.prefix.len() + 36);
        name.push_str(&self.policy.prefix);
        key.write(&mut KeyText::new(&mut name));
        self.context.limits.check_key(&name)?;
        Ok(name)
    }

    /// Reads an entry and counts what it was.
    async fn look(&self, entry: &str) -> Result<Found<V>> {
        let found = match self.context.store()?.get(entry).await? {
            None => Found::Nothing,
            Some(bytes) => match self.decode(&bytes) {
                Decoded::Value(value, tags) if tags.is_empty() => Found::Value(value),
                // Rare, and large as a future: boxed, so that every other read need not carry it.
                decoded => Box::pin(self.judge_decoded(decoded, bytes)).await?,
            },
        };
        match found {
            Found::Value(_) => self.shared.meter.hits(1),
            Found::Nothing | Found::Unusable(_) => self.shared.meter.misses(1),
        }
        Ok(found)
    }

    /// Decodes what was found, and asks for the tags' versions where it carries any.
    async fn judge(&self, bytes: Bytes) -> Result<Found<V>> {
        let decoded = self.decode(&bytes);
        self.judge_decoded(decoded, bytes).await
    }

    async fn judge_decoded(&self, decoded: Decoded<V>, bytes: Bytes) -> Result<Found<V>> {
        Ok(match decoded {
            Decoded::Value(value, tags) if self.hold(&tags).await? => Found::Value(value),
            Decoded::Nothing => Found::Nothing,
            Decoded::Value(..) | Decoded::Unreadable(_) => Found::Unusable(bytes),
        })
    }

    fn decode(&self, bytes: &[u8]) -> Decoded<V> {
        self.shared.meter.read(bytes.len());
        let decoded = decode(bytes, self.context.limits.max_value_bytes);
        if let Decoded::Unreadable(reason) = decoded {
            self.shared.meter.unreadable(reason);
        }
        decoded
    }

    /// Whether every tag still has the version that an entry carries.
    async fn hold(&self, tags: &[TagVersion]) -> Result<bool> {
        if tags.is_empty() {
            return Ok(true);
        }
        let names: Vec<String> = tags.iter().map(|tag| self.context.keyspace.tag(&tag.tag)).collect();
        let known = self.context.store()?.known_versions(&names).await?;
        Ok(known.into_iter().zip(tags).all(|(known, tag)| known == Some(tag.version)))
    }

    /// A value's bytes, ready to be stored.
    fn encode(&self, value: &V, load_cost: u32, tags: Vec<TagVersion>) -> Result<Bytes> {
        let stamp = Stamp {
            nonce: self.context.random.nonce(),
            written_at: self.context.store()?.now(),
            load_cost,
            tags,
        };
        self.policy.encoder.encode(value, stamp).map(Bytes::from)
    }

    /// The call's own time to live, else the cache's, shortened by the jitter.
    fn expiry(&self, own: Option<Expiry>) -> Result<Expiry> {
        match own.or(self.policy.expiry) {
            None => Err(Error::invalid(format!(
                "no time to live: give the cache {:?} one with ttl(), or this call, or say no_expiry()",
                self.shared.name
            ))),
            Some(Expiry::Never) => Ok(Expiry::Never),
            Some(Expiry::After(ttl)) => {
                builder::check_ttl(ttl)?;
                if self.policy.jitter == 0.0 {
                    return Ok(Expiry::After(ttl));
                }
                Ok(Expiry::After(ttl.mul_f64(1.0 - self.policy.jitter * self.context.random.fraction())))
            }
        }
    }
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), shared: self.shared.clone(), policy: self.policy.clone() }
    }
}

impl<V> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.shared.name).field("policy", &self.policy).finish()
    }
}
