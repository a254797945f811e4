//! One control plane: started, used, disturbed, ended.
//!
//! Tests share one ([`shared`]) because a start takes seconds, and keep apart by namespace. A test that stops servers, or that
//! counts everything in the audit log, starts its own.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use crate::access::{Access, Credential};
use crate::audit::Audit;
use crate::binaries::Binaries;
use crate::kubelet::Kubelet;
use crate::layout::{KUBELET_USER, Layout};
use crate::options::Options;
use crate::pki::{Authority, Identity};
use crate::process::{Signal, StateDirectory};
use crate::runtime::{block_on, blocking, on_runtime, runtime};
use crate::servers::{Server, Servers, Stop};

/// How often a start is tried when each time another process takes one of the chosen ports.
const PORT_ATTEMPTS: u32 = 4;

/// A cluster's control plane, of ours or somebody else's.
///
/// Dropping one of ours ends its processes and removes its directory, and blocks for some milliseconds while it does. The same
/// happens when the process ends without dropping it, even by SIGKILL (on Linux). Methods may be awaited on any runtime, with its
/// clock paused or not: the work is done on a runtime of the testbed's own.
#[derive(Debug)]
pub struct ControlPlane {
    access: Access,
    kubectl: PathBuf,
    local: Option<Local>,
}

/// What only a control plane of ours has. The fields are dropped in this order.
#[derive(Debug)]
struct Local {
    kubelet: Option<RunningKubelet>,
    servers: Servers,
    authority: Authority,
    directory: StateDirectory,
}

/// A kubelet on the testbed's runtime: told to stop by the first, known to have stopped by the second.
#[derive(Debug)]
struct RunningKubelet {
    stop: Option<oneshot::Sender<()>>,
    /// In a mutex only because a receiver cannot be shared, and a control plane is.
    stopped: Mutex<mpsc::Receiver<()>>,
}

/// The control plane that the tests of this process share: started by whoever asks first, with default options.
///
/// Blocks until it is ready, about five seconds the first time and minutes when its programs have to be built. It is never dropped
/// and still leaves nothing behind.
///
/// # Errors
/// If it could not be started; everybody who asks gets the same message.
pub fn shared() -> Result<&'static ControlPlane> {
    static SHARED: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    let start =
        || block_on(ControlPlane::start_here(Options::default())).map_err(|error| format!("{error:#}"));
    SHARED.get_or_init(start).as_ref().map_err(|message| anyhow::anyhow!("{message}"))
}

impl ControlPlane {
    /// Starts etcd, the API server, the controllers and, unless the options say otherwise, a stand-in for a kubelet.
    ///
    /// When it returns, `/readyz` is ok, the controllers have made the default service account and aggregated the cluster roles.
    ///
    /// # Errors
    /// If the programs cannot be found or built, or one of them ends or hangs; the message holds the last lines of its log.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started so far, except for a build, which is finished for the next caller.
    pub async fn start(options: Options) -> Result<Self> {
        on_runtime(Self::start_here(options)).await
    }

