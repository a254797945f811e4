//! What can happen next, and what it does.
//!
//! Time goes on only when all that is due has happened: whoever lags behind, a process or
//! a connection, has to be stopped or cut first, which the budget counts. Within one tick
//! everything happens in every order.

use windlass_lease::step::{Failure, Input, Order, Purpose, Step};

use crate::scenario::{Edit, Evidence, Fault, Scenario};
use crate::world::{Child, Dead, Hold, Message, Open, Pending, Right, What, World, flag};

/// One step of the world. Numbers are places: of a candidate, or in the bag of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A message takes its next step.
    Carry(usize),
    /// The same, and the message is on its way once more.
    Repeat(usize),
    /// The watch shows the next copy.
    Observe(usize),
    Wake(usize),
    /// The driver gives its request up.
    TimeOut(usize),
    /// The connection breaks under the request.
    Reset(usize),
    /// The preparation failed; its write may still arrive.
    PrepareFails(usize),
    /// The write path gives its request up.
    GiveUp(usize),
    Drained(usize),
    /// An authorizer learns of the claim Role.
    Learn(usize),
    Advance,
    /// The write path gets a permit and sends a write by way of this API server.
    Begin(usize, u8),
    Pause(usize),
    Resume(usize),
    Cut(usize),
    Mend(usize),
    Shutdown(usize),
    Crash(usize),
    Start(usize),
    /// Candidate, and which of the dead.
    Died(usize, usize),
    /// Candidate, and which other candidate is silent.
    Silent(usize, usize),
    Edit(Edit),
}

impl Scenario {
    /// What has to happen before time goes on.
    pub(crate) fn due(&self, w: &World, actions: &mut Vec<Action>) {
        let carried = |(at, message)| self.is_due(w, message).then_some(Action::Carry(at));
        actions.extend(w.net.iter().enumerate().filter_map(carried));
        for (i, candidate) in w.candidates.iter().enumerate().filter(|(_, candidate)| candidate.runs()) {
            let now = self.clock(i, w.tick);
            if !candidate.watch.is_empty() && candidate.cut == Hold::No {
                actions.push(Action::Observe(i));
            }
            if candidate.wake_at.is_some_and(|at| at <= now) {
                actions.push(Action::Wake(i));
            }
            if candidate.pending.as_ref().is_some_and(|pending| pending.deadline <= now) {
                actions.push(Action::TimeOut(i));
            }
            if candidate.permit.as_ref().is_some_and(|permit| permit.ends <= now) {
                actions.push(Action::GiveUp(i));
            }
            if candidate.draining && candidate.permit.is_none() {
                actions.push(Action::Drained(i));
            }
        }
        if !self.slow_fence {
            actions.extend(unlearned(w));
        }
    }

    /// Whether nothing keeps this message from arriving.
    fn is_due(&self, w: &World, message: &Message) -> bool {
        w.is_awaited(message) && held(w, message) == Hold::No
    }

    /// What else can happen, beside what is `due`.
    pub(crate) fn possible(&self, w: &World, due: &[Action], actions: &mut Vec<Action>) {
        let repeats = self.may_fail(w, Fault::Repeat);
        for (at, message) in w.net.iter().enumerate() {
            if self.is_late(w, message, due) {
                actions.push(Action::Carry(at));
            }
            if repeats && matches!(message.what, What::Write(_)) && w.is_awaited(message) {
                actions.push(Action::Repeat(at));
            }
        }
        for (i, candidate) in w.candidates.iter().enumerate() {
            if candidate.elector.is_none() {
                actions.extend((w.left.starts > 0).then_some(Action::Start(i)));
                continue;
            }
            let busy = due.iter().any(|action| concerns(w, *action, i));
            self.crash_of(w, i, busy || due.is_empty(), actions);
            if candidate.runs() {
                self.possible_for(w, i, due, actions);
                self.faults_for(w, i, busy, actions);
            } else {
                actions.extend((candidate.paused == Hold::Old).then_some(Action::Resume(i)));
            }
        }
        if self.slow_fence {
            actions.extend(unlearned(w));
        }
        if w.left.edits > 0 {
            actions.extend(self.edits.iter().map(|edit| Action::Edit(*edit)));
        }
    }

