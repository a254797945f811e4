//! How the API server is reached: what a kubeconfig or the pod's own account says, read again whenever it changes.
//!
//! Tokens live for an hour, client certificates and the authority that signs the API server's for longer, and all are replaced
//! in their files while a process runs. kube reads a token anew once in fifty seconds and sends whatever it finds; of a kubeconfig it
//! reads the authority and client certificates once. So there is one rule here for all of them, and for the kubeconfig itself: when
//! any of these files says something else, everything is built anew from them, and new requests go through that. Requests under way
//! end as they began, so a watch stays on its connection until it ends. What cannot be used is not used: the last that could stays.
//!
//! It is looked at most once a second, by the request that comes next, and at once after a 401.
//! A proxy, and credentials that a program gives, are left to kube, which asks that program again by itself.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::time::Instant;
use tower::{BoxError, Service, ServiceExt as _};
use tracing::{info, warn};

use crate::connect::{self, Answered, Stack};

/// How often the files are looked at, at most: a few thousand bytes, from memory as a rule.
const LOOK: Duration = Duration::from_secs(1);

/// Where it is said how the API server is reached.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    kubeconfig: Option<PathBuf>,
    connect_timeout: Duration,
    agent: Option<HeaderValue>,
    look: Duration,
}

/// What was said when it was read.
#[derive(Clone)]
pub(crate) struct Said {
    config: kube::Config,
    files: Vec<PathBuf>,
    /// Of the files' content, read before the rest.
    print: u64,
}

impl Access {
    /// By this kubeconfig; without one as kube finds it. Connections have to stand within `connect_timeout`; requests
    /// call themselves `agent`.
    pub(crate) fn new(kubeconfig: Option<PathBuf>, connect_timeout: Duration, agent: &str) -> Self {
        Self { kubeconfig, connect_timeout, agent: agent.parse().ok(), look: LOOK }
    }

    /// The same, with connections that have to stand within `most` if that is sooner.
    pub(crate) fn connecting_within(&self, most: Duration) -> Self {
        Self { connect_timeout: self.connect_timeout.min(most), ..self.clone() }
    }

    /// Reads all that is said, from files: blocks for as long as they do.
    ///
    /// # Errors
    /// One sentence that names the file or the flag.
    pub(crate) async fn read(&self) -> Result<Said, String> {
        let (_, files) = self.config().await?;
        let print = print(&files);
        // What changes from here on makes another print, and so does what changed since the line before.
        let (config, files) = self.config().await?;
        Ok(Said { config, files, print })
    }

    /// A client that goes by what was said, and by what is said from then on. It never retries.
    ///
    /// # Errors
    /// What was said cannot be used: certificates, credentials.
    pub(crate) fn client(&self, said: Said) -> Result<kube::Client, kube::Error> {
        let Said { mut config, files, print } = said;
        config.connect_timeout = Some(self.connect_timeout);
        if connect::is_kubes(&config) {
            return connect::client(config);
        }
        let namespace = config.default_namespace.clone();
        let state = State { stack: connect::stack(config)?, files, print, looked: Instant::now() };
        let follows = Follows(Arc::new(Followed { access: self.clone(), state: Mutex::new(state) }));
        Ok(kube::Client::new(follows, namespace))
    }

    async fn config(&self) -> Result<(kube::Config, Vec<PathBuf>), String> {
        let (mut config, mut files) = match &self.kubeconfig {
            Some(path) => {
                let unusable =
                    |error: &dyn std::fmt::Display| format!("--kubeconfig {}: {error}", path.display());
                let file = Kubeconfig::read_from(path).map_err(|e| unusable(&e))?;
                let files = [vec![path.clone()], named_in(&file)].concat();
                let options = KubeConfigOptions::default();
                let config = kube::Config::from_custom_kubeconfig(file, &options).await;
                (config.map_err(|e| unusable(&e))?, files)
            }
            None => {
                let config = kube::Config::infer().await.map_err(|e| {
                    format!("no API server: not in a pod, and no kubeconfig in --kubeconfig, $KUBECONFIG or ~/.kube/config ({e})")
                })?;
                let named = Kubeconfig::read().map(|file| named_in(&file)).unwrap_or_default();
                (config, [kubeconfigs(), named].concat())
            }
        };
        files.extend(config.root_cert_file.clone());
        files.extend(config.auth_info.token_file.as_ref().map(PathBuf::from));
        files.sort_unstable();
        files.dedup();
        if config.auth_info.token.is_none()
            && let Some(file) = config.auth_info.token_file.take()
        {
            config.auth_info.token = Some(token(Path::new(&file))?.into());
        }
        config.default_retry = false;
        config.connect_timeout = Some(self.connect_timeout);
        // Each request has its own deadline; a watch is silent for as long as it likes.
        config.read_timeout = None;
        config.write_timeout = None;
        config.headers.extend(self.agent.clone().map(|agent| (header::USER_AGENT, agent)));
        Ok((config, files))
    }
}

