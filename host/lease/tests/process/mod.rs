//! Processes with a pulse, to be stopped and killed: the test's own binary, started again
//! to run nothing but the test `a_process_with_a_pulse`.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use windlass_lease::pulse::Server;

/// In a child process: the nonce that it says.
const NONCE: &str = "WINDLASS_TEST_PULSE";

/// What the child process does. In the test's own process: nothing.
pub(crate) fn play() {
    let Ok(nonce) = std::env::var(NONCE) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nat {}", listener.local_addr().unwrap());
    let _server = Server::start(listener, &nonce).unwrap();
    // Ends when whoever started it lets go, or kills it.
    let _ = std::io::stdin().read(&mut [0]);
}

/// A process of its own. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// Where its pulse is.
    pub(crate) at: SocketAddr,
}

impl Process {
    pub(crate) fn new(nonce: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_with_a_pulse", "--nocapture"])
            .env(NONCE, nonce)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let at = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("at ")?.parse().ok());
        Self { child, at: at.expect("it says where it listens") }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Lets it end by itself.
    pub(crate) fn let_go(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