    async fn start_here(options: Options) -> Result<Self> {
        let progress = options.progress.clone();
        let binaries = blocking(move || Binaries::locate_or_build(&*progress)).await?;
        let mut attempts = 1;
        loop {
            let (mut control_plane, servers) = Self::prepare(&binaries, &options)?;
            match control_plane.bring_up(&servers, &options).await {
                Ok(()) => return Ok(control_plane),
                Err(_) if attempts < PORT_ATTEMPTS && servers.lost_a_port() => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the directory and its files. Nothing runs yet.
    fn prepare(binaries: &Binaries, options: &Options) -> Result<(Self, Servers)> {
        let authority = Authority::new()?;
        let directory = StateDirectory::create()?;
        let (layout, access) =
            Layout::write(directory.path(), binaries.clone(), options.clone(), &authority)?;
        let servers = Servers::new(layout);
        let local = Local { kubelet: None, servers: servers.clone(), authority, directory };
        Ok((Self { access, kubectl: binaries.kubectl(), local: Some(local) }, servers))
    }

    async fn bring_up(&mut self, servers: &Servers, options: &Options) -> Result<()> {
        servers.spawn(Server::Etcd)?;
        servers.await_etcd().await?;
        servers.spawn(Server::Apiserver)?;
        let client = self.probe()?;
        servers.await_apiserver(&client).await?;
        servers.spawn(Server::ControllerManager)?;
        if let (Some(placement), Some(local)) = (options.kubelet, self.local.as_mut()) {
            let identity = local.authority.client(KUBELET_USER, "system:masters")?;
            let client = Client::try_from(self.access.config(&Credential::Certificate(identity))?)?;
            local.kubelet = Some(RunningKubelet::start(Kubelet::new(client, placement))?);
        }
        servers.await_controllers(&client).await
    }

    /// Uses a cluster that is there already, through the current context of a kubeconfig. Ending this value does not touch it.
    ///
    /// Everything that needs servers of ours fails on it with a sentence: the audit log, users by token, stopping and starting.
    ///
    /// # Errors
    /// If the kubeconfig cannot be read or used, or its API server does not answer.
    pub async fn external(kubeconfig: impl Into<PathBuf>) -> Result<Self> {
        let path = kubeconfig.into();
        on_runtime(async move {
            let access = Access::of_kubeconfig(path).await?;
            let client = Client::try_from(access.config(access.admin())?)?;
            client
                .apiserver_version()
                .await
                .with_context(|| format!("{} does not answer", access.server()))?;
            Ok(Self { access, kubectl: PathBuf::from("kubectl"), local: None })
        })
        .await
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig_path(&self) -> &Path {
        self.access.kubeconfig_path()
    }

    /// `https://127.0.0.1:<port>`; the port stays the same over restarts of the API server.
    pub fn server_url(&self) -> &str {
        self.access.server()
    }

    /// The certificates that sign the API server's, as PEM. Empty for an external cluster whose kubeconfig names none.
    pub fn ca_pem(&self) -> &str {
        self.access.ca_pem()
    }

    /// A configuration for kube's client with the administrator's rights, which retries 429, 503 and 504.
    ///
    /// # Errors
    /// If the server's address is no URL, which only an external kubeconfig can bring about.
    pub fn config(&self) -> Result<kube::Config> {
        self.access.config(self.access.admin())
    }

    /// The same for one of the users in the options.
    ///
    /// # Errors
    /// If there is no such user; the message names those that there are.
    pub fn config_for(&self, user: &str) -> Result<kube::Config> {
        self.access.config(&Credential::Token(self.token_for(user)?.to_owned()))
    }

    /// The same with any bearer token.
    ///
    /// # Errors
    /// As for [`config`](Self::config).
    pub fn config_with_token(&self, token: &str) -> Result<kube::Config> {
        self.access.config(&Credential::Token(token.to_owned()))
    }

    /// A client with the administrator's rights. It works on the runtime that it is made on, and no longer than that lives.
    ///
    /// # Errors
    /// If it cannot be made from the configuration.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::try_from(self.config()?)?)
    }

    /// The bearer token of one of the users in the options.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn token_for(&self, user: &str) -> Result<&str> {
        self.access.token(user)
    }

    /// Writes a kubeconfig for one of the users in the options, and says where. It goes with the control plane.
    ///
    /// # Errors
    /// If there is no such user, or the file cannot be written.
    pub fn kubeconfig_for(&self, user: &str) -> Result<PathBuf> {
        let token = self.token_for(user)?;
        self.kubeconfig_with_token(user, token)
    }

    /// Writes a kubeconfig with any bearer token, under a name of the caller's, and says where.
    ///
    /// # Errors
    /// If the file cannot be written, or the cluster is external: there is no directory to keep it in.
    pub fn kubeconfig_with_token(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.kubeconfig_through(self.server_url(), name, token)
    }

    /// The same for a proxy in front of the API server, whose certificate is from
    /// [`issue_serving_certificate`](Self::issue_serving_certificate).
    ///
    /// # Errors
    /// As for [`kubeconfig_with_token`](Self::kubeconfig_with_token).
    pub fn kubeconfig_through(&self, server_url: &str, name: &str, token: &str) -> Result<PathBuf> {
        let file: String =
            name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
        let path = self.local()?.directory.path().join(format!("{file}.user.kubeconfig"));
        let content = self.access.kubeconfig_at(server_url, &Credential::Token(token.to_owned()));
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Asks for a token of a ServiceAccount that exists, valid for an hour.
    ///
    /// # Errors
    /// If the API server refuses, for one because there is no such account.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": 3600 } });
        let answer =
            self.post(path, body).await.with_context(|| format!("no token for {namespace}/{name}"))?;
        answer["status"]["token"].as_str().map(str::to_owned).context("the answer holds no token")
    }

    /// Makes a namespace of its own for a test: the prefix and some random letters. Its default service account is there.
    ///
    /// Nobody need remove it. A test that does waits more than five seconds: the namespace controller looks no sooner.
    ///
    /// # Errors
    /// If the API server refuses, or no controller makes the account within 30 s.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let name = format!("{prefix}-{:08x}", rand::random::<u32>());
        self.post("/api/v1/namespaces".to_owned(), json!({ "metadata": { "name": name } })).await?;
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        let config = self.config()?;
        on_runtime(async move {
            let client = Client::try_from(config)?;
            for _ in 0..3000 {
                if client.request::<Value>(http::Request::get(&path).body(Vec::new())?).await.is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            bail!("no default service account in a new namespace")
        })
        .await?;
        Ok(name)
    }

    async fn post(&self, path: String, body: Value) -> Result<Value> {
        let config = self.config()?;
        on_runtime(async move {
            let request = http::Request::post(path)
                .header("content-type", "application/json")
                .body(body.to_string().into_bytes())?;
            Ok(Client::try_from(config)?.request(request).await?)
        })
        .await
    }

    /// Runs kubectl as the administrator and gives back all that it said, whether it succeeded or not.
    ///
    /// # Errors
    /// If kubectl cannot be run.
    ///
    /// # Cancel safety
    /// Dropping the future kills kubectl.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_with_input(arguments, "").await
    }

    /// The same with something on standard input, for `-f -`.
    ///
    /// # Errors
    /// As for [`kubectl`](Self::kubectl).
    pub async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = tokio::process::Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig_path()).args(arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(local) = &self.local {
            // Its discovery cache would end up in the home directory otherwise.
            command.env("KUBECACHEDIR", local.directory.path().join("kubectl-cache"));
        }
        let input = input.to_owned();
        on_runtime(async move {
            let mut child = command.spawn().context("kubectl did not start")?;
            let mut stdin = child.stdin.take().context("standard input was piped")?;
            let feed = async move {
                // It may end without reading, and says why on its standard error.
                drop(stdin.write_all(input.as_bytes()).await);
                drop(stdin);
            };
            let (output, ()) = tokio::join!(child.wait_with_output(), feed);
            output.context("kubectl was lost")
        })
        .await
    }

