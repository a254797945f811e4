//! The cables: a switch in a network namespace of its own, to which this machine and the nodes are connected.
//!
//! Only one interface is in this machine's own namespace. It, its address and its routes go when the switch does.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::machine::child_of;
use crate::process::{Process, StateDirectory};

/// A cluster's addresses: a /16 of which `.0` belongs to the machines and `.<n>` to the pods of the n-th.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    second: u8,
}

impl Addresses {
    /// Some that nothing here has a route to.
    fn free() -> Result<Self> {
        let routes = run("ip", &["-4", "route", "show", "table", "all"])?;
        let taken = |second: u8| routes.contains(&format!("10.{second}."));
        let start: u8 = rand::random_range(100..200);
        let free = (start..250).chain(100..start).find(|second| !taken(*second));
        Ok(Self { second: free.context("there are routes to all of 10.100.0.0 to 10.249.0.0")? })
    }

    /// Where the API server is: this machine.
    pub(super) fn here(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second, 0, 1)
    }

    /// The n-th machine, from 1.
    pub(super) fn machine(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second, 0, 10 + number)
    }

    /// The network of its pods.
    pub(super) fn pods_of(self, number: u8) -> String {
        format!("10.{}.{number}.0/24", self.second)
    }

    /// All pods and machines.
    pub(super) fn all(self) -> String {
        format!("10.{}.0.0/16", self.second)
    }
}

/// The switch. Dropping it removes it, with every cable.
#[derive(Debug)]
pub(super) struct Switch {
    pub(super) addresses: Addresses,
    /// The name of this machine's interface.
    interface: String,
    /// The process whose namespace it is in; below `holder`.
    inside: String,
    _holder: Process,
}

impl Switch {
    /// Makes one, with this machine plugged in, and routes to the pods of so many others.
    ///
    /// # Errors
    /// If the kernel refuses; the message is that of `ip`.
    pub(super) fn create(id: &str, machines: u8, directory: &StateDirectory) -> Result<Self> {
        let addresses = Addresses::free()?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--fork", "--kill-child", "sleep", "infinity"]);
        let holder = Process::spawn("switch", command, &directory.path().join("switch.log"))?;
        let inside = child_of(holder.id())?.to_string();
        let interface = format!("wl{id}");
        run("ip", &["link", "add", &interface, "type", "veth", "peer", "name", "uplink", "netns", &inside])?;
        let switch = Self { addresses, interface, inside, _holder: holder };
        switch.ip(&["link", "add", "switch", "type", "bridge"])?;
        switch.ip(&["link", "set", "dev", "switch", "up"])?;
        switch.plug("uplink")?;
        let interface = &*switch.interface;
        run("ip", &["address", "add", &format!("{}/24", addresses.here()), "dev", interface])?;
        run("ip", &["link", "set", "dev", interface, "up"])?;
        for number in 1..=machines {
            let via = addresses.machine(number).to_string();
            run("ip", &["route", "add", &addresses.pods_of(number), "via", &via, "dev", interface])?;
        }
        Ok(switch)
    }

    /// Lays a cable to a process's network namespace, where it is `eth0`.
    pub(super) fn connect(&self, machine: &str, process: u32) -> Result<()> {
        let there = process.to_string();
        self.ip(&["link", "add", machine, "type", "veth", "peer", "name", "eth0", "netns", &there])?;
        self.plug(machine)
    }

    fn plug(&self, port: &str) -> Result<()> {
        self.ip(&["link", "set", "dev", port, "master", "switch"])?;
        self.ip(&["link", "set", "dev", port, "up"])
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let enter = ["--target", &self.inside, "--net", "ip"];
        run("nsenter", &[&enter[..], arguments].concat()).map(drop)
    }
}

/// Runs a short command, and gives back what it printed.
///
/// # Errors
/// What it said, if it did not succeed.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} did not start: is it installed?"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks every few milliseconds until there is an answer.
pub(super) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if began.elapsed() > patience {
            bail!("not within {patience:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
