//! TLS for a connection to a broker.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::MqttError;

/// Whom to trust, and how to prove who this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the certificates that the broker's is signed by; without it those that browsers trust (Mozilla's).
    pub ca: Option<PathBuf>,
    /// PEM files of this device's certificate chain and of its private key, for brokers that ask for them.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// A connection of TLS 1.3, or 1.2, to the broker of this name.
    pub(super) fn connection(&self, host: &str) -> Result<ClientConnection, MqttError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| MqttError::Io(format!("{host:?} is no name that a certificate can have")))?;
        let tls = |error: rustls::Error| MqttError::Io(format!("TLS: {error}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_root_certificates(self.roots()?);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|e| {
                    MqttError::Io(format!("{}: a private key in PEM is expected: {e}", key.display()))
                })?;
                builder.with_client_auth_cert(chain, key).map_err(tls)?
            }
        };
        ClientConnection::new(Arc::new(config), name).map_err(tls)
    }

    fn roots(&self) -> Result<RootCertStore, MqttError> {
        let Some(path) = &self.ca else {
            return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|e| MqttError::Io(format!("{}: {e}", path.display())))?;
        }
        Ok(roots)
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, MqttError> {
    let wrong =
        |e: String| MqttError::Io(format!("{}: certificates in PEM are expected: {e}", path.display()));
    let read = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(e.to_string()))?;
    if all.is_empty() { Err(wrong("there is none".into())) } else { Ok(all) }
}