    /// A process dies while it does something, or between two things; one that waits for
    /// nothing and leads nobody might as well be stopped.
    fn crash_of(&self, w: &World, i: usize, timely: bool, actions: &mut Vec<Action>) {
        let candidate = &w.candidates[i];
        let matters =
            candidate.pending.is_some() || candidate.preparing.is_some() || candidate.gate.is_some();
        if w.left.crashes > 0 && timely && matters {
            actions.push(Action::Crash(i));
        }
    }

    fn possible_for(&self, w: &World, i: usize, due: &[Action], actions: &mut Vec<Action>) {
        let candidate = &w.candidates[i];
        if candidate.cut == Hold::Old {
            actions.push(Action::Mend(i));
            let hears = !candidate.watch.is_empty() && others_rest(w, due, i);
            actions.extend(hears.then_some(Action::Observe(i)));
            actions.extend(candidate.preparing.is_some().then_some(Action::PrepareFails(i)));
        }
        let now = self.clock(i, w.tick);
        let open = candidate.gate.as_ref().is_some_and(|gate| now < gate.ends);
        if w.left.writes > 0 && open && candidate.permit.is_none() {
            actions.extend((0..self.servers).map(|via| Action::Begin(i, via)));
        }
        self.evidence_for(w, i, actions);
    }

    /// `busy`: something is due that concerns it. To stop or to cut one that nothing
    /// happens to is the same as to do it later.
    pub(crate) fn faults_for(&self, w: &World, i: usize, busy: bool, actions: &mut Vec<Action>) {
        let candidate = &w.candidates[i];
        let mut add = |fault, can, action| {
            if can && self.may_fail(w, fault) {
                actions.push(action);
            }
        };
        add(Fault::Pause, busy, Action::Pause(i));
        add(Fault::Cut, busy && candidate.cut == Hold::No, Action::Cut(i));
        add(Fault::Reset, candidate.pending.is_some(), Action::Reset(i));
        add(Fault::Shutdown, !candidate.ending, Action::Shutdown(i));
    }

    fn may_fail(&self, w: &World, fault: Fault) -> bool {
        w.left.faults > 0 && self.faults.contains(&fault)
    }

    /// A message that did not come when it should have, and may come now. What goes to a
    /// candidate comes when the others have done what they had to: it changes only that
    /// candidate, so any other order would tell nothing new.
    fn is_late(&self, w: &World, message: &Message, due: &[Action]) -> bool {
        if self.is_due(w, message) || held(w, message) == Hold::Fresh {
            return false;
        }
        let to = usize::from(message.of.index);
        let reaches = || w.owner(message.of).is_some_and(|owner| owner.runs()) && others_rest(w, due, to);
        message.is_request() || reaches()
    }

    /// A candidate to which nothing can happen in this tick but that its watch goes on:
    /// when it does makes no difference to anybody, so one order stands for all.
    pub(crate) fn lone_observer(&self, w: &World) -> Option<usize> {
        let may_hear_of_death = self.evidence != Evidence::None
            && (w.left.crashes > 0 || !w.past.dead.is_empty() || self.evidence == Evidence::AndSilence);
        if may_hear_of_death {
            return None;
        }
        (0..w.candidates.len()).find(|&i| {
            let candidate = &w.candidates[i];
            let idle = candidate.pending.is_none() && candidate.preparing.is_none() && !candidate.draining;
            let powerless = candidate.gate.is_none() && candidate.permit.is_none();
            let asleep = candidate.wake_at.is_none_or(|at| at > self.clock(i, w.tick));
            let sees = candidate.runs() && candidate.cut == Hold::No && !candidate.watch.is_empty();
            sees && idle && powerless && asleep
        })
    }

