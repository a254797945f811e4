//! The certificate that this server shows: from a directory and read again when it changes, or made at the start.
//!
//! A directory holds `tls.crt` and `tls.key`, as a mounted Secret of type `kubernetes.io/tls` does. It is read every
//! 5 s rather than watched: the kubelet swaps a symbolic link, and watches of files have been left on the old ones. A
//! pair that cannot be used changes nothing; it is reported once, when two readings in a row have found the same, since
//! two files cannot be replaced at once. Connections that are open keep what they began with.
//!
//! TLS 1.2 and 1.3, HTTP/1.1 alone. No sessions are kept: each connection asks once and ends.

mod expiry;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{Error as TlsError, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tracing::{info, warn};

use self::expiry::not_after;

/// How often a directory is read.
const READ_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether a certificate of our own has to be made anew.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// A file that is longer is none of ours; chains have some KiB.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// For how long a certificate that is made here is valid, and how long before its end it is made anew.
const OWN_DAYS: i64 = 365;
const OWN_LEFT_DAYS: i64 = 90;
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What is known of the certificate, read when it is scraped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertificateNow {
    /// When it ends, in seconds of Unix time; unknown for what is no X.509 of the usual form.
    pub expires: Option<i64>,
    /// Pairs that were taken since the start, the first one too.
    pub reads: u64,
    /// Pairs that could not be used since the start.
    pub errors: u64,
}

/// The certificate and its key.
pub struct Certificates {
    source: Source,
    state: Mutex<State>,
    every: Duration,
}

#[derive(Debug)]
enum Source {
    Directory(PathBuf),
    Own(Vec<String>),
}

struct State {
    config: Arc<ServerConfig>,
    now: CertificateNow,
    /// What was read last: of what is served, or of what was found to be broken.
    judged: Print,
    /// What was broken at the last reading, and has not been reported.
    doubted: Option<Print>,
}

/// A pair as it was read.
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// A hash of what was read, or of why it could not be.
type Print = [u8; 32];

/// A pair that can be served.
struct Usable {
    config: Arc<ServerConfig>,
    expires: Option<i64>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Certificates {
    /// The pair in `directory`, which is read again whenever [`follow`](Self::follow) runs.
    ///
    /// # Errors
    /// One sentence: which file, and what was found.
    pub async fn from_directory(directory: &Path) -> Result<Self, String> {
        let read = read(directory).await;
        let judged = print(&read);
        let usable = usable(&read?, directory)?;
        warn_of_end(usable.expires);
        Ok(Self::new(Source::Directory(directory.to_owned()), usable, judged, READ_EVERY))
    }

    /// A certificate for these names and addresses that nobody has signed, with a key that is nowhere but here.
    ///
    /// # Errors
    /// One sentence: no randomness, or something that is no name.
    pub fn own(names: Vec<String>) -> Result<Self, String> {
        let usable = own(&names)?;
        Ok(Self::new(Source::Own(names), usable, [0; 32], LOOK_EVERY))
    }

    fn new(source: Source, usable: Usable, judged: Print, every: Duration) -> Self {
        let now = CertificateNow { expires: usable.expires, reads: 1, errors: 0 };
        let state = State { config: usable.config, now, judged, doubted: None };
        Self { source, state: Mutex::new(state), every }
    }

    /// What a new connection begins with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.state().config.clone()
    }

    /// How it stands with it.
    pub fn now(&self) -> CertificateNow {
        self.state().now
    }

    /// Reads the directory again and again, or makes a certificate of its own anew in time. Never returns.
    pub async fn follow(&self) {
        loop {
            tokio::time::sleep(self.every).await;
            match &self.source {
                Source::Directory(directory) => self.look(directory).await,
                Source::Own(names) => self.renew(names, Timestamp::now().as_second()),
            }
        }
    }

    /// Reads the directory once more, and takes what can be used.
    async fn look(&self, directory: &Path) {
        let read = read(directory).await;
        let print = print(&read);
        let before = {
            let mut state = self.state();
            if print == state.judged {
                state.doubted = None;
                return;
            }
            state.doubted.replace(print)
        };
        let judged = read.and_then(|pair| usable(&pair, directory));
        let mut state = self.state();
        match judged {
            Ok(usable) => {
                state.now.reads += 1;
                (state.config, state.now.expires) = (usable.config, usable.expires);
                (state.judged, state.doubted) = (print, None);
                info!(directory = %directory.display(), "the certificate has changed and is used from now on");
                warn_of_end(usable.expires);
            }
            // It may be half written.
            Err(_) if before != Some(print) => {}
            Err(sentence) => {
                state.now.errors += 1;
                (state.judged, state.doubted) = (print, None);
                warn!("the new certificate cannot be used, the one before it goes on: {sentence}");
            }
        }
    }

