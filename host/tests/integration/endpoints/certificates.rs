//! The certificate of a running host is swapped under open scraping.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use windlass_testbed::{Authority, Identity};

use super::{Reader, bound_token, metrics_auth};
use crate::scene::Scene;

/// A folder as a kubelet keeps a mounted Secret.
struct Mounted(TempDir);

impl Mounted {
    fn new(identity: &Identity) -> Self {
        let mounted = Self(tempfile::tempdir().expect("a folder"));
        mounted.swap("..one", &identity.certificate_pem, &identity.key_pem);
        for file in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(Path::new("..data").join(file), mounted.path().join(file))
                .expect("a link");
        }
        mounted
    }

    fn swap(&self, version: &str, certificate: &str, key: &str) {
        let folder = self.path().join(version);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("tls.crt"), certificate).expect("written");
        std::fs::write(folder.join("tls.key"), key).expect("written");
        std::os::unix::fs::symlink(version, self.path().join("..tmp")).expect("a link");
        std::fs::rename(self.path().join("..tmp"), self.path().join("..data")).expect("swapped");
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A client that trusts what these authorities sign, and nothing else.
fn trusting(address: std::net::SocketAddr, authorities: &[&Authority], token: &str) -> Reader {
    let mut config = kube::Config::new(format!("https://{address}").parse().expect("an address"));
    config.root_cert =
        Some(authorities.iter().map(|authority| authority.certificate_der().to_vec()).collect());
    Reader::with(config, token)
}

#[tokio::test]
async fn a_certificate_is_swapped_under_open_scraping_and_a_broken_one_changes_nothing() {
    let scene = Scene::fresh("certificates").await;
    metrics_auth(&scene).await;
    let (first, second) = (Authority::new().expect("made"), Authority::new().expect("made"));
    let names = ["127.0.0.1"];
    let mounted = Mounted::new(&first.server(&names).expect("signed"));
    let folder = format!("--metrics-cert-dir={}", mounted.path().display());
    scene.replicas(1, &["--metrics-secure=true", &folder]).await;
    let address = scene.all().await[0].metrics_address();
    let token = bound_token(&scene, "scraper", &["windlass-metrics-reader"]).await;
    let (by_first, by_second) = (trusting(address, &[&first], &token), trusting(address, &[&second], &token));
    let up = || async { matches!(by_first.try_get("/metrics").await, Ok((200, _))).then_some(()) };
    scene.until("it is scraped with the first", up).await;
    by_second.try_get("/metrics").await.expect_err("not signed by the second");

    // One who trusts both scrapes all the time.
    let both = trusting(address, &[&first, &second], &token);
    let scrapes = Arc::new(AtomicUsize::new(0));
    let counted = scrapes.clone();
    let scraping = tokio::spawn(async move {
        loop {
            let answer = both.try_get("/metrics").await;
            assert!(matches!(answer, Ok((200, _))), "no scrape fails: {answer:?}");
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });

    let key = "-----BEGIN PRIVATE KEY-----\nQw7hunter2VeryMuchSecret\n-----END PRIVATE KEY-----\n";
    mounted.swap("..two", &first.server(&names).expect("signed").certificate_pem, key);
    let reported = || async {
        let log = scene.all().await[0].log();
        log.contains("the new certificate cannot be used, the one before it goes on").then_some(log)
    };
    let log = scene.until("the broken one is reported", reported).await;
    let line = log.lines().find(|line| line.contains("cannot be used")).expect("just seen");
    assert!(line.contains("tls.key") && line.contains("WARN"), "{line}");
    assert!(!log.contains("hunter2") && !log.contains(&STANDARD.encode("hunter2")));
    assert!(matches!(by_first.try_get("/metrics").await, Ok((200, _))), "the one before it goes on");

    let next = second.server(&names).expect("signed");
    mounted.swap("..three", &next.certificate_pem, &next.key_pem);
    let swapped = || async { matches!(by_second.try_get("/metrics").await, Ok((200, _))).then_some(()) };
    scene.until("the second one is used", swapped).await;
    by_first.try_get("/metrics").await.expect_err("the first one is not used any more");
    let (_, metrics) = by_second.get("/metrics").await;
    for line in ["certwatcher_read_certificate_total 2\n", "certwatcher_read_certificate_errors_total 1\n"] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    let log = scene.all().await[0].log();
    assert_eq!(log.matches("the new certificate cannot be used").count(), 1, "it is said once");
    assert!(!scraping.is_finished(), "no scrape failed");
    assert!(scrapes.load(Ordering::Relaxed) > 20);
    scraping.abort();
}