    fn evidence_for(&self, w: &World, i: usize, actions: &mut Vec<Action>) {
        let told = |bit: usize| w.candidates[i].told & (1 << bit) != 0;
        if self.evidence != Evidence::None {
            let dead = (0..w.past.dead.len()).filter(|&n| !told(n));
            actions.extend(dead.map(|n| Action::Died(i, n)));
        }
        if self.evidence == Evidence::AndSilence {
            let silent = (0..w.candidates.len())
                .filter(|&of| of != i && w.candidates[of].paused != Hold::No && !told(7 - of));
            actions.extend(silent.map(|of| Action::Silent(i, of)));
        }
    }

    /// Does it.
    pub(crate) fn act(&self, w: &mut World, action: Action) {
        match action {
            Action::Carry(at) => {
                let message = w.net.remove(at);
                self.carry(w, message);
            }
            Action::Repeat(at) => {
                w.left.faults -= 1;
                let message = w.net[at].clone();
                self.carry(w, message);
            }
            Action::Observe(i) => {
                let copy = w.candidates[i].watch.remove(0);
                self.tell(w, i, Input::Observed(copy));
            }
            Action::Wake(i) => self.tell(w, i, Input::Tick),
            Action::TimeOut(i) => self.lose(w, i),
            Action::PrepareFails(i) => {
                let term = w.candidates[i].preparing.take().expect("it prepares");
                self.tell(w, i, Input::Prepared { term, done: false });
            }
            Action::GiveUp(i) => w.candidates[i].permit = None,
            Action::Drained(i) => {
                w.candidates[i].draining = false;
                self.tell(w, i, Input::Drained);
            }
            Action::Learn(server) => w.server.fences[server] = w.server.role.clone(),
            Action::Advance => advance(w),
            Action::Begin(i, via) => self.begin(w, i, via),
            Action::Resume(i) => w.candidates[i].paused = Hold::No,
            Action::Mend(i) => w.candidates[i].cut = Hold::No,
            Action::Start(i) => {
                w.left.starts -= 1;
                self.start(w, i);
            }
            Action::Died(i, n) => {
                w.candidates[i].told |= 1 << n;
                let identity = w.past.dead[n].identity.clone();
                self.tell(w, i, Input::Died(identity));
            }
            Action::Silent(i, of) => {
                w.candidates[i].told |= 1 << (7 - of);
                let identity = w.candidates[of].identity.clone();
                self.tell(w, i, Input::Silent(identity));
            }
            Action::Pause(_) | Action::Cut(_) | Action::Reset(_) | Action::Shutdown(_) => {
                self.fault(w, action)
            }
            Action::Crash(i) => {
                w.left.crashes -= 1;
                die(w, i);
            }
            Action::Edit(edit) => {
                w.left.edits -= 1;
                self.edit(w, edit);
            }
        }
        self.sweep(w);
    }

    fn fault(&self, w: &mut World, action: Action) {
        w.left.faults -= 1;
        match action {
            Action::Pause(i) => w.candidates[i].paused = Hold::Fresh,
            Action::Cut(i) => w.candidates[i].cut = Hold::Fresh,
            Action::Reset(i) => self.lose(w, i),
            Action::Shutdown(i) => {
                w.candidates[i].ending = true;
                self.tell(w, i, Input::Shutdown);
            }
            _ => {}
        }
    }

    /// Nobody knows what became of the request. It may still arrive.
    fn lose(&self, w: &mut World, i: usize) {
        let Pending { id, .. } = w.candidates[i].pending.take().expect("it waits");
        self.tell(w, i, Input::Answered { id, result: Err(Failure::Unknown) });
    }

