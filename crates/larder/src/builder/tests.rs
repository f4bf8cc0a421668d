//! Tests of the defaults, and of the settings that are refused.

use super::*;
use crate::endpoint::{Address, Endpoints};

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let builder = LarderBuilder::default();
    assert_eq!(builder.target().unwrap(), Target::Memory);
    assert_eq!(builder.connect_timeout, Duration::from_secs(2));
    assert_eq!(builder.response_timeout, Duration::from_secs(1));
    assert_eq!(builder.connections, 1);
    assert_eq!(builder.max_value_bytes, 8 << 20);
    assert_eq!(builder.max_key_bytes, 1024);
    assert_eq!(builder.bounds, Bounds { max_entries: 1_000_000, max_bytes: 256 << 20 });
    assert!(builder.coordination.is_none() && !builder.strict);
    assert!(builder.namespace.is_none() && builder.tls_roots.is_none());
    assert!(builder.credentials.is_none() && builder.sentinel_username.is_none());
    assert_eq!(builder.client_name, "larder");
}

#[test]
fn what_the_builder_says_goes_before_what_the_url_says() {
    let builder = LarderBuilder::default().url("redis://ann:old@h/1").password("new").database(2);
    let Target::Server(server) = builder.target().unwrap() else { panic!("no server") };
    assert_eq!(server.username.as_deref(), Some("ann"));
    assert_eq!((server.password, server.database), (Some(Secret("new".into())), 2));
}

#[test]
fn nonsense_is_refused() {
    let no = |builder: LarderBuilder| assert!(builder.check().and_then(|()| builder.target()).is_err());
    no(LarderBuilder::default().url("memory:").address("h"));
    no(LarderBuilder::default().connect_timeout(Duration::ZERO));
    no(LarderBuilder::default().response_timeout(Duration::ZERO));
    no(LarderBuilder::default().connections(0));
    no(LarderBuilder::default().connections(65));
    no(LarderBuilder::default().max_value_bytes(0));
    no(LarderBuilder::default().memory_max_entries(0));
    no(LarderBuilder::default().password("lonely"));
    no(LarderBuilder::default().address("h").tls_roots("-----BEGIN CERTIFICATE-----"));
    no(LarderBuilder::default().url("rediss://h").tls_roots("not a certificate"));
    let (chain, key) = ("-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----");
    no(LarderBuilder::default().url("redis://h").tls_client_certificate(chain, key));
    no(LarderBuilder::default().url("rediss://h").tls_client_certificate(chain, "not a key"));
    no(LarderBuilder::default().url("rediss://h").tls_client_certificate("not a certificate", key));
    assert!(LarderBuilder::default().url("rediss://h").tls_client_certificate(chain, key).target().is_ok());
    no(LarderBuilder::default().url("redis://h").sentinel_password("pw"));
    no(LarderBuilder::default().url("redis-cluster://h").database(1));
    no(LarderBuilder::default().url("redis://h").sentinel_username("ann"));
    no(LarderBuilder::default().url("redis://h").client_name("two words"));
    no(LarderBuilder::default().address(format!("/{}", "x".repeat(120))));
    let provider = || async { Ok(Credentials::password("pw")) };
    no(LarderBuilder::default().credentials(provider));
    no(LarderBuilder::default().url("redis://h").password("pw").credentials(provider));
    no(LarderBuilder::default().url("redis://:pw@h").credentials(provider));
    assert!(LarderBuilder::default().url("redis://h").credentials(provider).target().is_ok());
}

#[test]
fn a_url_for_an_address_is_refused_and_its_password_does_not_show() {
    for address in ["redis://:hunter2@h:6379", "ann:hunter2@h:6379", "ann:hunter2@h", "h 1", "a/b", "::1"] {
        let builder = LarderBuilder::default().address(address);
        let shown = format!("{builder:?} {:?}", builder.target().unwrap_err());
        assert!(!shown.contains("hunter2"), "{address}: {shown}");
    }
    let Target::Server(server) = LarderBuilder::default().address("[::1]:7").target().unwrap() else {
        panic!()
    };
    assert_eq!(server.deployment, Endpoints::Single(Address::Tcp { host: "::1".into(), port: 7 }));
}

#[test]
fn a_user_without_a_password_is_still_that_user() {
    let Target::Server(server) = LarderBuilder::default().url("redis://ann@h").target().unwrap() else {
        panic!()
    };
    assert_eq!((server.username.as_deref(), server.password), (Some("ann"), Some(Secret(String::new()))));
}

#[test]
fn no_password_shows() {
    let builder =
        LarderBuilder::default().url("redis://:hunter2@h").password("hunter3").sentinel_password("hunter4");
    let shown = format!("{builder:?}");
    assert!(!shown.contains("hunter"), "{shown}");
}
