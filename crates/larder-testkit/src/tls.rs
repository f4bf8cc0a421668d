//! A certificate authority for one test, and a certificate for 127.0.0.1 and localhost that all nodes of a cluster
//! share.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const FRESH: &str = "a fresh certificate";

#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) ca: String,
    certificate: String,
    key: String,
}

impl Certificates {
    pub(crate) fn make() -> Self {
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "larder-testkit CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate().expect(FRESH);
        let ca_pem = ca.self_signed(&ca_key).expect(FRESH).pem();

        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut server = CertificateParams::new(names).expect(FRESH);
        server.distinguished_name.push(DnType::CommonName, "larder-testkit server");
        // Nodes are clients of each other, and a cluster's bus always asks for a certificate.
        server.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect(FRESH);
        let certificate = server.signed_by(&key, &Issuer::new(ca, ca_key)).expect(FRESH).pem();
        Self { ca: ca_pem, certificate, key: key.serialize_pem() }
    }

    /// Writes the files that [`Certificates::SETTINGS`] name.
    pub(crate) fn write(&self, folder: &Path) {
        for (name, pem) in
            [("ca.pem", &self.ca), ("server.pem", &self.certificate), ("server.key", &self.key)]
        {
            fs::write(folder.join(name), pem).expect("the server's folder can be written to");
        }
    }

    /// Relative to the folder that the server runs in.
    pub(crate) const SETTINGS: [(&str, &str); 4] = [
        ("tls-ca-cert-file", "ca.pem"),
        ("tls-cert-file", "server.pem"),
        ("tls-key-file", "server.key"),
        ("tls-auth-clients", "no"),
    ];
}
