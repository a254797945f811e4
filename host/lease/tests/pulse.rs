//! The pulse with real sockets and real processes: what is evidence, what is not, and how
//! soon it is there.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod process;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use process::Process;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use windlass_lease::pulse::{Ear, Peer, PeerState, Target};
use windlass_lease::step::Input;

const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for evidence that is wrong to show itself, at ten times what it takes.
const A_WHILE: Duration = Duration::from_millis(500);

/// In the child processes of the others this is a process with a pulse; else nothing.
#[test]
fn a_process_with_a_pulse() {
    process::play();
}

/// An ear in a task of its own, and what it says.
struct Listening {
    told: mpsc::Receiver<Input>,
    peer: watch::Receiver<Peer>,
    targets: watch::Sender<Option<Target>>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn target(at: SocketAddr, nonce: &str) -> Target {
    Target { identity: format!("pod_{nonce}").into(), pulse: format!("{at}/{nonce}").into() }
}

fn listen(at: SocketAddr, nonce: &str) -> Listening {
    listen_as(Ear::new("me", None), at, nonce)
}

fn listen_as(ear: Ear, at: SocketAddr, nonce: &str) -> Listening {
    let (tell, told) = mpsc::channel(8);
    let (state, peer) = watch::channel(Peer::default());
    let (targets, named) = watch::channel(Some(target(at, nonce)));
    let task = tokio::spawn(async move { match ear.follow(named, tell, state).await {} });
    Listening { told, peer, targets, task }
}

impl Listening {
    async fn is(&mut self, state: PeerState) {
        let reached = timeout(PATIENCE, self.peer.wait_for(|peer| peer.state == state)).await;
        drop(reached.unwrap_or_else(|_| panic!("never {state:?}")).unwrap());
    }

    /// Whose death is told, within `time`. Silence is not waited for, nor is it a death.
    async fn death(&mut self, time: Duration) -> Option<Arc<str>> {
        let death = async {
            loop {
                if let Input::Died(identity) = self.told.recv().await.unwrap() {
                    return identity;
                }
            }
        };
        timeout(time, death).await.ok()
    }
}

#[tokio::test]
async fn a_killed_process_is_found_dead_within_50_ms() {
    let mut took = Vec::new();
    for round in 0..10 {
        let nonce = format!("a{round}");
        let process = Process::new(&nonce);
        let mut listening = listen(process.at, &nonce);
        listening.is(PeerState::Verified).await;
        let begun = Instant::now();
        process.signal("-KILL");
        let dead = listening.death(PATIENCE).await.expect("a death is told");
        took.push(begun.elapsed());
        assert_eq!(*dead, format!("pod_a{round}"));
        assert_eq!(listening.peer.borrow().found.as_ref().unwrap().by, "connection refused");
        listening.is(PeerState::Dead).await;
    }
    took.sort();
    println!("kill to evidence, with the start of /bin/kill: median {:?}, most {:?}", took[5], took[9]);
    assert!(took[5] < Duration::from_millis(50), "{took:?}");
}

#[tokio::test]
async fn a_process_that_ends_by_itself_is_found_dead_too() {
    let mut process = Process::new("ab");
    let mut listening = listen(process.at, "ab");
    listening.is(PeerState::Verified).await;
    process.let_go();
    assert!(listening.death(PATIENCE).await.is_some());
}

#[tokio::test]
async fn a_process_that_is_stopped_is_not_dead() {
    let process = Process::new("ab");
    let mut listening = listen(process.at, "ab");
    listening.is(PeerState::Verified).await;
    process.signal("-STOP");
    assert_eq!(listening.death(A_WHILE).await, None);
    // One that starts to listen now is accepted by the kernel, and hears nothing.
    let mut late = listen(process.at, "ab");
    late.is(PeerState::Silent).await;
    assert_eq!(timeout(PATIENCE, late.told.recv()).await.unwrap(), Some(Input::Silent("pod_ab".into())));
    process.signal("-CONT");
    late.is(PeerState::Verified).await;
    assert_eq!(listening.death(Duration::from_millis(1)).await, None);
}

#[tokio::test]
async fn a_process_that_was_never_heard_is_not_found_dead() {
    let process = Process::new("ab");
    let at = process.at;
    drop(process);
    let mut listening = listen(at, "ab");
    listening.is(PeerState::Unreachable).await;
    assert_eq!(listening.death(A_WHILE).await, None);
}

#[tokio::test]
async fn another_process_at_the_address_of_a_known_one_is_evidence() {
    let (process, other) = (Process::new("ab"), Process::new("ef"));
    let relay = Relay::start(process.at);
    let (mut known, mut strange) = (listen(relay.at, "ab"), listen(other.at, "ab"));
    known.is(PeerState::Verified).await;
    strange.is(PeerState::Strange).await;
    relay.leads_to(other.at);
    assert_eq!(known.death(PATIENCE).await.as_deref(), Some("pod_ab"));
    assert_eq!(known.peer.borrow().found.as_ref().unwrap().by, "another process at its address");
    assert_eq!(strange.death(A_WHILE).await, None, "it never heard the one that it looks for");
}

#[tokio::test]
async fn a_cut_connection_to_a_living_process_proves_nothing() {
    let process = Process::new("ab");
    let relay = Relay::start(process.at);
    let mut listening = listen(relay.at, "ab");
    listening.is(PeerState::Verified).await;
    for cuts in 1..=20 {
        relay.leads_to(process.at);
        while relay.connections() <= cuts {
            assert_eq!(listening.death(Duration::from_millis(1)).await, None);
        }
        listening.is(PeerState::Verified).await;
    }
    assert_eq!(listening.death(A_WHILE).await, None);
}

/// What cannot be told from a death: the connection is cut, the next one refused.
#[tokio::test]
async fn a_box_that_cuts_and_refuses_looks_like_a_death() {
    let process = Process::new("ab");
    let relay = Relay::start(process.at);
    let mut listening = listen(relay.at, "ab");
    listening.is(PeerState::Verified).await;
    drop(relay);
    assert_eq!(listening.death(PATIENCE).await.as_deref(), Some("pod_ab"));
}

#[tokio::test]
async fn garbage_proves_nothing() {
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[b'x'; 10_000], b"", b"windlass-pulse/1 \n"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let mut listening = listen(at, "ab");
        let answering = tokio::task::spawn_blocking(move || {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                // It may have gone before all of it was said.
                let _ = stream.write_all(garbage);
            }
        });
        listening.is(PeerState::Strange).await;
        answering.await.unwrap();
        assert_eq!(listening.death(A_WHILE).await, None, "nor does it when its port is closed");
    }
}

