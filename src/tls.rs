//! Whom TLS clients trust: the certificates of one file, or the system's bundle. By rustls, with ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Where systems keep the bundle of the authorities that they trust: Debian and Alpine, Fedora and RHEL, openSUSE, BSD and macOS.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Names the bundle, as for OpenSSL.
const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// A client that believes servers whose certificate comes from one of the authorities in `file` (PEM) and names their host.
///
/// # Errors
/// The file can't be read, or holds no certificate that can be used.
pub fn trusting_file(file: &Path) -> Result<ClientConfig> {
    let pem = std::fs::read(file).with_context(|| format!("the CA file {} can't be read", file.display()))?;
    trusting_pem(&pem).with_context(|| format!("the CA file {}", file.display()))
}

/// A client that believes servers whose certificate comes from an authority that the system trusts and names their host.
///
/// # Errors
/// The system has no bundle of authorities where one is looked for.
pub fn trusting_system() -> Result<ClientConfig> {
    let named = std::env::var_os(BUNDLE_VARIABLE).map(PathBuf::from);
    let Some(file) = named.into_iter().chain(SYSTEM_BUNDLES.map(PathBuf::from)).find(|file| file.is_file()) else {
        bail!("the system has no bundle of trusted authorities (looked for {} and ${BUNDLE_VARIABLE})", SYSTEM_BUNDLES.join(", "));
    };
    trusting_file(&file)
}

fn trusting_pem(pem: &[u8]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let mut unusable = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        // A system's bundle may hold odd ones; they are not worth refusing the others for.
        match certificate.map(|certificate| roots.add(certificate)) {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => unusable += 1,
        }
    }
    if roots.is_empty() {
        bail!("it holds no certificate that can be used ({unusable} that can't): PEM with BEGIN CERTIFICATE is expected");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().context("TLS")?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
