//! TLS by rustls, with the operating system's roots or the program's own.

#[cfg(feature = "tls")]
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::sync::OnceLock;

#[cfg(feature = "tls")]
use rustls::pki_types::pem::PemObject;
#[cfg(feature = "tls")]
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
#[cfg(feature = "tls")]
use rustls::{ClientConfig, RootCertStore};
#[cfg(feature = "tls")]
use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio_rustls::{TlsConnector, client::TlsStream};

#[cfg(feature = "tls")]
use super::error::WireError;
use crate::endpoint::Secret;

/// The authorities to trust, and the client's own certificate.
pub(crate) struct Tls {
    /// Authorities to trust instead of the operating system's, in PEM.
    roots: Option<Vec<u8>>,
    /// A certificate chain and its private key, in PEM.
    client: Option<(Vec<u8>, Secret<Vec<u8>>)>,
    /// Built for the first connection, and shared by all later ones.
    #[cfg(feature = "tls")]
    config: OnceLock<Arc<ClientConfig>>,
    /// What the last connection to each address was.
    #[cfg(all(feature = "admin", feature = "tls"))]
    seen: std::sync::Mutex<std::collections::HashMap<String, crate::store::admin::TlsSeen>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The private key must not be printed.
        f.debug_struct("Tls")
            .field("roots", &self.roots.is_some())
            .field("client", &self.client.is_some())
            .finish()
    }
}

impl Tls {
    pub(crate) fn new(roots: Option<Vec<u8>>, client: Option<(Vec<u8>, Secret<Vec<u8>>)>) -> Self {
        Self {
            roots,
            client,
            #[cfg(feature = "tls")]
            config: OnceLock::new(),
            #[cfg(all(feature = "admin", feature = "tls"))]
            seen: std::sync::Mutex::default(),
        }
    }
}

#[cfg(feature = "tls")]
impl Tls {
    /// Does the TLS handshake on a connection to `host`. The server's certificate must be for that name or address.
    pub(super) async fn wrap(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> Result<TlsStream<TcpStream>, WireError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| unusable(format!("{host} is no name that a certificate can be for")))?;
        #[cfg(feature = "admin")]
        let port = stream.peer_addr().map(|peer| peer.port()).unwrap_or_default();
        let stream = TlsConnector::from(self.config()?).connect(name, stream).await?;
        #[cfg(feature = "admin")]
        self.note(host, port, &stream);
        Ok(stream)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, WireError> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        // Use the cryptography that the program has installed as its default, if any.
        let chosen = rustls::crypto::CryptoProvider::get_default().cloned();
        let provider = chosen.unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(self.roots()?);
        let config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((chain, Secret(key))) => {
                let chain = certificates(chain, "the client's certificate chain")?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| unusable(format!("the client's private key cannot be read: {error}")))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unusable(format!("the client's certificate cannot be used: {error}")))?
            }
        };
        Ok(self.config.get_or_init(|| Arc::new(config)).clone())
    }

    fn roots(&self) -> Result<RootCertStore, WireError> {
        let mut roots = RootCertStore::empty();
        if let Some(pem) = &self.roots {
            for certificate in certificates(pem, "tls_roots")? {
                roots.add(certificate).map_err(|error| unusable(format!("tls_roots: {error}")))?;
            }
            return Ok(roots);
        }
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            let why = native.errors.first().map_or(String::new(), |error| format!(": {error}"));
            return Err(unusable(format!("the operating system has no root certificate{why}")));
        }
        Ok(roots)
    }
}

#[cfg(feature = "admin")]
impl Tls {
    /// Records what a connection is, for tools.
    #[cfg(feature = "tls")]
    fn note(&self, host: &str, port: u16, stream: &TlsStream<TcpStream>) {
        let (_, session) = stream.get_ref();
        let version = session.protocol_version().map(|version| format!("{version:?}").replace('_', "."));
        let cipher = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let seen = crate::store::admin::TlsSeen {
            version: version.unwrap_or_default(),
            cipher: cipher.unwrap_or_default(),
            certificate: certificate.map(|certificate| certificate.to_vec()).unwrap_or_default(),
        };
        let address = crate::endpoint::Address::Tcp { host: host.to_owned(), port }.to_string();
        let mut table = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        table.insert(address, seen);
    }

    /// Returns what the last connection to an address was. Behind Sentinel the address of the master is not known here,
    /// and any server's connection counts.
    #[cfg(feature = "tls")]
    pub(crate) fn seen(&self, address: &str) -> Option<crate::store::admin::TlsSeen> {
        let table = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        table.get(address).or_else(|| table.values().next()).cloned()
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "nothing speaks TLS")]
    pub(crate) fn seen(&self, _: &str) -> Option<crate::store::admin::TlsSeen> {
        None
    }
}

#[cfg(feature = "tls")]
fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(unusable(format!("{what} holds no certificate"))),
        Err(error) => Err(unusable(format!("{what} cannot be read as a certificate: {error}"))),
    }
}

#[cfg(feature = "tls")]
fn unusable(what: String) -> WireError {
    WireError::Tls(what.into())
}
