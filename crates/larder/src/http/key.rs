//! What of a request decides whose limit it counts against.

use std::fmt;

use http::{Extensions, HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri};

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

    /// The target, as the service that the layer is around sees it.
    #[must_use]
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The target as the client sent it. A nested router removes the part of the path that it was found by; with the
    /// feature `axum` this is what axum keeps of it (`OriginalUri`).
    #[must_use]
    pub fn original_uri(&self) -> &'a Uri {
        #[cfg(feature = "axum")]
        if let Some(original) = self.extensions.get::<axum::extract::OriginalUri>() {
            return &original.0;
        }
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

/// The key, or where it is longer than the store takes, its SHA-1: a client that sends it is limited like every other, and
/// keys that differ still differ. docs/wire-format.md has it for other languages.
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
        // Keys are text: bytes that are not are told apart by their code.
        let value = request.headers.get(&self.0)?;
        Some(value.to_str().map_or_else(|_| value.as_bytes().escape_ascii().to_string(), str::to_owned))
    }
}

/// By method and path, without the query: a limit for all clients of an endpoint together. HEAD counts as GET. The path is
/// whole, also in a nested router ([`RequestHead::original_uri`]). Where a path holds numbers or names, every one of them
/// has a limit of its own; a closure can do better.
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
        let method = if request.method == Method::HEAD { &Method::GET } else { request.method };
        Some(format!("{method} {}", request.original_uri().path()))
    }
}

/// A response without its body.
#[derive(Clone, Copy)]
pub struct ResponseHead<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> ResponseHead<'a> {
    pub(super) fn of<B>(response: &'a Response<B>) -> Self {
        Self { status: response.status(), headers: response.headers(), extensions: response.extensions() }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The fields.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// What the handler and other layers have left with the response.
    #[must_use]
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}

impl fmt::Debug for ResponseHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead").field("status", &self.status).finish_non_exhaustive()
    }
}
