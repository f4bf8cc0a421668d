//! Replies that no server should send, and certificates. A fake server breaks the protocol here, because no real one
//! does it on demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder::{Cache, Error, ErrorKind, Format, Larder};
use larder_testkit::Server;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use support::scripted::{bulk, command};
use support::{patient, until};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

fn plain(larder: &Larder) -> Cache<String> {
    larder.cache("name").format(Format::Plain).no_expiry().build().unwrap()
}

/// A fake server that replies to everything that larder asks when it connects, and replies `bad` to the first SET.
/// Returns its URL, and how many SETs arrived.
async fn broken(bad: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let sets = Arc::new(AtomicUsize::new(0));
    let counted = sets.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sets = counted.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(command) = command(&mut stream).await {
                    let answer = match (command[0].as_str(), command.get(1).map(String::as_str)) {
                        ("HELLO", _) => format!(
                            "%2\r\n{}{}{}{}",
                            bulk("version"),
                            bulk("7.0.15"),
                            bulk("role"),
                            bulk("master")
                        ),
                        ("INFO", Some("server")) => bulk("run_id:of-the-test\r\n"),
                        ("INFO", _) => bulk("maxmemory:0\r\nmaxmemory_policy:noeviction\r\n"),
                        ("TIME", _) => format!("*2\r\n{}{}", bulk("1700000000"), bulk("0")),
                        ("GET", _) => bulk("\"Ann\""),
                        ("SET", _) if sets.fetch_add(1, Ordering::AcqRel) == 0 => bad.to_owned(),
                        _ => "+OK\r\n".to_owned(),
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, sets)
}

#[tokio::test]
async fn a_reply_that_breaks_the_protocol_fails_its_call_with_the_reason_and_costs_a_connection() {
    let nested: &'static str = "*1\r\n".repeat(100).leak();
    for (bad, why) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "begins with the byte"),
        ("$999999999999\r\n", "a string of more than"),
        ("*999999999\r\n", "an array of more than"),
        (nested, "nest more than"),
        ("$3\r\nabcdef\r\n", "longer than announced"),
        ("$?\r\n;4\r\nparts\r\n", "unknown length"),
        (":1e9\r\n", "integer"),
    ] {
        let (url, sets) = broken(bad).await;
        let larder = patient().url(url).connect().await.unwrap();
        let names = plain(&larder);
        let value = "Ann".to_owned();
        let error = names.set("a", &value).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{bad:.20}: {error:?}");
        assert!(error.is_retryable() && error.to_string().contains(why), "{bad:.20}: {error}");
        // It may have been carried out, so it was not sent again. Everything else goes on.
        assert_eq!(sets.load(Ordering::Acquire), 1);
        assert_eq!(names.get("b").await.unwrap(), Some(value.clone()));
        names.set("b", &value).await.unwrap();
        assert_eq!(sets.load(Ordering::Acquire), 2);
    }
}

#[tokio::test]
async fn a_reply_to_no_request_is_given_to_none() {
    let (url, sets) = broken("+OK\r\n$5\r\n\"Bob\"\r\n").await;
    let larder = patient().url(url).connect().await.unwrap();
    let names = plain(&larder);
    names.set("a", &"Ann".to_owned()).await.unwrap();
    for _ in 0..10 {
        assert_eq!(names.get("a").await.unwrap().as_deref(), Some("Ann"));
    }
    names.set("a", &"Ann".to_owned()).await.unwrap();
    assert_eq!(sets.load(Ordering::Acquire), 2);
}

#[tokio::test]
async fn a_name_with_several_addresses_is_reached_at_the_one_that_listens() {
    let server = Server::builder().tcp().start();
    let port = server.addr().unwrap().port();
    let larder = patient().url(format!("redis://localhost:{port}")).connect().await.unwrap();
    larder.ping().await.unwrap();
}

/// An authority, its certificate in PEM, and the key.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        // OpenSSL takes a certificate for self-signed where its own name is that of the authority.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a name and its key.
    fn certify(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A server with such a certificate, which asks for client certificates of this authority where `asks` says so.
    fn server(&self, (certificate, key): &(String, String), asks: &str) -> (Server, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, pem: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let builder = Server::builder()
            .tls()
            .arg("tls-ca-cert-file", &file("ca.pem", &self.pem))
            .arg("tls-cert-file", &file("server.pem", certificate))
            .arg("tls-key-file", &file("server.key", key))
            .arg("tls-auth-clients", asks);
        (builder.start(), folder)
    }
}

async fn refused(builder: larder::LarderBuilder) -> Error {
    builder.connect().await.expect_err("it must not connect")
}

#[tokio::test]
async fn a_certificate_that_is_over_or_for_another_name_is_refused() {
    let authority = Authority::new();
    let over = authority.certify("127.0.0.1", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let elsewhere = authority.certify("elsewhere.invalid", |_| {});
    for (certificate, why) in [(over, "expired"), (elsewhere, "not valid for name")] {
        let (server, _folder) = authority.server(&certificate, "no");
        let error = refused(patient().url(server.url()).tls_roots(authority.pem.as_str())).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
        assert!(error.to_string().contains(why) && !error.is_retryable(), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_client_certificates_gets_one() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, _folder) = authority.server(&authority.certify("127.0.0.1", |_| {}), "yes");
    let builder = || patient().url(server.url()).tls_roots(authority.pem.as_str());
    let (chain, key) = authority.certify("a client", |_| {});
    let larder = builder().tls_client_certificate(chain.as_str(), key.as_bytes()).connect().await.unwrap();
    plain(&larder).set("a", &"Ann".to_owned()).await.unwrap();
    // A reconnect shows it again.
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until("it is connected again", async || larder.ping().await.is_ok()).await;

    let (strange_chain, strange_key) = stranger.certify("a client", |_| {});
    for builder in [builder(), builder().tls_client_certificate(strange_chain, strange_key.as_str())] {
        let error = refused(builder).await;
        // TLS 1.3 lets the client finish first. The refusal comes later, and is lost where the server hangs up with it.
        assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Disconnected), "{error:?}");
        assert!(!format!("{error:?}").contains("PRIVATE KEY"));
    }
    let error = refused(builder().tls_client_certificate(chain, strange_key)).await;
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
    assert!(error.to_string().contains("the client's certificate"), "{error}");
}
