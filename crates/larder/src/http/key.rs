//! The key that a request counts against, and the request and response heads that choose it.

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

    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// Returns the target as the wrapped service sees it.
    #[must_use]
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// Returns the target as the client sent it. A nested router removes the part of the path that it matched; with
    /// the feature `axum` this is the `OriginalUri` that axum keeps.
    #[must_use]
    pub fn original_uri(&self) -> &'a Uri {
        #[cfg(feature = "axum")]
        if let Some(original) = self.extensions.get::<axum::extract::OriginalUri>() {
            return &original.0;
        }
        self.uri
    }

    /// Returns the header fields.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the extensions that servers and other layers attached to the request.
    #[must_use]
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}

impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the header fields nor the query: they may contain tokens.
        f.debug_struct("RequestHead").field("method", self.method).finish_non_exhaustive()
    }
}

/// Chooses the key that a request counts against.
///
/// Implemented by [`ClientIp`](super::ClientIp), [`HeaderKey`], [`PathKey`] and any `Fn(&RequestHead<'_>) ->
/// Option<String>`. Requests without a key count together, against the empty key; use
/// [`RateLimitLayer::skip`](super::RateLimitLayer::skip) for requests that are not to be limited at all.
pub trait RequestKey: Send + Sync + 'static {
    /// Returns the key, if the request has one.
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

/// Returns the key, or its SHA-1 if it is longer than the store accepts. A client with a long key is then limited
/// like any other, and different keys stay different. docs/wire-format.md describes it for other languages.
pub(super) fn shortened(key: String, takes: impl FnOnce(&str) -> bool) -> String {
    if takes(&key) {
        return key;
    }
    format!("sha1:{}", sha1_smol::Sha1::from(&key).digest())
}

/// Limits by the value of a header field, such as an API key. A client that can choose the value can choose whose
/// limit to use up: put this layer inside the one that checks the value.
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
    /// Limits by the first value of this field. The name is a text or an `http::HeaderName`.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): the name is not that of a header field. Correct it.
    pub fn new(name: impl TryInto<HeaderName>) -> Result<Self> {
        name.try_into().map(Self).map_err(|_| Error::invalid("HeaderKey needs the name of a header field"))
    }
}

impl RequestKey for HeaderKey {
    fn key(&self, request: &RequestHead<'_>) -> Option<String> {
        // Keys are text: escape values that are not, so that different values stay different.
        let value = request.headers.get(&self.0)?;
        Some(value.to_str().map_or_else(|_| value.as_bytes().escape_ascii().to_string(), str::to_owned))
    }
}

/// Limits by method and path, without the query: one limit for all clients of an endpoint together. HEAD counts as
/// GET. The path is the full one, also in a nested router ([`RequestHead::original_uri`]). If paths contain numbers
/// or names, each of them has a separate limit; use a closure to avoid that.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct PathKey;

impl PathKey {
    /// Limits by method and path.
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

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the header fields.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the extensions that the handler and other layers attached to the response.
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