/// The files of certificates and tokens that a kubeconfig names.
fn named_in(file: &Kubeconfig) -> Vec<PathBuf> {
    let clusters = file.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let authorities = clusters.filter_map(|cluster| cluster.certificate_authority.as_ref());
    let users = file.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let of_users = users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file]);
    authorities.chain(of_users.flatten()).map(PathBuf::from).collect()
}

/// The kubeconfigs that kube looks for.
fn kubeconfigs() -> Vec<PathBuf> {
    match (std::env::var_os("KUBECONFIG"), std::env::var_os("HOME")) {
        (Some(paths), _) => std::env::split_paths(&paths).collect(),
        (None, Some(home)) => vec![Path::new(&home).join(".kube/config")],
        (None, None) => Vec::new(),
    }
}

/// The token in a file: one word, whatever the editor has put behind it.
fn token(file: &Path) -> Result<String, String> {
    let unusable = |why: &dyn std::fmt::Display| format!("token file {}: {why}", file.display());
    let text = std::fs::read(file).map_err(|error| unusable(&error))?;
    let token = text.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(unusable(&"it holds no token"));
    }
    Ok(String::from_utf8_lossy(token).into_owned())
}

/// Tells contents of files from others; one that cannot be read counts as well.
fn print(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        (file, std::fs::read(file).ok()).hash(&mut hasher);
    }
    hasher.finish()
}

/// A service that goes by what is said now.
#[derive(Clone)]
struct Follows(Arc<Followed>);

struct Followed {
    access: Access,
    state: Mutex<State>,
}

struct State {
    stack: Stack,
    files: Vec<PathBuf>,
    /// Of what was looked at last, whether it could be used or not.
    print: u64,
    looked: Instant,
}

impl Service<Request<Body>> for Follows {
    type Response = Response<Answered>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let followed = self.0.clone();
        Box::pin(async move {
            followed.look().await;
            let stack = followed.lock().stack.clone();
            let answer = stack.oneshot(request).await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                followed.doubt();
            }
            Ok(answer)
        })
    }
}

impl Followed {
    /// Looks whether anything else is said now, if it is time to.
    async fn look(&self) {
        let (files, before) = {
            let mut state = self.lock();
            let now = Instant::now();
            if now.duration_since(state.looked) < self.access.look {
                return;
            }
            state.looked = now;
            (state.files.clone(), state.print)
        };
        let print = print(&files);
        if print == before {
            return;
        }
        match self.anew().await {
            Ok((stack, said)) => {
                info!(
                    "credentials or certificates have been replaced: new requests go by what their files say now"
                );
                let mut state = self.lock();
                (state.stack, state.files, state.print) = (stack, said.files, said.print);
            }
            Err(error) => {
                warn!(
                    error,
                    "credentials or certificates have been replaced by what cannot be used; those before stay in use"
                );
                self.lock().print = print;
            }
        }
    }

    async fn anew(&self) -> Result<(Stack, Said), String> {
        let said = self.access.read().await?;
        let stack = connect::stack(said.config.clone()).map_err(|error| error.to_string())?;
        Ok((stack, said))
    }

