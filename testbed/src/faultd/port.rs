//! One port of the proxy: its listener, its connections, and the switches for all of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::active::{Active, Rules};
use super::carry::answer;
use super::gate::{Gate, Gated, Silence};
use super::rule::{Rule, Way};
use super::tasks::Tasks;
use super::upstream::Upstream;
use crate::control_plane::ControlPlane;
use crate::layout::free_ports;
use crate::runtime::on_runtime;

/// How long a closed port may take to open again: another process may hold its number for a moment.
const REOPEN_WITHIN: Duration = Duration::from_secs(10);

/// Between two attempts at something that failed for want of a port or a file descriptor.
const PAUSE: Duration = Duration::from_millis(10);

/// What the tasks of a port share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The first one; a port that [moves](Port::move_to) keeps its number.
    address: SocketAddr,
    acceptor: Arc<ServerConfig>,
    upstream: Upstream,
    tasks: Tasks,
    rules: watch::Sender<Rules>,
    /// Where it is to listen, and where it does.
    listens: (watch::Sender<Option<IpAddr>>, watch::Sender<Option<IpAddr>>),
    /// Where it listens when it does.
    home: Mutex<IpAddr>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    silence: Silence,
    gates: Vec<Weak<Gate>>,
}

impl Shared {
    pub(super) fn rules(&self) -> &watch::Sender<Rules> {
        &self.rules
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn home(&self) -> MutexGuard<'_, IpAddr> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gate for a new connection, as silent as the others are.
    fn admit(&self) -> Arc<Gate> {
        let mut connections = self.connections();
        connections.gates.retain(|gate| gate.strong_count() > 0);
        let gate = Gate::new(connections.silence);
        connections.gates.push(Arc::downgrade(&gate));
        gate
    }

    fn silence(&self, silence: Silence) {
        let mut connections = self.connections();
        connections.silence = silence;
        connections.gates.iter().filter_map(Weak::upgrade).for_each(|gate| gate.set(silence));
    }
}

/// One way to the API server, meant for one replica. Cheap to clone; all clones are the same port.
///
/// It works until the [`Faultd`](super::Faultd) that it came from is dropped.
#[derive(Debug, Clone)]
pub struct Port {
    shared: Arc<Shared>,
}

impl Port {
    /// Opens a port that nobody else has.
    pub(super) async fn open(
        server: String,
        roots: Arc<ClientConfig>,
        acceptor: Arc<ServerConfig>,
        tasks: Tasks,
    ) -> Result<Self> {
        let (address, listener) = bind().await?;
        let shared = Arc::new(Shared {
            address,
            acceptor,
            upstream: Upstream::new(&server, &roots, &tasks)?,
            tasks,
            rules: watch::Sender::new(Rules::default()),
            listens: (watch::Sender::new(Some(address.ip())), watch::Sender::new(Some(address.ip()))),
            home: Mutex::new(address.ip()),
            connections: Mutex::default(),
        });
        shared.tasks.spawn(listen(shared.clone(), listener));
        Ok(Self { shared })
    }

    /// `https://127.0.0.1:<port>`, wherever it has moved.
    pub fn url(&self) -> String {
        format!("https://{}", self.shared.address)
    }

    /// Where it listened first.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Writes a kubeconfig that goes through this port with a bearer token, under a name of the caller's, and says where.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn kubeconfig(&self, control_plane: &ControlPlane, name: &str, token: &str) -> Result<PathBuf> {
        control_plane.kubeconfig_through(&self.url(), name, token)
    }

    /// Adds a rule behind those that there are. It holds for requests from now on, and for events of streams that are open.
    pub fn rule(&self, rule: Rule) -> Active {
        Active::add(rule, &self.shared.rules)
    }

    /// Removes all rules and lets go of what they hold. Silence and a closed listener are for [`heal`](Self::heal).
    pub fn clear(&self) {
        let rules = self.shared.rules.send_replace(Rules::default());
        rules.iter().for_each(|rule| rule.release());
    }

    /// A partition: connections go silent both ways, new ones are accepted by the kernel and never answered. What is on its way
    /// stays there, and arrives when it heals; requests that the API server has are carried out.
    pub fn cut(&self) {
        self.shared.silence(Silence { request: true, response: true });
    }

    /// Half a partition: one way is silent. With [`Way::Response`] requests over open connections arrive and are carried
    /// out, and nobody hears of it; new connections do not get past their handshake in either case.
    pub fn mute(&self, way: Way) {
        let silence = Silence { request: way == Way::Request, response: way == Way::Response };
        self.shared.silence(silence);
    }

    /// Resets all connections there are; new ones are welcome.
    pub fn reset(&self) {
        let gates: Vec<_> = self.shared.connections().gates.drain(..).collect();
        gates.iter().filter_map(Weak::upgrade).for_each(|gate| gate.reset());
    }

