//! Sampling: a share of calls is asked twice, with another clock and another seed, to find
//! plugins whose decision does not follow from what they were shown.
//!
//! Such a plugin cannot be replayed, and rewrites its objects for no reason. What is found
//! is a warning (W310) that names the first difference; the first answer counts, and nobody
//! who needs it waits for the second. The second call reads what the first one read, so that a change of the cluster in between is not
//! taken for the plugin's.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::code::{Code, Refusal, printable};
use crate::decision::{Decision, Verdict};
use crate::equal::push_pointer;
use crate::guests::{Call, Called, Guests, Text, Texts};
use crate::json::{Room, parse};
use crate::key::{Key, ObjectRef};
use crate::object::hash64;
use crate::ports::CallError;
use crate::reads::Query;

/// One call in this many is asked twice by default.
pub const ONE_IN: NonZeroU32 = NonZeroU32::new(64).expect("64 is not zero");
/// How much later the second call is told that it is: another second, minute, hour, day,
/// week, month and year.
const LATER: Duration = Duration::new(397 * 86_400 + 7 * 3_600 + 13 * 60 + 7, 123_456_789);
/// Bytes of each of two values that a message shows.
const SHOWN_BYTES: usize = 48;
/// Questions of a call whose answers are kept; who asks more is not sampled.
const QUESTIONS_MAX: usize = 1_000;

/// Whether pass number `pass` of `key` is one of the calls that are asked twice: one in
/// `one_in`, spread so that no key is left out for good.
pub fn is_sampled(key: &Key, pass: u64, one_in: NonZeroU32) -> bool {
    hash64(format!("{key} {pass}").as_bytes()).is_multiple_of(one_in.get().into())
}

/// The same call at another time and with another seed.
pub fn again<'a>(call: &'a Call<'_>) -> Call<'a> {
    Call {
        load: call.load,
        key: Cow::Borrowed(&call.key),
        pass: call.pass,
        finalize: call.finalize,
        suspect: call.suspect,
        seed: Cow::Owned(format!("{}/again", call.seed)),
        now: call.now.saturating_add(LATER),
        primary: Cow::Borrowed(&call.primary),
        children: call.children.iter().map(|child| Cow::Borrowed(&**child)).collect(),
        settings: call.settings.as_deref().map(Cow::Borrowed),
    }
}

/// Asks twice, and hands the first answer to `tell` before the second call. W310 if that one shows that
/// it depends on what it must not depend on. Blocks for two calls; a first one that fails is
/// the only one.
pub fn twice<G: Guests + ?Sized>(
    guests: &G,
    call: &Call<'_>,
    texts: Arc<dyn Texts>,
    tell: impl FnOnce(Called),
) -> Option<Refusal> {
    let remembered = Arc::new(Remembered::new(texts));
    let first = guests.call(call, remembered.clone());
    if !is_worth_another(&first, &remembered) {
        tell(first);
        return None;
    }
    tell(first.clone());
    second(guests, call, &first, &remembered)
}

/// Whether a second call can say anything of the first one, which read what is `remembered`.
pub fn is_worth_another(first: &Called, remembered: &Remembered) -> bool {
    let is_refused =
        matches!(first.result, Err(CallError::Refused(_) | CallError::NotServing(_) | CallError::Resting(_)));
    !is_refused && remembered.is_whole()
}

/// Asks the second time, and judges as [`twice`] does. Blocks for one call.
pub fn second<G: Guests + ?Sized>(
    guests: &G,
    call: &Call<'_>,
    first: &Called,
    remembered: &Arc<Remembered>,
) -> Option<Refusal> {
    let second = guests.call(&again(call), Arc::clone(remembered) as Arc<dyn Texts>);
    judge(first, &second).filter(|_| remembered.is_whole())
}

/// What the two calls say about the plugin: W310 with the first difference, or nothing.
/// Nothing too when one of them was ended from outside, which has codes of its own, and when
/// a plugin that asked for the time only wants to be asked again, or says something, or says
/// that a condition has changed, at another one.
pub fn judge(first: &Called, second: &Called) -> Option<Refusal> {
    let clock = first.read_clock || second.read_clock;
    let difference = match (&first.result, &second.result) {
        (Ok(Verdict::Decision(a)), Ok(Verdict::Decision(b))) if clock => {
            lasting(a, b).or_else(|| status(a, b, without_transitions))
        }
        (Ok(a), Ok(b)) => differ(a, b),
        (Ok(_), Err(CallError::Fault(fault))) | (Err(CallError::Fault(fault)), Ok(_)) => Some(format!(
            "one answer is a decision, the other a fault ({})",
            printable(&fault.to_string(), 128)
        )),
        _ => None,
    }?;
    let why = match clock {
        true => "it asked for the time; what it wants must not depend on it",
        false => "it did not ask for the time; look for randomness, or an order by hash",
    };
    Some(Refusal::new(
        Code::NonDeterministic,
        format!("the same inputs gave another decision: {difference}; {why}"),
    ))
}

/// The first difference between two verdicts that a write or an Event would show, as a JSON
/// pointer and both values. The order of children and of fields is none.
pub fn differ(first: &Verdict, second: &Verdict) -> Option<String> {
    match (first, second) {
        (Verdict::Finalized, Verdict::Finalized) => None,
        (Verdict::Decision(a), Verdict::Decision(b)) => {
            lasting(a, b).or_else(|| status(a, b, read)).or_else(|| passing(a, b))
        }
        _ => Some("one answer is a decision, the other says that it has finalized".into()),
    }
}