#[tokio::test]
async fn a_line_that_never_ends_proves_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut listening = listen(at, "ab");
    let dribbling = tokio::spawn(async move {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        for byte in b"windlass-pulse/1 abab" {
            let gone = tokio::io::AsyncWriteExt::write_all(&mut stream, &[*byte]).await.is_err();
            if gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    listening.is(PeerState::Silent).await;
    assert_eq!(listening.death(Duration::from_millis(1)).await, None);
    dribbling.abort();
}

#[tokio::test]
async fn its_own_nonce_and_its_own_address_prove_nothing() {
    let (process, own) = (Process::new("ab"), Process::new("me"));
    let relay = Relay::start(process.at);
    let mut listening = listen(relay.at, "ab");
    listening.is(PeerState::Verified).await;
    relay.leads_to(own.at);
    listening.is(PeerState::Strange).await;
    assert_eq!(listening.death(A_WHILE).await, None);

    let mut listening = listen_as(Ear::new("me", Some(process.at)), process.at, "ab");
    listening.is(PeerState::Unknown).await;
    assert_eq!(listening.death(Duration::from_millis(1)).await, None);
}

#[tokio::test]
async fn junk_in_the_lease_is_not_dialled() {
    let process = Process::new("ab");
    let mut listening = listen(process.at, "ab");
    listening.is(PeerState::Verified).await;
    for junk in ["", "x", "0.0.0.0:1/ab", "127.0.0.1:9/another"] {
        let junk = Target { identity: "pod_ab".into(), pulse: junk.into() };
        listening.targets.send_replace(Some(junk));
        listening.is(PeerState::Unknown).await;
        listening.targets.send_replace(Some(target(process.at, "ab")));
        listening.is(PeerState::Verified).await;
    }
    listening.targets.send_replace(None);
    listening.is(PeerState::None).await;
}

#[tokio::test]
async fn two_hundred_connections_do_not_keep_a_standby_away() {
    let process = Process::new("ab");
    let mut listening = listen(process.at, "ab");
    listening.is(PeerState::Verified).await;
    let at = process.at;
    let crowd = tokio::task::spawn_blocking(move || {
        let crowd: Vec<_> = (0..200).map(|_| TcpStream::connect(at).unwrap()).collect();
        for stream in &crowd {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            assert_eq!(line, "windlass-pulse/1 ab\n", "everybody is told");
        }
        // The oldest were dropped, the newest are held.
        let open = |stream: &&TcpStream| {
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            stream.peek(&mut [0]).is_err()
        };
        let held = crowd.iter().filter(open).count();
        assert!((32..=64).contains(&held), "{held}");
        crowd
    });
    let crowd = crowd.await.unwrap();
    listening.is(PeerState::Verified).await;
    assert_eq!(listening.death(A_WHILE).await, None, "it was dropped, came back, and found the same");
    drop(crowd);
    process.signal("-KILL");
    assert!(listening.death(PATIENCE).await.is_some());
}

#[tokio::test]
async fn whoever_talks_to_a_pulse_is_sent_away() {
    let process = Process::new("ab");
    let at = process.at;
    let talked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        while stream.write_all(&[b'x'; 512]).is_ok() {}
    });
    timeout(PATIENCE, talked).await.unwrap().unwrap();
}

/// A box in the network: one port, and a way behind it that can be changed. Changing it
/// cuts what is there; dropping it closes the port.
struct Relay {
    at: SocketAddr,
    to: watch::Sender<SocketAddr>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let (to, mut way) = watch::channel(to);
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        let task = tokio::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let to = *way.borrow_and_update();
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = way.changed() => {}
                }
            }
        });
        Self { at, to, connections, task }
    }

    fn leads_to(&self, to: SocketAddr) {
        self.to.send_replace(to);
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