    /// A server that is gone: the listener is closed when this returns, and all connections are reset.
    ///
    /// # Errors
    /// If the proxy has been dropped.
    pub async fn refuse(&self) -> Result<()> {
        self.listening(None).await?;
        self.reset();
        Ok(())
    }

    /// A server that has moved: the port's number at another address of this machine, 127.0.0.2 for one. Nobody listens
    /// at the old one, and connections that there were hear nothing more and are never closed.
    ///
    /// # Errors
    /// If the proxy has been dropped, or the number is taken at that address and stays so for 10 s.
    pub async fn move_to(&self, ip: Ipv4Addr) -> Result<()> {
        let silence = Silence { request: true, response: true };
        let gates: Vec<_> = self.shared.connections().gates.drain(..).collect();
        gates.iter().filter_map(Weak::upgrade).for_each(|gate| gate.set(silence));
        *self.shared.home() = ip.into();
        self.listening(Some(ip.into())).await
    }

    /// Ends what [`cut`](Self::cut), [`mute`](Self::mute) and [`refuse`](Self::refuse) began. Rules stay.
    ///
    /// # Errors
    /// If the proxy has been dropped, or somebody else has taken the port's number and keeps it for 10 s.
    pub async fn heal(&self) -> Result<()> {
        self.shared.silence(Silence::default());
        let home = *self.shared.home();
        self.listening(Some(home)).await
    }

    async fn listening(&self, wanted: Option<IpAddr>) -> Result<()> {
        let (wish, is) = &self.shared.listens;
        wish.send_replace(wanted);
        let mut is = is.subscribe();
        let address = self.shared.address;
        on_runtime(async move {
            tokio::time::timeout(REOPEN_WITHIN, is.wait_for(|is| *is == wanted))
                .await
                .with_context(|| format!("{address} could not be opened or closed"))?
                .context("the port is gone")?;
            Ok(())
        })
        .await
    }
}

/// A listener on a port that is clear of outgoing connections, so that it is still free when it is opened again.
async fn bind() -> Result<(SocketAddr, TcpListener)> {
    for _ in 0..100 {
        let [port] = free_ports();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if let Ok(listener) = TcpListener::bind(address).await {
            return Ok((address, listener));
        }
    }
    anyhow::bail!("no port is free")
}

/// Accepts connections while the port is to listen.
async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let (wish, is) = &shared.listens;
    let mut wish = wish.subscribe();
    let mut listener = Some((shared.address.ip(), listener));
    loop {
        let wanted = *wish.borrow_and_update();
        match (wanted, &listener) {
            (Some(ip), Some((at, open))) if ip == *at => {
                tokio::select! {
                    biased;
                    _ = wish.changed() => {}
                    accepted = open.accept() => match accepted {
                        Ok((stream, _)) => begin(&shared, stream),
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    },
                }
            }
            (Some(ip), _) => {
                listener = None;
                match TcpListener::bind((ip, shared.address.port())).await {
                    Ok(open) => {
                        listener = Some((ip, open));
                        is.send_replace(Some(ip));
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
            (None, _) => {
                listener = None;
                is.send_replace(None);
                // The sender is in `shared`: an error would be the end of the port, which ends this task first.
                wish.changed().await.ok();
            }
        }
    }
}

fn begin(shared: &Arc<Shared>, stream: TcpStream) {
    // Without it small answers wait for acknowledgements; a failure costs milliseconds and nothing else.
    stream.set_nodelay(true).ok();
    let gate = shared.admit();
    shared.tasks.spawn(connection(shared.clone(), stream, gate));
}

/// One connection until it ends or is reset.
async fn connection(shared: Arc<Shared>, stream: TcpStream, gate: Arc<Gate>) {
    let served = serve(shared, stream, gate.clone());
    tokio::select! {
        biased;
        () = gate.is_reset() => {}
        () = served => {}
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, gate: Arc<Gate>) {
    let acceptor = TlsAcceptor::from(shared.acceptor.clone());
    // A client that does not trust us, or leaves, has nobody to be told.
    let Ok(stream) = acceptor.accept(Gated::new(stream, gate.clone())).await else { return };
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let tasks = shared.tasks.clone();
    let service = service_fn(move |request| answer(shared.clone(), gate.clone(), request));
    let stream = TokioIo::new(stream);
    // How a connection ends is the client's business.
    if speaks_h2 {
        let mut server = http2::Builder::new(tasks);
        server.timer(TokioTimer::new()).serve_connection(stream, service).await.ok();
    } else {
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .serve_connection(stream, service)
            .await
            .ok();
    }
}
