//! The election as the flags want it: Lease, pulse, claim Role, and what tells of them.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};
use windlass_core::claim::{Gate, Term};
use windlass_lease::claim_role::ClaimRole;
use windlass_lease::clock::Boottime;
use windlass_lease::driver::{Config, Handle, LeaseDriver};
use windlass_lease::durations::Durations;
use windlass_lease::pulse::Pulse;

use crate::access::{Access, Said};
use crate::args::Run;
use crate::end::End;
use crate::observe::Observed;

/// Everything about the election that can be refused before it starts.
pub(crate) struct Election {
    config: Config,
    claim_role: Arc<ClaimRole>,
    #[cfg(feature = "mutants")]
    unchecked_claim: bool,
}

impl Election {
    /// Binds the pulse and reads the flags.
    pub(crate) fn prepare(flags: &Run, durations: Durations, identity: Arc<str>) -> Result<Self, End> {
        let timeout = durations.request_timeout();
        let claim_role = Arc::new(ClaimRole::new(flags.namespace.as_str(), timeout, Arc::new(Boottime)));
        let namespace = flags.lease_namespace.as_ref().unwrap_or(&flags.namespace);
        let config = Config {
            leader_elect: flags.leader_elect,
            hook: Some(claim_role.clone()),
            pulse: pulse(flags)?,
            death_evidence: flags.death_evidence,
            ..Config::new(namespace, &flags.lease_name, identity, durations)
        };
        #[cfg(feature = "mutants")]
        let (config, unchecked_claim) = mutate(flags, config)?;
        Ok(Self {
            config,
            claim_role,
            #[cfg(feature = "mutants")]
            unchecked_claim,
        })
    }

    pub(crate) fn claim_role(&self) -> Arc<ClaimRole> {
        self.claim_role.clone()
    }

    /// Joins the election. `refused` brings the terms whose writes the API server refuses.
    pub(crate) fn start(
        self,
        access: &Access,
        said: Said,
        gate: &Arc<Gate>,
        refused: mpsc::Receiver<Term>,
        observed: Arc<Observed>,
    ) -> Result<Arc<Handle>, End> {
        #[cfg(feature = "mutants")]
        if self.unchecked_claim {
            gate.ignore_ends();
        }
        let config = Config { refused: Some(refused), observe: Some(observed), ..self.config };
        let access = access.connecting_within(config.durations.request_timeout());
        let connect = Box::new(move || access.client(said));
        let started = LeaseDriver::start_with(config, connect, Arc::new(Boottime), gate.clone());
        started.map(Arc::new).map_err(|error| End::Early(error.to_string()))
    }
}

/// The pulse, bound, so that an address in use is found at the start.
fn pulse(flags: &Run) -> Result<Option<Pulse>, End> {
    let wanted = flags.pulse_bind_address;
    let unusable = |error: std::io::Error| {
        End::Unusable(format!("--pulse-bind-address {wanted} cannot be used: {error}"))
    };
    let listener = TcpListener::bind(wanted).map_err(unusable)?;
    let bound = listener.local_addr().map_err(unusable)?;
    let advertise = flags.pulse_address(bound);
    if advertise.ip().is_unspecified() {
        warn!(
            "no address for the pulse: set --pulse-advertise-address or POD_IP; \
             until then the death of this process is noticed when its lease has run out"
        );
        return Ok(None);
    }
    info!(flag = "--pulse-bind-address", address = %bound, %advertise, "listening");
    Ok(Some(Pulse { listener, advertise }))
}

/// Breaks the rule that `--mutant` names; whether it is the writer's.
#[cfg(feature = "mutants")]
fn mutate(flags: &Run, mut config: Config) -> Result<(Config, bool), End> {
    let Some(name) = flags.mutant.as_deref() else {
        return Ok((config, false));
    };
    warn!(mutant = name, "a rule of leadership is broken on purpose");
    if name == "unchecked-claim" {
        return Ok((config, true));
    }
    let mutant = name.parse().map_err(|error| End::Unusable(format!("--mutant: {error}")))?;
    config.mutant = Some(mutant);
    Ok((config, false))
}