    fn begin(&self, w: &mut World, i: usize, via: u8) {
        w.left.writes -= 1;
        let gate = w.candidates[i].gate.clone().expect("it is open");
        let right = Right { holder: w.candidates[i].identity.clone(), term: gate.term };
        w.candidates[i].permit = Some(gate);
        let base = w.server.object.version;
        w.send(w.candidates[i].process(i), What::Child(Child { right, base, via, admitted: false }));
    }

    fn carry(&self, w: &mut World, message: Message) {
        let i = usize::from(message.of.index);
        match message.what {
            What::Answer { id, result } => {
                w.candidates[i].pending = None;
                self.tell(w, i, Input::Answered { id, result });
            }
            What::Claimed { term, used } => {
                w.candidates[i].preparing = None;
                if let Some(used) = used {
                    self.tell(w, i, Input::TermSeen(used));
                }
                self.tell(w, i, Input::Prepared { term, done: used.is_none() });
            }
            What::ChildDone { term, refused } => {
                w.candidates[i].permit = None;
                // Right after the acquisition the fence has not seen the Role: that is no loss.
                let own = |role: &Right| role.holder == w.candidates[i].identity && role.term == term;
                if refused && !w.server.role.as_ref().is_some_and(own) {
                    self.tell(w, i, Input::Fenced(term));
                }
            }
            _ => self.serve(w, message),
        }
    }

    /// Tells the elector at the instant that its clock shows, and does what it orders.
    pub(crate) fn tell(&self, w: &mut World, i: usize, input: Input) {
        let now = self.clock(i, w.tick);
        let Some(elector) = &mut w.candidates[i].elector else {
            return;
        };
        let Step { orders, wake_at } = elector.step(now, input);
        w.candidates[i].wake_at = wake_at;
        for order in orders {
            self.obey(w, i, order);
        }
    }

    fn obey(&self, w: &mut World, i: usize, order: Order) {
        let now = self.clock(i, w.tick);
        let of = w.candidates[i].process(i);
        match order {
            Order::Write(write) => {
                let writing = w.candidates[i].permit.as_ref().is_some_and(|permit| now < permit.ends);
                if write.purpose == Purpose::Release && writing {
                    w.happened(flag::EARLY_RELEASE);
                }
                w.candidates[i].pending = Some(Pending { id: write.id, deadline: now.plus(write.timeout) });
                w.send(of, What::Write(write));
            }
            Order::Read { id, timeout } => {
                w.candidates[i].pending = Some(Pending { id, deadline: now.plus(timeout) });
                w.send(of, What::Read { id });
            }
            Order::Prepare(claim) if self.role => {
                w.candidates[i].preparing = Some(claim.term);
                w.send(of, What::Claim(Right { holder: claim.holder, term: claim.term }));
            }
            Order::Prepare(claim) => {
                w.candidates[i].preparing = Some(claim.term);
                w.send(of, What::Claimed { term: claim.term, used: None });
            }
            Order::OpenGate(claim) => {
                let open = Open { term: claim.term, ends: claim.ends };
                self.opened(w, i, &open);
                w.candidates[i].gate = Some(open);
            }
            Order::CloseGate(_) => {
                w.candidates[i].gate = None;
                w.candidates[i].preparing = None;
            }
            Order::WaitDrain => w.candidates[i].draining = true,
            Order::End(_) => die(w, i),
            _ => {}
        }
    }

    /// Notes what the properties ask of a gate that opens.
    fn opened(&self, w: &mut World, i: usize, open: &Open) {
        if w.candidates[i].gate.as_ref().is_some_and(|gate| gate.term == open.term) {
            return;
        }
        let right = Right { holder: w.candidates[i].identity.clone(), term: open.term };
        if w.past.opened.iter().any(|before| before.term == right.term) {
            w.happened(flag::TERM_TWICE);
        }
        if w.past.opened.iter().any(|before| before.term > right.term) {
            w.happened(flag::TERM_FELL);
        }
        if !w.past.dead.is_empty() {
            w.happened(flag::LED_AGAIN);
        }
        let lives_on =
            |dead: &Dead| dead.ends.is_some_and(|ends| self.clock(dead.index.into(), w.tick) < ends);
        if w.past.dead.iter().any(lives_on) {
            w.happened(flag::BY_EVIDENCE);
        }
        w.past.opened.push(right);
    }