/// Children.
fn lasting(a: &Decision, b: &Decision) -> Option<String> {
    let (a, b) = (by_name(&a.children), by_name(&b.children));
    for (name, (index, one)) in &a {
        let Some((_, other)) = b.get(name) else {
            return Some(format!("/children/{index} ({}) is there once only", shown(name)));
        };
        if let Some(difference) = values(format!("/children/{index}"), one, other) {
            return Some(difference);
        }
    }
    let more = b.keys().find(|name| !a.contains_key(*name))?;
    Some(format!("a child ({}) is there once only", shown(more)))
}

fn status(a: &Decision, b: &Decision, read: fn(&str) -> Value) -> Option<String> {
    match (&a.status, &b.status) {
        (None, None) => None,
        (Some(a), Some(b)) => values("/status".into(), &read(a), &read(b)),
        _ => Some("/status is there once only".into()),
    }
}

fn passing(a: &Decision, b: &Decision) -> Option<String> {
    if a.requeue_after != b.requeue_after {
        let (a, b) = (a.requeue_after, b.requeue_after);
        return Some(format!("/requeue-after is {a:?} and {b:?}"));
    }
    let at = a.notices.iter().zip(&b.notices).position(|(a, b)| a != b);
    let at = at.or((a.notices.len() != b.notices.len()).then(|| a.notices.len().min(b.notices.len())))?;
    Some(format!("/notices/{at} differs"))
}

/// Children by what names them; those without a name by their place.
fn by_name(children: &[String]) -> BTreeMap<String, (usize, Value)> {
    let mut named = BTreeMap::new();
    for (index, text) in children.iter().enumerate() {
        let child = read(text);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let parts = [&child["apiVersion"], &child["kind"], &child["metadata"]["namespace"]].map(text);
        let mut name = format!("{} {}", parts.join("/"), text(&child["metadata"]["name"]));
        if named.contains_key(&name) || child.get("kind").is_none() {
            name = format!("{name} #{index}");
        }
        named.insert(name, (index, child));
    }
    named
}

/// A text as a value; one that is no JSON stands for itself.
fn read(text: &str) -> Value {
    parse(text, &mut Room::default()).unwrap_or_else(|_| Value::from(text))
}

/// A status without the times at which its conditions changed: those are the hour in which it is
/// decided, by Kubernetes' own convention.
fn without_transitions(text: &str) -> Value {
    let mut status = read(text);
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.remove("lastTransitionTime");
    }
    status
}

fn values(mut path: String, a: &Value, b: &Value) -> Option<String> {
    let (a, b) = first_difference(&mut path, a, b)?;
    Some(format!("{} is {} and {}", printable(&path, 256), show(a), show(b)))
}

/// Extends `path` to the innermost difference; a value that is not there is `None`.
fn first_difference<'a>(
    path: &mut String,
    a: &'a Value,
    b: &'a Value,
) -> Option<(Option<&'a Value>, Option<&'a Value>)> {
    if a == b {
        return None;
    }
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let name = a.keys().chain(b.keys()).find(|name| a.get(*name) != b.get(*name))?;
            push_pointer(path, name);
            match (a.get(name), b.get(name)) {
                (Some(a), Some(b)) => first_difference(path, a, b),
                once => Some(once),
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let i = (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i))?;
            push_pointer(path, &i.to_string());
            match (a.get(i), b.get(i)) {
                (Some(a), Some(b)) => first_difference(path, a, b),
                once => Some(once),
            }
        }
        _ => Some((Some(a), Some(b))),
    }
}

fn show(value: Option<&Value>) -> String {
    value.map_or("absent".into(), |value| shown(&value.to_string()))
}

fn shown(text: &str) -> String {
    printable(text, SHOWN_BYTES)
}

/// What a call read, to be read again by the second one. Holds answers for as long as the
/// two calls take.
pub struct Remembered {
    texts: Arc<dyn Texts>,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    objects: HashMap<ObjectRef, Result<Option<Text>, Refusal>>,
    lists: HashMap<Query, Result<Vec<Text>, Refusal>>,
    forgot: bool,
}

impl Remembered {
    /// Asks `texts` whatever has not been asked before.
    pub fn new(texts: Arc<dyn Texts>) -> Self {
        Self { texts, answers: Mutex::default() }
    }

    /// Whether every answer was kept: only then two calls have read the same.
    pub fn is_whole(&self) -> bool {
        !self.answers.lock().unwrap_or_else(PoisonError::into_inner).forgot
    }

    fn remembered<Q: Clone + Eq + std::hash::Hash, A: Clone>(
        &self,
        question: &Q,
        of: fn(&mut Answers) -> &mut HashMap<Q, A>,
        ask: impl FnOnce() -> A,
    ) -> A {
        // Answers are whole or not there: whoever panicked left none half way.
        let lock = || self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = of(&mut lock()).get(question) {
            return answer.clone();
        }
        let answer = ask();
        let mut answers = lock();
        if answers.objects.len() + answers.lists.len() < QUESTIONS_MAX {
            of(&mut answers).insert(question.clone(), answer.clone());
        } else {
            answers.forgot = true;
        }
        answer
    }
}

impl Texts for Remembered {
    fn get(&self, of: &ObjectRef) -> Result<Option<Text>, Refusal> {
        self.remembered(of, |answers| &mut answers.objects, || self.texts.get(of))
    }

    fn list(&self, query: &Query) -> Result<Vec<Text>, Refusal> {
        self.remembered(query, |answers| &mut answers.lists, || self.texts.list(query))
    }
}

#[cfg(test)]
mod tests;
