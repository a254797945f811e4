//! One elector and whoever answers it.

use std::sync::Arc;

use windlass_core::claim::{BootTime, Term};
use windlass_lease::durations::Durations;
use windlass_lease::elector::{Elector, Settings};
use windlass_lease::record::{Copy, Lease};
use windlass_lease::step::{Failure, Input, Leadership, Order, StepDown, Write};

/// Drives one elector and answers for the API server.
pub(crate) struct Desk {
    pub(crate) elector: Elector,
    settings: Settings,
    pub(crate) now: BootTime,
    pub(crate) wake_at: Option<BootTime>,
    pub(crate) version: u64,
    /// What was stored last.
    pub(crate) last: Option<Arc<Lease>>,
}

pub(crate) fn at(ms: u64) -> BootTime {
    BootTime(1_000_000_000_000 + ms * 1_000_000)
}

pub(crate) fn lease(version: u64, holder: &str, seconds: i64, term: &str) -> Arc<Lease> {
    let json = serde_json::json!({
        "metadata": { "name": "windlass", "namespace": "ns", "uid": "u", "resourceVersion": version.to_string(),
            "annotations": { "windlass.dev/term": term, "other": "kept" } },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": seconds, "acquireTime": "2020-01-01T00:00:00.000000Z",
            "renewTime": "2020-01-01T00:00:00.000000Z", "leaseTransitions": 4 },
    });
    Arc::new(Lease::from_json(json.to_string().as_bytes()).unwrap())
}

pub(crate) fn present(version: u64, holder: &str) -> Copy {
    Copy::Present(lease(version, holder, 15, "7"))
}

impl Desk {
    pub(crate) fn new(elect: bool) -> Self {
        let settings = Settings {
            identity: "me".into(),
            durations: Durations::default(),
            elect,
            seed: 1,
            pulse: None,
            mutant: None,
        };
        Self::of(settings)
    }

    pub(crate) fn with_pulse(pulse: &str) -> Self {
        let desk = Self::new(true);
        let settings = desk.settings;
        Self::of(Settings { pulse: Some(pulse.into()), ..settings })
    }

    fn of(settings: Settings) -> Self {
        let elector = Elector::new(settings.clone(), at(0));
        Self { elector, settings, now: at(0), wake_at: None, version: 100, last: None }
    }

    pub(crate) fn tell(&mut self, ms: u64, input: Input) -> Vec<Order> {
        self.now = at(ms);
        let step = self.elector.step(self.now, input);
        self.wake_at = step.wake_at;
        step.orders
    }

    pub(crate) fn tick(&mut self, ms: u64) -> Vec<Order> {
        self.tell(ms, Input::Tick)
    }

    /// The Lease as the API server stores it after `write`.
    pub(crate) fn stored(&mut self, write: &Write) -> Arc<Lease> {
        self.version += 1;
        let mut lease = Lease::written(write, "ns", "windlass", "2026-01-01T00:00:00Z".parse().unwrap());
        lease.metadata.resource_version = Some(self.version.to_string());
        let lease = Arc::new(lease);
        self.last = Some(lease.clone());
        lease
    }

    pub(crate) fn accept(&mut self, ms: u64, write: &Write) -> Vec<Order> {
        let lease = self.stored(write);
        self.tell(ms, Input::Answered { id: write.id, result: Ok(lease) })
    }

    pub(crate) fn fail(&mut self, ms: u64, id: u64, failure: Failure) -> Vec<Order> {
        self.tell(ms, Input::Answered { id, result: Err(failure) })
    }

    /// A leader since `ms` 0 whose acquisition was sent then, with everything answered at once.
    pub(crate) fn leader() -> Self {
        let mut desk = Self::new(true);
        let id = read(&desk.tick(0));
        desk.fail(0, id, Failure::Absent);
        let write = write(&desk.tick(20));
        desk.accept(20, &write);
        let orders = desk.tell(20, Input::Prepared { term: Term(1), done: true });
        assert_eq!(ends(&orders), Some(10_020));
        desk
    }

    /// A standby that saw `other` hold the Lease at `ms` 0.
    pub(crate) fn standby(elect: bool) -> Self {
        let mut desk = Self::new(elect);
        let id = read(&desk.tick(0));
        let orders = desk.tell(0, Input::Answered { id, result: Ok(lease(50, "other", 15, "7")) });
        assert_eq!(orders, [Order::Announce(Leadership::Standby { holder: Some("other".into()) })]);
        desk
    }
}

pub(crate) fn read(orders: &[Order]) -> u64 {
    let reads: Vec<_> =
        orders.iter().filter_map(|o| if let Order::Read { id, .. } = o { Some(*id) } else { None }).collect();
    assert_eq!(reads.len(), 1, "one read in {orders:?}");
    reads[0]
}

pub(crate) fn writes(orders: &[Order]) -> Vec<Write> {
    orders
        .iter()
        .filter_map(|o| if let Order::Write(write) = o { Some(write.clone()) } else { None })
        .collect()
}

pub(crate) fn write(orders: &[Order]) -> Write {
    let writes = writes(orders);
    assert_eq!(writes.len(), 1, "one write in {orders:?}");
    writes[0].clone()
}

pub(crate) fn has_requests(orders: &[Order]) -> bool {
    orders.iter().any(|o| matches!(o, Order::Write(_) | Order::Read { .. }))
}

/// The end, in ms, to which the orders open the gate.
pub(crate) fn ends(orders: &[Order]) -> Option<u64> {
    orders.iter().find_map(|o| {
        if let Order::OpenGate(claim) = o { Some((claim.ends.0 - at(0).0) / 1_000_000) } else { None }
    })
}

pub(crate) fn closed(orders: &[Order]) -> Option<StepDown> {
    orders.iter().find_map(|o| if let Order::CloseGate(reason) = o { Some(reason.clone()) } else { None })
}
