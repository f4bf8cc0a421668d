//! What of a request decides whose limit it counts against.

use std::fmt;

use http::{Extensions, HeaderMap, HeaderName, Method, Request, Uri};

use crate::error::{Error, Result};

/// A request without its body.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
    pub(super) fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The target.
    #[must_use]
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The fields.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// What servers and other layers have left with the request.
    #[must_use]
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}

impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the fields and not the query: they hold tokens.
        f.debug_struct("RequestHead").field("method", self.method).finish_non_exhaustive()
    }
}

/// Says whose limit a request counts against.
///
/// [`ClientIp`](super::ClientIp), [`HeaderKey`] and [`PathKey`] do, and any `Fn(&RequestHead<'_>) -> Option<String>`.
/// Requests without a key count together, against the empty key; those that are not to be limited at all are for
/// [`RateLimitLayer::skip`](super::RateLimitLayer::skip).
pub trait RequestKey: Send + Sync + 'static {
    /// The key, if the request has one.
    fn key(&self, request: &RequestHead<'_>) -> Option<String>;
}

impl<F> RequestKey for F
where
    F: Fn(&RequestHead<'_>) -> Option<String> + Send + Sync + 'static,
{
    fn key(&self, request: &RequestHead<'_>) -> Option<String> {
        self(request)
    }
}

/// The key, or where it is longer than the store takes, its SHA-1: whoever sends it is limited like everybody else, and
/// keys that differ do so still. docs/wire-format.md has it for other languages.
pub(super) fn shortened(key: String, takes: impl FnOnce(&str) -> bool) -> String {
    if takes(&key) {
        return key;
    }
    format!("sha1:{}", sha1_smol::Sha1::from(&key).digest())
}

/// By the value of a header field, such as an API key. Whoever can choose the value can choose whose limit to use up: put
/// the layer behind the one that checks it.
///
/// ```
/// # fn key() -> larder::Result<larder::http::HeaderKey> {
/// larder::http::HeaderKey::new("x-api-key")
/// # }
/// # key().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct HeaderKey(HeaderName);

impl HeaderKey {
    /// By the first value of this field: a text, or an `http::HeaderName`.
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for what is no field's name.
    pub fn new(name: impl TryInto<HeaderName>) -> Result<Self> {
        name.try_into().map(Self).map_err(|_| Error::invalid("HeaderKey needs the name of a header field"))
    }
}

impl RequestKey for HeaderKey {
    fn key(&self, request: &RequestHead<'_>) -> Option<String> {
        request.headers.get(&self.0)?.to_str().ok().map(str::to_owned)
    }
}

/// By method and path, without the query: a limit for all clients of an endpoint together. Where a path holds numbers or
/// names, every one of them has a limit of its own; a closure can do better.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct PathKey;

impl PathKey {
    /// By method and path.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl RequestKey for PathKey {
    fn key(&self, request: &RequestHead<'_>) -> Option<String> {
        Some(format!("{} {}", request.method, request.uri.path()))
    }
}