    /// Drops what can have no effect any more, so that worlds that differ in it are one.
    fn sweep(&self, w: &mut World) {
        let keep: Vec<bool> =
            w.net.iter().map(|message| w.is_awaited(message) || self.may_matter(w, message)).collect();
        let mut keep = keep.into_iter();
        w.net.retain(|_| keep.next().unwrap_or(true));
    }

    /// Whether a request that nobody waits for can still change anything.
    fn may_matter(&self, w: &World, message: &Message) -> bool {
        match &message.what {
            What::Write(write) => match (&write.base, &w.server.lease) {
                (None, Some(_)) => w.left.edits > 0 && self.edits.contains(&Edit::Delete),
                (Some(_), None) => false,
                (Some(base), Some(lease)) => {
                    let version = &base.metadata.resource_version;
                    version.is_none() || *version == lease.metadata.resource_version
                }
                (None, None) => true,
            },
            What::Claim(right) => {
                let deletable = w.left.edits > 0 && self.edits.contains(&Edit::DeleteRole);
                deletable || w.server.role.as_ref().is_none_or(|role| role.term < right.term)
            }
            What::Child(child) => !self.versions || child.base == w.server.object.version,
            What::Read { .. } | What::Answer { .. } | What::Claimed { .. } | What::ChildDone { .. } => false,
        }
    }
}

/// The process ends: with it go its memory, its connections, and its right to write.
fn die(w: &mut World, i: usize) {
    let candidate = &mut w.candidates[i];
    candidate.elector = None;
    let ends = candidate.gate.take().map(|gate| gate.ends);
    (candidate.wake_at, candidate.pending, candidate.preparing) = (None, None, None);
    (candidate.permit, candidate.told) = (None, 0);
    candidate.watch.clear();
    (candidate.paused, candidate.cut) = (Hold::No, Hold::No);
    (candidate.draining, candidate.ending) = (false, false);
    let identity = candidate.identity.clone();
    let index = candidate.process(i).index;
    w.past.dead.push(Dead { index, identity, ends });
}

fn advance(w: &mut World) {
    w.tick += 1;
    for candidate in &mut w.candidates {
        for hold in [&mut candidate.paused, &mut candidate.cut] {
            *hold = if *hold == Hold::No { Hold::No } else { Hold::Old };
        }
    }
}

/// Whether its sender's troubles keep this message where it is.
fn held(w: &World, message: &Message) -> Hold {
    let Some(owner) = w.owner(message.of) else {
        return Hold::No;
    };
    // A permitted write may not have left the process yet.
    let leaves = matches!(message.what, What::Read { .. } | What::Write(_));
    if owner.cut == Hold::No && !leaves { owner.paused } else { owner.cut }
}

/// Whether `action` is something that happens to candidate `i` or to what it sent.
fn concerns(w: &World, action: Action, i: usize) -> bool {
    match action {
        Action::Carry(at) => usize::from(w.net[at].of.index) == i,
        Action::Observe(of)
        | Action::Wake(of)
        | Action::TimeOut(of)
        | Action::GiveUp(of)
        | Action::Drained(of) => of == i,
        _ => false,
    }
}

/// Whether all that is due concerns candidate `i`.
fn others_rest(w: &World, due: &[Action], i: usize) -> bool {
    due.iter().all(|action| concerns(w, *action, i))
}

fn unlearned(w: &World) -> impl Iterator<Item = Action> + '_ {
    let fences = w.server.fences.iter().enumerate();
    fences.filter(|(_, fence)| **fence != w.server.role).map(|(server, _)| Action::Learn(server))
}
