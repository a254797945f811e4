//! How far the Deployment has come with what is wanted of it.

use crate::{WebApp, children};
use windlass::{Object, Snapshot, kind};

/// How far the Deployment has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rollout {
    /// It does not exist yet.
    Creating,
    /// What exists is not yet, or not yet completely, what is wanted.
    Moving {
        /// Replicas of the latest spec.
        updated: i64,
        /// Replicas wanted.
        wanted: i64,
    },
    /// The Deployment's own controller has given up waiting for it.
    Stuck {
        /// What that controller says.
        reason: String,
    },
    /// Every replica is of the latest spec and serves.
    Done {
        /// Replicas wanted.
        wanted: i64,
    },
}

impl Rollout {
    /// Judges the Deployment that exists by the one that is wanted.
    pub(crate) fn of(app: &Snapshot<WebApp>, wanted: &Object) -> Self {
        let Some(found) = app.child(kind::DEPLOYMENT, app.name()) else {
            return Self::Creating;
        };
        let replicas = i64::from(app.spec.replicas);
        let moving = Self::Moving { updated: found.number("/status/updatedReplicas"), wanted: replicas };
        if !children::is_current(found, wanted) || !found.observed() {
            return moving;
        }
        if found.condition("Progressing") == Some(false) {
            return Self::Stuck { reason: reason_of(found) };
        }
        let all = ["replicas", "updatedReplicas", "availableReplicas"]
            .iter()
            .all(|field| found.number(&format!("/status/{field}")) == replicas);
        if all { Self::Done { wanted: replicas } } else { moving }
    }

    /// Whether every replica is of the latest spec and serves.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }

    /// Whether it is on its way.
    pub(crate) fn is_moving(&self) -> bool {
        matches!(self, Self::Creating | Self::Moving { .. })
    }

    /// Reason of the condition `Ready`.
    pub(crate) fn ready_reason(&self) -> &'static str {
        match self {
            Self::Done { wanted: 0 } => "ScaledToZero",
            Self::Done { .. } => "AllReplicasReady",
            _ => self.progress_reason(),
        }
    }

    /// Reason of the condition `Progressing`.
    pub(crate) fn progress_reason(&self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Moving { .. } => "RollingOut",
            Self::Stuck { .. } => "RolloutStuck",
            Self::Done { .. } => "RolledOut",
        }
    }

    /// Message of the condition `Progressing`.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Creating => "The Deployment is being created".to_owned(),
            Self::Moving { updated, wanted } => {
                format!("{updated} of {wanted} replicas are of the latest spec")
            }
            Self::Stuck { reason } => reason.clone(),
            Self::Done { .. } => "The latest spec is rolled out".to_owned(),
        }
    }
}

/// What the Deployment's controller says about a rollout that does not move.
fn reason_of(deployment: &Object) -> String {
    let conditions = deployment.at("/status/conditions");
    conditions
        .and_then(|list| list.as_array())
        .and_then(|list| list.iter().find(|each| each["type"] == "Progressing"))
        .and_then(|found| found["message"].as_str())
        .unwrap_or("The Deployment does not progress")
        .to_owned()
}
