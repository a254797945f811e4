//! Who is compared, and how often each goes through what.

use std::fmt;

use clap::ValueEnum;

/// A program that does the job of `plugins/webapp`, with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contender {
    /// Windlass with its defaults, and with the fence if `deploy/` has it.
    Ours,
    /// controller-runtime as shipped.
    Cr,
    /// controller-runtime, tuned in good faith.
    CrTuned,
    /// kube-rs with kube-lease-manager as shipped.
    KubeRs,
    /// The same, tuned in good faith.
    KubeRsTuned,
}

impl Contender {
    /// The word on the command line and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Cr => "cr",
            Self::CrTuned => "cr-tuned",
            Self::KubeRs => "kube-rs",
            Self::KubeRsTuned => "kube-rs-tuned",
        }
    }

    /// Who is called so; the other way round than [`name`](Self::name).
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|contender| contender.name() == name)
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Ours => "Windlass",
            Self::Cr => "controller-runtime, as shipped",
            Self::CrTuned => "controller-runtime, tuned",
            Self::KubeRs => "kube-rs + kube-lease-manager, as shipped",
            Self::KubeRsTuned => "kube-rs + kube-lease-manager, tuned",
        }
    }

    /// What its figures' names begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Ours => "",
            Self::Cr => "peer_default_",
            Self::CrTuned => "peer_tuned_",
            Self::KubeRs => "peer_kube_rs_default_",
            Self::KubeRsTuned => "peer_kube_rs_tuned_",
        }
    }

    /// The name of its Lease.
    pub(crate) fn lease(self) -> &'static str {
        if self.is_ours() { "windlass" } else { "webapp" }
    }

    pub(crate) fn is_ours(self) -> bool {
        self == Self::Ours
    }

    /// Whether the peer is told to be at its best.
    pub(crate) fn is_tuned(self) -> bool {
        matches!(self, Self::CrTuned | Self::KubeRsTuned)
    }

    /// All its rounds of a run.
    pub(crate) fn rounds(self, quick: bool) -> Counts {
        match (quick, self.is_ours()) {
            (true, _) => Counts { crashes: 3, ends: 3, freezes: 1, outages: 1 },
            (false, true) => Counts { crashes: 100, ends: 40, freezes: 5, outages: 1 },
            (false, false) => Counts { crashes: 12, ends: 12, freezes: 3, outages: 1 },
        }
    }
}

/// How many rounds of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// SIGKILL.
    pub(crate) crashes: usize,
    /// SIGTERM.
    pub(crate) ends: usize,
    /// SIGSTOP until another leads, then SIGCONT.
    pub(crate) freezes: usize,
    /// The API server goes away.
    pub(crate) outages: usize,
}

impl Counts {
    /// No more than `most` of a kind; of ours exactly `most` crashes.
    pub(crate) fn at_most(self, most: usize, contender: Contender) -> Self {
        Self {
            crashes: if contender.is_ours() { most } else { self.crashes.min(most) },
            ends: self.ends.min(most),
            freezes: self.freezes.min(most),
            outages: self.outages.min(most),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { crashes, ends, freezes, outages } = self;
        write!(formatter, "{crashes} crashes, {ends} ends, {freezes} freezes, {outages} outages")
    }
}