    /// Applies manifests (YAML, several documents allowed) with server-side apply, as the administrator.
    ///
    /// # Errors
    /// If kubectl fails; the message is its own.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        let output = self.kubectl_with_input(&["apply", "--server-side", "-f", "-"], manifests).await?;
        ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    fn local(&self) -> Result<&Local> {
        self.local
            .as_ref()
            .context("this needs a control plane of the testbed's own, and this one is external")
    }

    pub(crate) fn layout(&self) -> Result<&Layout> {
        Ok(self.local()?.servers.layout())
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// The audit log, whose [`Audit::path`] the API server appends to.
    ///
    /// # Errors
    /// If the cluster is external.
    pub fn audit(&self) -> Result<Audit> {
        Ok(Audit::new(self.local()?.servers.layout().audit_log()))
    }

    /// etcd's address for clients, without TLS: for histories that the API server does not tell.
    ///
    /// # Errors
    /// If the cluster is external.
    pub fn etcd_url(&self) -> Result<String> {
        Ok(self.local()?.servers.layout().etcd_url())
    }

    /// The directory with all files of this control plane; it is removed at the end.
    ///
    /// # Errors
    /// If the cluster is external.
    pub fn directory(&self) -> Result<&Path> {
        Ok(self.local()?.directory.path())
    }

    /// Signs a serving certificate that clients of this control plane trust, for a proxy in front of it.
    ///
    /// # Errors
    /// If the cluster is external, or a name is neither an address nor a DNS name.
    pub fn issue_serving_certificate(&self, names: &[&str]) -> Result<Identity> {
        self.local()?.authority.server(names)
    }

    /// Signs a client certificate that the API server believes.
    ///
    /// # Errors
    /// If the cluster is external.
    pub fn issue_client_certificate(&self, user: &str, group: &str) -> Result<Identity> {
        self.local()?.authority.client(user, group)
    }

    /// Who signs for this control plane, for certificates that have an end.
    ///
    /// # Errors
    /// If the cluster is external.
    pub fn authority(&self) -> Result<&Authority> {
        Ok(&self.local()?.authority)
    }

    /// The process id of a server, or `None` while it is stopped.
    ///
    /// # Errors
    /// If the cluster is external.
    pub fn process_id(&self, server: Server) -> Result<Option<u32>> {
        Ok(self.local()?.servers.id(server))
    }

    /// The log file of a server.
    ///
    /// # Errors
    /// If the cluster is external.
    pub fn log_path(&self, server: Server) -> Result<PathBuf> {
        Ok(self.local()?.servers.log(server))
    }

    /// Sends a signal to a server, for example [`Signal::STOP`] and [`Signal::CONT`] to freeze etcd for a while.
    ///
    /// # Errors
    /// If the cluster is external, or the server is stopped.
    pub fn signal(&self, server: Server, signal: Signal) -> Result<()> {
        self.local()?.servers.signal(server, signal)
    }

    /// Ends a server and waits until its process is gone. What etcd holds stays.
    ///
    /// # Errors
    /// If the cluster is external, or the server is stopped already.
    pub async fn stop(&self, server: Server, how: Stop) -> Result<()> {
        let servers = self.local()?.servers.clone();
        blocking(move || servers.stop(server, how)).await
    }

    /// Starts a server again that was stopped, on the same port, and waits until it serves.
    ///
    /// # Errors
    /// If the cluster is external, the server runs, or it does not come up.
    pub async fn start_again(&self, server: Server) -> Result<()> {
        let (servers, client) = (self.local()?.servers.clone(), self.access.config(self.access.admin())?);
        on_runtime(async move {
            servers.spawn(server)?;
            let client = probe(client)?;
            match server {
                Server::Etcd => servers.await_etcd().await,
                Server::Apiserver => servers.await_apiserver(&client).await,
                Server::ControllerManager => servers.await_controllers(&client).await,
            }
        })
        .await
    }

    /// [`stop`](Self::stop) for the API server.
    ///
    /// # Errors
    /// As for `stop`.
    pub async fn stop_apiserver(&self, how: Stop) -> Result<()> {
        self.stop(Server::Apiserver, how).await
    }

    /// [`start_again`](Self::start_again) for the API server.
    ///
    /// # Errors
    /// As for `start_again`.
    pub async fn start_apiserver(&self) -> Result<()> {
        self.start_again(Server::Apiserver).await
    }

    /// Ends the API server and starts it again on the same port and the same etcd.
    ///
    /// # Errors
    /// As for `stop` and `start_again`.
    pub async fn restart_apiserver(&self, how: Stop) -> Result<()> {
        self.stop_apiserver(how).await?;
        self.start_apiserver().await
    }

    fn probe(&self) -> Result<Client> {
        probe(self.config()?)
    }
}

/// A client that says at once what the server says, without retries.
fn probe(mut config: kube::Config) -> Result<Client> {
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

impl Drop for Local {
    fn drop(&mut self) {
        // The kubelet goes first, or it would spend its end retrying against servers that are gone.
        drop(self.kubelet.take());
        self.servers.end();
    }
}

impl RunningKubelet {
    fn start(kubelet: Kubelet) -> Result<Self> {
        let (stop, asked) = oneshot::channel();
        let (ended, stopped) = mpsc::sync_channel::<()>(1);
        let body = async move {
            // A sender that was dropped asks for the end as well.
            kubelet.run(async { drop(asked.await) }).await;
            drop(ended);
        };
        // Joined by `stopped`, which a destructor can wait for and a JoinHandle cannot.
        drop(runtime()?.spawn(body));
        Ok(Self { stop: Some(stop), stopped: Mutex::new(stopped) })
    }
}

impl Drop for RunningKubelet {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Its end is the sender's end, so this is an error in any case; the wait has a bound because a destructor must not hang.
        let stopped = self.stopped.get_mut().unwrap_or_else(PoisonError::into_inner);
        stopped.recv_timeout(Duration::from_secs(2)).ok();
    }
}