    /// What was sent was not accepted: the next request looks at once.
    fn doubt(&self) {
        let mut state = self.lock();
        state.looked = state.looked.checked_sub(self.access.look).unwrap_or(state.looked);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each use is a few assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    /// An API server that answers with the token that it is shown, and does not accept `old`.
    fn serve() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).unwrap_or_default();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let token = request.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
                let token = token.unwrap_or("none");
                let status = if token == "old" { "401 Unauthorized" } else { "200 OK" };
                let length = token.len();
                let _ = stream.write_all(
                    format!(
                        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{token}"
                    )
                    .as_bytes(),
                );
            }
        });
        address
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let files = Self(tempfile::tempdir().expect("a folder"));
            files.says("config", &kubeconfig(serve(), r#"{"tokenFile": "token"}"#));
            files
        }

        fn says(&self, file: &str, text: &str) {
            let (path, new) = (self.0.path().join(file), self.0.path().join("new"));
            std::fs::write(&new, text).and_then(|()| std::fs::rename(new, path)).expect("a file");
        }

        async fn client(&self, look: Duration) -> kube::Client {
            let access = Access::new(Some(self.0.path().join("config")), Duration::from_secs(5), "windlass");
            let access = Access { look, ..access };
            access.client(access.read().await.expect("it can be read")).expect("it can be used")
        }
    }

    fn kubeconfig(server: SocketAddr, user: &str) -> String {
        format!(
            r#"{{"clusters": [{{"name": "c", "cluster": {{"server": "http://{server}"}}}}],
                "users": [{{"name": "u", "user": {user}}}],
                "contexts": [{{"name": "x", "context": {{"cluster": "c", "user": "u"}}}}], "current-context": "x"}}"#
        )
    }

    async fn shown(client: &kube::Client) -> String {
        use http_body_util::BodyExt as _;
        let request = Request::get("/").body(Body::empty()).expect("a request");
        let answer = client.send(request).await.expect("an answer");
        let body = answer.into_body().collect().await.expect("whole").to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    }

    #[tokio::test]
    async fn a_token_that_is_replaced_is_shown_and_what_is_none_is_not() {
        let files = Files::new();
        files.says("token", "first\n");
        let client = files.client(Duration::ZERO).await;
        assert_eq!(shown(&client).await, "first", "without the end of its line");
        files.says("token", "second");
        assert_eq!(shown(&client).await, "second");
        for none in ["", "\n", "<html>a login page</html>", "two\nlines", "\u{0}\u{1}"] {
            files.says("token", none);
            assert_eq!(shown(&client).await, "second", "{none:?}");
        }
        std::fs::remove_file(files.0.path().join("token")).expect("it was there");
        assert_eq!(shown(&client).await, "second", "it is gone");
        files.says("token", "third");
        assert_eq!(shown(&client).await, "third");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_replaced_is_gone_by() {
        let files = Files::new();
        files.says("token", "first");
        let client = files.client(Duration::ZERO).await;
        files.says("config", &kubeconfig(serve(), r#"{"token": "inline"}"#));
        assert_eq!(shown(&client).await, "inline", "the server before would not have been there");
        files.says("config", "{");
        assert_eq!(shown(&client).await, "inline");
        files.says("config", &kubeconfig(serve(), r#"{"tokenFile": "token"}"#));
        assert_eq!(shown(&client).await, "first");
    }

    #[tokio::test]
    async fn it_is_looked_now_and_then_and_at_once_when_a_token_is_not_accepted() {
        let files = Files::new();
        files.says("token", "good");
        let client = files.client(Duration::from_secs(3600)).await;
        files.says("token", "old");
        assert_eq!(shown(&client).await, "good", "nobody looks so soon");

        files.says("token", "old");
        let client = files.client(Duration::from_secs(3600)).await;
        assert_eq!(shown(&client).await, "old", "which is a 401");
        files.says("token", "new");
        assert_eq!(shown(&client).await, "new");
    }

    #[tokio::test]
    async fn what_cannot_be_read_at_the_start_is_said_with_its_name() {
        let files = Files::new();
        let access = Access::new(Some(files.0.path().join("config")), Duration::from_secs(5), "windlass");
        let error = access.read().await.err().expect("there is no token");
        assert!(error.contains("/token: "), "{error}");
        files.says("token", " ");
        let error = access.read().await.err().expect("it is empty");
        assert!(error.ends_with("/token: it holds no token"), "{error}");
    }
}
