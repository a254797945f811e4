//! The certificates of one control plane: an authority that exists for one run, and what it signs.
//!
//! Validity spans centuries on purpose: tests move the clock by years, and only those that test expiry should see it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// A certificate with its private key, both as PEM text.
#[derive(Debug, Clone)]
pub struct Identity {
    /// One certificate; the authority's is not appended.
    pub certificate_pem: String,
    /// PKCS#8, ECDSA P-256.
    pub key_pem: String,
}

/// The certificate authority that all parts of a control plane trust.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate_der: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority; nothing that another one signed is trusted by it.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("windlass-testbed", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("cannot make the authority's key")?;
        let certificate = params.self_signed(&key).context("cannot sign the authority")?;
        let (certificate_pem, certificate_der) = (certificate.pem(), certificate.der().to_vec());
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem, certificate_der })
    }

    /// The authority's certificate as PEM, for a client's list of roots.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The same as DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// Signs a serving certificate for these host names and addresses, for the API server or for a proxy that stands in for it.
    ///
    /// # Errors
    /// If a name is neither an address nor a DNS name.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        self.sign(serving(names)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Signs a client certificate: the API server takes the common name for the user and the organisation for the group.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn client(&self, user: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, Some(group));
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// As [`server`](Self::server), but valid for no longer than this.
    ///
    /// # Errors
    /// As for `server`.
    pub fn server_until(&self, names: &[&str], until: SystemTime) -> Result<Identity> {
        let mut params = serving(names)?;
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(until)?;
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// As [`client`](Self::client), but valid for no longer than this.
    ///
    /// # Errors
    /// As for `client`.
    pub fn client_until(&self, user: &str, group: &str, until: SystemTime) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, Some(group));
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(until)?;
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a certificate")?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn serving(names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params =
        CertificateParams::new(names).context("a serving certificate needs addresses or DNS names")?;
    params.distinguished_name = name("kube-apiserver", None);
    Ok(params)
}

fn since_1970(until: SystemTime) -> Result<Duration> {
    until.duration_since(SystemTime::UNIX_EPOCH).context("no certificate ends before 1970")
}

/// The key pair that signs service account tokens: (private, public), both PEM.
pub(crate) fn token_key() -> Result<(String, String)> {
    let key = KeyPair::generate().context("cannot make the key for service account tokens")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn name(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common);
    name
}