    /// Makes another certificate when the one before it comes to its end.
    fn renew(&self, names: &[String], now: i64) {
        let ends = self.now().expires.unwrap_or(i64::MAX);
        if ends - now > OWN_LEFT_DAYS * 86_400 {
            return;
        }
        let made = own(names);
        let mut state = self.state();
        match made {
            Ok(usable) => {
                state.now.reads += 1;
                (state.config, state.now.expires) = (usable.config, usable.expires);
            }
            Err(sentence) => {
                state.now.errors += 1;
                warn!("no new certificate could be made: {sentence}");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says it once for each certificate that has ended already: it is served all the same, and refused by whoever looks.
fn warn_of_end(expires: Option<i64>) {
    let now = Timestamp::now().as_second();
    if let Some(ended) = expires.filter(|ends| *ends <= now) {
        let ago = (now - ended) / 60;
        warn!(
            minutes_ago = ago,
            "the certificate of --metrics-cert-dir has expired; clients refuse it until it is renewed"
        );
    }
}

/// Both files. They may be of two versions if they are swapped just now; the next reading has both of one.
async fn read(directory: &Path) -> Result<Pair, String> {
    let file = async |name: &str| {
        let shown = directory.join(name);
        let mut bytes = Vec::new();
        let read = async {
            let file = File::open(&shown).await?;
            file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).await
        };
        match read.await {
            Err(error) => Err(format!("{}: {error}", shown.display())),
            Ok(n) if n as u64 > FILE_MAX_BYTES => {
                Err(format!("{} has more than {} KiB", shown.display(), FILE_MAX_BYTES >> 10))
            }
            Ok(_) => Ok(bytes),
        }
    };
    Ok(Pair { certificate: file(CERTIFICATE).await?, key: file(KEY).await? })
}

fn print(read: &Result<Pair, String>) -> Print {
    let mut hash = Sha256::new();
    match read {
        Ok(pair) => {
            hash.update((pair.certificate.len() as u64).to_le_bytes());
            hash.update(&pair.certificate);
            hash.update(&pair.key);
        }
        Err(sentence) => hash.update(sentence),
    }
    hash.finalize().into()
}

/// What is served with this pair. A sentence that says otherwise repeats nothing that stands in the files.
fn usable(pair: &Pair, directory: &Path) -> Result<Usable, String> {
    let named = |file: &str| directory.join(file).display().to_string();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pair.certificate).collect();
    let chain = chain.map_err(|_| format!("{} is no PEM", named(CERTIFICATE)))?;
    if chain.is_empty() {
        return Err(format!("{} holds no certificate", named(CERTIFICATE)));
    }
    let key = PrivateKeyDer::from_pem_slice(&pair.key)
        .map_err(|_| format!("{} holds no private key in PEM", named(KEY)))?;
    serve(chain, key).map_err(|error| match error {
        TlsError::InconsistentKeys(_) => {
            format!("the key in {} is not that of the certificate in {}", named(KEY), named(CERTIFICATE))
        }
        other => format!("{} and {} cannot be used: {other}", named(CERTIFICATE), named(KEY)),
    })
}

fn serve(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Usable, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let expires = chain.first().and_then(|first| not_after(first));
    let certified = CertifiedKey::from_der(chain, key, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config =
        builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Usable { config: Arc::new(config), expires })
}

fn own(names: &[String]) -> Result<Usable, String> {
    let (certificate, key) = make(names)?;
    serve(vec![certificate], key).map_err(|error| error.to_string())
}

/// A certificate that signs itself, valid from yesterday on: a clock that is behind ours finds it valid too.
fn make(names: &[String]) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), String> {
    let failed = |error: rcgen::Error| format!("no certificate for {}: {error}", names.join(", "));
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "windlass");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let (Ok(from), Ok(to)) = (today.checked_sub(1.day()), today.checked_add(OWN_DAYS.days())) else {
        return Err("the clock shows no date of this age".into());
    };
    let part = |n: i8| u8::try_from(n).unwrap_or(1);
    params.not_before = date_time_ymd(from.year().into(), part(from.month()), part(from.day()));
    params.not_after = date_time_ymd(to.year().into(), part(to.month()), part(to.day()));
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

#[cfg(test)]
pub(crate) mod tests;
