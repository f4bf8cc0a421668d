//! How a cache keeps its values: settings, defaults, and which of them make no sense.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::flight::Flights;
use super::{Cache, Policy, Shared};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::store::Expiry;
use crate::telemetry::CacheMeter;
use crate::value::{Encoder, Format};

/// The longest time to live. Redis counts milliseconds since 1970 in 63 bits; a hundred years is past all use.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Settings of a [`Cache`].
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// use std::time::Duration;
/// use larder::Format;
///
/// let pages = larder
///     .cache::<String>("page")
///     .ttl(Duration::from_secs(600))
///     .ttl_jitter(0.1)
///     .schema(2)
///     .format(Format::Json)
///     .build()?;
/// # let _ = pages; Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[must_use = "a cache is made by build()"]
pub struct CacheBuilder<V> {
    context: Arc<Context>,
    name: String,
    schema: u32,
    expiry: Option<Expiry>,
    jitter: f64,
    format: Format,
    compress_above: Option<usize>,
    value: PhantomData<fn() -> V>,
}

impl<V> CacheBuilder<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(crate) fn new(context: Arc<Context>, name: &str) -> Self {
        Self {
            context,
            name: name.to_owned(),
            schema: 0,
            expiry: None,
            jitter: 0.0,
            format: Format::default(),
            compress_above: None,
            value: PhantomData,
        }
    }

    /// How long a value is kept when its own call does not say. Default: none, and then every call must say.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// Values stay until they are deleted or evicted, unless their own call says otherwise.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// Shortens each time to live at random by up to this share of it, from 0 to 1, so that values written together do
    /// not expire together. Default: 0.
    pub fn ttl_jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// The version of `V`'s layout. It is part of every key, so that the old and the new program of a rolling
    /// deployment never read or overwrite each other's values. Default: 0, which leaves the key as it is.
    pub fn schema(mut self, schema: u32) -> Self {
        self.schema = schema;
        self
    }

    /// How values are written. Default: [`Format::Json`].
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Compresses values whose encoding takes more bytes than this, with LZ4, where that makes them smaller.
    /// Default: never. A kilobyte of JSON shrinks by about a quarter, ten by half.
    #[cfg(feature = "compress")]
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.compress_above = Some(bytes);
        self
    }

    /// Makes the cache, or another handle of it.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for a name or a setting that makes no sense, and where a cache of this name was built with
    /// another type of value.
    pub fn build(self) -> Result<Cache<V>> {
        if let Some(Expiry::After(ttl)) = self.expiry {
            check_ttl(ttl)?;
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(Error::invalid(format!("ttl_jitter is a share from 0 to 1, not {}", self.jitter)));
        }
        if self.format == Format::Plain && self.compress_above.is_some() {
            return Err(Error::invalid(
                "Format::Plain is bare JSON for others to read, which cannot be compressed",
            ));
        }
        let prefix = self.context.keyspace.cache(&self.name, self.schema)?;
        let shared = self.context.cache(&self.name, || Shared::<V> {
            name: self.name.clone(),
            meter: CacheMeter::new(&self.name),
            flights: Flights::default(),
        })?;
        let encoder = Encoder::new(self.format, self.compress_above, self.context.limits.max_value_bytes);
        let policy = Policy { prefix, expiry: self.expiry, jitter: self.jitter, encoder };
        Ok(Cache { context: self.context, shared, policy: Arc::new(policy) })
    }
}

pub(super) fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl.is_zero() {
        return Err(Error::invalid("a time to live of zero keeps nothing: use delete()"));
    }
    if ttl > LONGEST_TTL {
        return Err(Error::invalid("a time to live of more than 100 years: say no_expiry()"));
    }
    Ok(())
}

impl<V> fmt::Debug for CacheBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("name", &self.name)
            .field("schema", &self.schema)
            .field("expiry", &self.expiry)
            .field("ttl_jitter", &self.jitter)
            .field("format", &self.format)
            .field("compress_above", &self.compress_above)
            .finish_non_exhaustive()
    }
}
