use std::net::{IpAddr, SocketAddr};

use rcgen::{BasicConstraints, IsCa, Issuer};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// Who signs the certificates of a test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("randomness");
        let certificate = params.self_signed(&key).expect("signed");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a root");
        Self { issuer: Issuer::new(params, key), roots }
    }

    /// A certificate for 127.0.0.1 that ends on the first day of `year`, and its key.
    fn pair(&self, year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("randomness");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A folder as a kubelet keeps a mounted Secret: files are links into `..data`, which is a link to a version.
struct Mounted {
    folder: TempDir,
    version: usize,
}

impl Mounted {
    fn new(pair: &(String, String)) -> Self {
        let mut mounted = Self { folder: tempfile::tempdir().expect("a folder"), version: 0 };
        mounted.swap(pair);
        for file in [CERTIFICATE, KEY] {
            let link = mounted.folder.path().join(file);
            std::os::unix::fs::symlink(Path::new("..data").join(file), link).expect("a link");
        }
        mounted
    }

    fn swap(&mut self, (certificate, key): &(String, String)) {
        self.version += 1;
        let folder = self.folder.path();
        let version = format!("..version-{}", self.version);
        std::fs::create_dir(folder.join(&version)).expect("a folder");
        std::fs::write(folder.join(&version).join(CERTIFICATE), certificate).expect("written");
        std::fs::write(folder.join(&version).join(KEY), key).expect("written");
        std::os::unix::fs::symlink(&version, folder.join("..data_tmp")).expect("a link");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("swapped");
        if self.version > 1 {
            let before = format!("..version-{}", self.version - 1);
            std::fs::remove_dir_all(folder.join(before)).expect("removed");
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Certificates that a test's clients trust, with what they trust.
pub(crate) async fn trusting() -> (Arc<Certificates>, RootCertStore) {
    let authority = Authority::new();
    let mounted = Mounted::new(&authority.pair(2060));
    let certificates = Certificates::from_directory(mounted.path()).await.expect("usable");
    (Arc::new(certificates), authority.roots)
}

/// A client that trusts these.
pub(crate) fn client(roots: &RootCertStore) -> Client {
    Client { roots: roots.clone(), versions: vec![&TLS13, &TLS12], alpn: vec![b"http/1.1".to_vec()] }
}

pub(crate) struct Client {
    roots: RootCertStore,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
}

impl Client {
    async fn connect(
        &self,
        address: SocketAddr,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&self.versions)
            .expect("known versions");
        let mut config = builder.with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = self.alpn.clone();
        let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
    }

    /// One request with further header lines, each ended by CRLF.
    pub(crate) async fn get(
        &self,
        address: SocketAddr,
        path: &str,
        headers: &str,
    ) -> std::io::Result<String> {
        let mut stream = self.connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

/// One handshake with what is served now.
async fn shake(certificates: &Certificates, client: &Client) -> std::io::Result<(ProtocolVersion, Vec<u8>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serve = async {
        let (stream, _) = listener.accept().await?;
        TlsAcceptor::from(certificates.config()).accept(stream).await
    };
    let (connected, served) = tokio::join!(client.connect(address), serve);
    let (connected, _served) = (connected?, served?);
    let (_, session) = connected.get_ref();
    let version = session.protocol_version().expect("agreed");
    let shown = session.peer_certificates().expect("shown")[0].to_vec();
    Ok((version, shown))
}

#[tokio::test]
async fn a_pair_that_is_swapped_is_used_from_the_next_connection_on() {
    let authority = Authority::new();
    let mut mounted = Mounted::new(&authority.pair(2060));
    let certificates = Certificates::from_directory(mounted.path()).await.expect("usable");
    let client = client(&authority.roots);
    let (_, first) = shake(&certificates, &client).await.expect("a handshake");
    certificates.look(mounted.path()).await;
    assert_eq!(shake(&certificates, &client).await.expect("a handshake").1, first, "nothing has changed");
    mounted.swap(&authority.pair(2061));
    certificates.look(mounted.path()).await;
    let (_, second) = shake(&certificates, &client).await.expect("a handshake");
    assert_ne!(first, second);
    let now = certificates.now();
    assert_eq!((now.reads, now.errors), (2, 0));
    assert_eq!(now.expires, not_after(&second));
}

#[tokio::test]
async fn a_broken_pair_changes_nothing_and_counts_once() {
    let authority = Authority::new();
    let good = authority.pair(2060);
    let other = authority.pair(2061);
    let mut mounted = Mounted::new(&good);
    let certificates = Certificates::from_directory(mounted.path()).await.expect("usable");
    let client = client(&authority.roots);
    let broken = [
        (String::new(), good.1.clone()),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned(), good.1.clone()),
        (good.0.clone(), "no key".to_owned()),
        // Each good, and not of each other.
        (good.0.clone(), other.1.clone()),
        ("x".repeat(2 << 20), good.1.clone()),
    ];
    for (number, pair) in broken.iter().enumerate() {
        mounted.swap(pair);
        certificates.look(mounted.path()).await;
        assert_eq!(certificates.now().errors, number as u64, "it may be half written");
        for _ in 0..3 {
            certificates.look(mounted.path()).await;
        }
        assert_eq!(certificates.now().errors, number as u64 + 1);
        shake(&certificates, &client).await.expect("the one before it goes on");
    }
    mounted.swap(&other);
    certificates.look(mounted.path()).await;
    assert_eq!(certificates.now().reads, 2, "what can be used is used at once");
}

#[tokio::test]
async fn a_start_with_what_cannot_be_used_says_which_file_and_what_was_found_and_nothing_of_it() {
    let authority = Authority::new();
    let (certificate, key) = authority.pair(2060);
    let secret: String = key.lines().nth(1).expect("a line of the key").to_owned();
    for (pair, says) in [
        ((String::new(), key.clone()), "tls.crt holds no certificate"),
        ((key.clone(), key.clone()), "tls.crt holds no certificate"),
        (
            (certificate.clone(), format!("-----BEGIN PRIVATE KEY-----\n{secret}!")),
            "tls.key holds no private key",
        ),
        ((certificate.clone(), authority.pair(2061).1), "is not that of the certificate"),
    ] {
        let mounted = Mounted::new(&pair);
        let error = Certificates::from_directory(mounted.path()).await.expect_err(says);
        assert!(error.contains(says), "{error}");
        assert!(!error.contains(&secret[..16]), "{error}");
    }
    let nothing = tempfile::tempdir().expect("a folder");
    let error = Certificates::from_directory(nothing.path()).await.expect_err("no files");
    assert!(error.contains("tls.crt: No such file"), "{error}");
}

#[tokio::test]
async fn tls_is_1_2_or_1_3_and_http_1_1() {
    let (certificates, roots) = trusting().await;
    let with = async |versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]| {
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        shake(&certificates, &Client { roots: roots.clone(), versions: versions.to_vec(), alpn }).await
    };
    assert_eq!(with(&[&TLS12], &[]).await.expect("1.2").0, ProtocolVersion::TLSv1_2);
    assert_eq!(with(&[&TLS13], &[b"h2", b"http/1.1"]).await.expect("1.3").0, ProtocolVersion::TLSv1_3);
    with(&[&TLS13], &[b"h2"]).await.expect_err("no HTTP/2");
}

#[tokio::test]
async fn tls_1_1_is_refused() {
    // An alert: fatal, protocol_version.
    assert_eq!(greeted(2).await.get(..7), Some(&[21, 3, 3, 0, 2, 2, 70][..]));
    // The same with 1.2 is answered by a handshake, so nothing else is wrong with it.
    assert_eq!(greeted(3).await.first(), Some(&22));
}

/// What a client hears whose best version is TLS 1.`minor` - 1.
async fn greeted(minor: u8) -> Vec<u8> {
    let (certificates, _) = trusting().await;
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    // No session, ECDHE_ECDSA with AES in either version's form, no compression.
    body.extend([0, 0, 4, 0xc0, 0x09, 0xc0, 0x2b, 1, 0]);
    // signature_algorithms, supported_groups, ec_point_formats
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0];
    body.extend([0, u8::try_from(extensions.len()).expect("short")]);
    body.extend(extensions);
    let mut hello = vec![1, 0, 0, u8::try_from(body.len()).expect("short")];
    hello.extend(&body);
    let mut record = vec![0x16, 3, 1, 0, u8::try_from(hello.len()).expect("short")];
    record.extend(&hello);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serve = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        TlsAcceptor::from(certificates.config()).accept(stream).await
    };
    let ask = async {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(&record).await.expect("sent");
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await.expect("an answer");
        answer.to_vec()
    };
    let (answer, served) = tokio::join!(ask, serve);
    served.expect_err("not one of them ends its handshake");
    answer
}

#[tokio::test]
async fn a_certificate_of_our_own_is_for_the_names_and_is_made_anew_before_it_ends() {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let (certificate, key) = make(&names).expect("made");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("it signs itself");
    let usable = serve(vec![certificate], key).expect("usable");
    let certificates = Certificates::new(Source::Own(names.clone()), usable, [0; 32], LOOK_EVERY);
    shake(&certificates, &client(&roots)).await.expect("it is for 127.0.0.1");

    let ends = certificates.now().expires.expect("it is X.509");
    let days = (ends - Timestamp::now().as_second()) / 86_400;
    assert!((364..=365).contains(&days), "{days}");
    let first = certificates.config();
    certificates.renew(&names, ends - (OWN_LEFT_DAYS + 1) * 86_400);
    assert!(Arc::ptr_eq(&first, &certificates.config()), "it is not time yet");
    certificates.renew(&names, ends - OWN_LEFT_DAYS * 86_400);
    assert!(!Arc::ptr_eq(&first, &certificates.config()));
    assert_eq!(certificates.now().reads, 2);
    let other = Certificates::own(names).expect("made");
    shake(&other, &client(&roots)).await.expect_err("another key");
}
