//! The API server: a compare-and-swap of the Lease, a claim Role whose number only rises,
//! a fence that asks the authorizer, objects with versions.
//!
//! Admission and commit of an object's write are two steps, and each authorizer learns of
//! a new claim Role later than the storage does: a write can slip between them.

use std::sync::Arc;

use jiff::Timestamp;
use windlass_lease::record::{Copy, Lease, TERM_ANNOTATION};
use windlass_lease::step::{Failure, Write};

use crate::scenario::WALL_SECONDS;
use crate::scenario::{Edit, Scenario};
use crate::world::{Child, Message, Process, Right, What, World, flag};

impl Scenario {
    /// A request takes its next step at the API server.
    pub(crate) fn serve(&self, w: &mut World, message: Message) {
        let Message { of, what } = message.clone();
        match what {
            What::Read { id } => {
                let result = w.server.lease.clone().ok_or(Failure::Absent);
                self.reply(w, message, What::Answer { id, result });
            }
            What::Write(write) => {
                let result = self.compare_and_swap(w, of, &write);
                self.reply(w, message, What::Answer { id: write.id, result });
            }
            What::Claim(right) => {
                let used = Self::claim(w, &right);
                self.reply(w, message, What::Claimed { term: right.term, used });
            }
            What::Child(child) if child.admitted => {
                self.commit(w, &child);
                self.reply(w, message, What::ChildDone { term: child.right.term, refused: false });
            }
            What::Child(child) => {
                let current = w.server.fences[usize::from(child.via)].as_ref() == Some(&child.right);
                if self.fence && !current {
                    w.happened(flag::FENCED);
                    self.reply(w, message, What::ChildDone { term: child.right.term, refused: true });
                } else {
                    w.send(of, What::Child(Child { admitted: true, ..child }));
                }
            }
            What::Answer { .. } | What::Claimed { .. } | What::ChildDone { .. } => {}
        }
    }

    /// Answers go on the wire only to whom they still mean something.
    fn reply(&self, w: &mut World, request: Message, answer: What) {
        if w.is_awaited(&request) {
            w.send(request.of, answer);
        }
    }

    fn compare_and_swap(&self, w: &mut World, of: Process, write: &Write) -> Result<Arc<Lease>, Failure> {
        let other = |base: &Lease, lease: &Lease| {
            base.metadata.resource_version.is_some()
                && base.metadata.resource_version != lease.metadata.resource_version
        };
        match (&write.base, &w.server.lease) {
            (None, Some(_)) => return Err(Failure::Conflict),
            (Some(_), None) => return Err(Failure::Absent),
            (Some(base), Some(lease)) if other(base, lease) => return Err(Failure::Conflict),
            _ => {}
        }
        let lease = Lease::written(write, "ns", "windlass", self.wall(usize::from(of.index), w.tick));
        Ok(self.store(w, lease))
    }

    fn store(&self, w: &mut World, mut lease: Lease) -> Arc<Lease> {
        w.server.version += 1;
        lease.metadata.resource_version = Some(w.server.version.to_string());
        let lease = Arc::new(lease);
        w.server.lease = Some(lease.clone());
        tell_watches(w, &Copy::Present(lease.clone()));
        lease
    }

    /// The claim Role's rule: its number only rises. Asked again, it says the same.
    fn claim(w: &mut World, right: &Right) -> Option<windlass_core::claim::Term> {
        let used = w.server.role.as_ref().filter(|role| role.term >= right.term && *role != right);
        if let Some(used) = used {
            return Some(used.term);
        }
        w.server.role = Some(right.clone());
        None
    }

    fn commit(&self, w: &mut World, child: &Child) {
        if self.versions && child.base != w.server.object.version {
            return w.happened(flag::OVERTAKEN);
        }
        if child.right.term < w.server.object.term {
            w.happened(flag::SET_BACK);
        }
        w.server.object.version += 1;
        w.server.object.term = child.right.term;
    }

    /// A person changes the Lease or the claim Role.
    pub(crate) fn edit(&self, w: &mut World, edit: Edit) {
        if edit == Edit::DeleteRole {
            w.server.role = None;
            return;
        }
        let Some(lease) = w.server.lease.clone() else {
            return;
        };
        if edit == Edit::Delete {
            w.server.version += 1;
            w.server.lease = None;
            return tell_watches(w, &Copy::Absent { at: Some(w.server.version) });
        }
        let mut lease = Lease::clone(&lease);
        match edit {
            Edit::Empty => lease.spec.holder_identity = None,
            Edit::Rename => lease.spec.holder_identity = Some("nobody".to_owned()),
            Edit::Shorten => lease.spec.lease_duration_seconds = Some(1),
            Edit::Junk => {
                lease.metadata.annotations.insert(TERM_ANNOTATION.to_owned(), "junk".to_owned());
                lease.spec.lease_duration_seconds = Some(-7);
                lease.spec.lease_transitions = Some(-1);
            }
            Edit::Lower => {
                lease.metadata.annotations.insert(TERM_ANNOTATION.to_owned(), "0".to_owned());
                lease.spec.lease_transitions = Some(0);
            }
            Edit::Delete | Edit::DeleteRole => {}
        }
        self.store(w, lease);
    }

    /// What candidate `index` takes for the time of day.
    pub(crate) fn wall(&self, index: usize, tick: u8) -> Timestamp {
        let seconds = WALL_SECONDS + i64::from(tick) + self.walls[index];
        Timestamp::from_second(seconds).expect("a time in our days")
    }
}

fn tell_watches(w: &mut World, copy: &Copy) {
    for candidate in w.candidates.iter_mut().filter(|candidate| candidate.elector.is_some()) {
        candidate.watch.push(copy.clone());
    }
}
