//! Guests that do what the call says: the worker of these tests.
//!
//! What a component does when it is loaded is in its artefact, what it does when it is called
//! in the primary, as a word with a number behind a colon.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use windlass_core::code::{Code, Refusal};
use windlass_core::decision::{Decision, Verdict};
use windlass_core::guests::{Call, Called, Guests, Load, LoadId, Text, Texts, Used};
use windlass_core::key::ObjectRef;
use windlass_core::manifest::Manifest;
use windlass_core::ports::CallError;
use windlass_core::reads::Query;
use windlass_worker::confine::{Confinement, Role};
use windlass_worker::courtesy::step_back;
use windlass_worker::serve::{Serving, serve};

struct Fake;

/// `worker <readable directory> <MiB> <lanes>`
pub(crate) fn main(args: &[String]) -> ExitCode {
    let [readable, mib, lanes] = args else { return ExitCode::from(2) };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let serving = Serving {
        confinement: Confinement {
            readable: vec![PathBuf::from(readable)],
            data_bytes: number(mib) << 20,
            cpu: None,
            role: Role::Worker,
        },
        lanes: number(lanes) as usize,
        lane_stack_bytes: 1 << 20,
    };
    let make = || if readable.ends_with("broken") { Err("it is broken") } else { Ok(Fake) };
    match serve(&serving, make) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake worker: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Guests for Fake {
    fn load(&self, load: &Load) -> Result<Manifest, Refusal> {
        let script = std::fs::read_to_string(&load.artefact)
            .map_err(|error| Refusal::new(Code::Malformed, format!("the artefact: {error}")))?;
        act(script.trim());
        Ok(Manifest {
            name: load.plugin.clone(),
            version: "1.0.0".into(),
            primary: "example.com/v1/WebApp".parse().expect("a kind"),
            children: Vec::new(),
            reads: Vec::new(),
            selects: windlass_core::scope::Scope::default(),
            strict: true,
            finalizes: false,
        })
    }

    fn call(&self, call: &Call<'_>, texts: Arc<dyn Texts>) -> Called {
        let answer = match call.primary.split_once(':') {
            Some(("get", name)) => get(name, &*texts),
            Some(("list", kind)) => list(kind, &*texts),
            Some(("flood", count)) => flood(count, &*texts),
            Some(("thread", script)) => on_thread(script, &*texts),
            Some(("children", count)) => Ok(vec![String::new(); count.parse().expect("a number")]),
            Some(("bytes", count)) => Ok(vec!["x".repeat(count.parse().expect("a number"))]),
            _ => {
                act(&call.primary);
                Ok(vec![call.key.clone().into_owned()])
            }
        };
        match answer {
            Ok(children) => called(children, call.primary.len()),
            Err(refusal) => Called::failed(CallError::Refused(refusal)),
        }
    }

    fn unload(&self, _id: LoadId) {}
}

fn called(children: Vec<String>, given: usize) -> Called {
    Called {
        result: Ok(Verdict::Decision(Decision { children, ..Decision::default() })),
        read_clock: false,
        lines: Vec::new(),
        dropped_bytes: 0,
        used: Used { memory_bytes: given as u64, ..Used::default() },
    }
}

/// Does what a word says; most words are the end.
fn act(word: &str) {
    let (word, number) = word.split_once(':').unwrap_or((word, "0"));
    let number: u64 = number.parse().expect("a number");
    match word {
        "sleep" => std::thread::sleep(Duration::from_millis(number)),
        "spin" => {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(number) {}
        }
        "late" => {
            step_back(Instant::now() + Duration::from_millis(number), Duration::from_millis(8));
            std::thread::sleep(Duration::from_millis(20 * number));
        }
        "hang" => loop {
            std::thread::park();
        },
        "abort" => std::process::abort(),
        "panic" => panic!("asked to"),
        "exit" => std::process::exit(number as i32),
        "eat" => eat(),
        "garbage" => shout(&[9, 0, 0, 0, 77, 1, 2, 3, 4, 5, 6, 7, 8]),
        "length" => shout(&[0xff; 4]),
        _ => {}
    }
}

fn eat() {
    let mut eaten = Vec::new();
    loop {
        // Not written to: what is reserved counts, and a busy machine is not kept longer.
        eaten.push(Vec::<u8>::with_capacity(1 << 20));
        std::hint::black_box(&eaten);
    }
}

/// Writes to whatever is open, and then waits for what becomes of it.
#[allow(unsafe_code)]
fn shout(bytes: &[u8]) {
    for number in 3..64 {
        // SAFETY: at worst this is no descriptor and the write fails; nothing is closed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _written = rustix::io::write(descriptor, bytes);
    }
    act("hang");
}

/// Does what the words say, with milliseconds of wall time, and answers with the number of the thread.
fn on_thread(script: &str, texts: &dyn Texts) -> Result<Vec<String>, Refusal> {
    for word in script.split(',') {
        match word.split_once('=') {
            Some(("back", ms)) => step_back(in_ms(ms), Duration::from_millis(8)),
            Some(("spin", ms)) => {
                let until = in_ms(ms);
                while Instant::now() < until {}
            }
            Some(("sleep", ms)) => {
                std::thread::sleep(in_ms(ms).saturating_duration_since(Instant::now()));
            }
            Some(("hold", mib)) => hold(mib.parse().expect("a number")),
            Some(("get", name)) => drop(get(name, texts)?),
            _ => {}
        }
    }
    Ok(vec![rustix::thread::gettid().as_raw_nonzero().to_string()])
}

/// Keeps all memory that there is but so many MiB. Not written to: what is reserved counts.
fn hold(mib: usize) {
    let mut held: Vec<Vec<u8>> = Vec::with_capacity(1 << 10);
    let mut piece = Vec::new();
    while piece.try_reserve_exact(1 << 20).is_ok() {
        held.push(std::mem::take(&mut piece));
    }
    held.truncate(held.len() - mib);
    std::mem::forget(held);
}

fn in_ms(number: &str) -> Instant {
    Instant::now() + Duration::from_millis(number.parse().expect("a number"))
}

fn get(name: &str, texts: &dyn Texts) -> Result<Vec<String>, Refusal> {
    let gvk = if name == "secret" { "v1/Secret" } else { "v1/ConfigMap" };
    let of = ObjectRef { gvk: gvk.parse().expect("a kind"), namespace: "ns".into(), name: name.into() };
    Ok(texts.get(&of)?.into_iter().map(|text: Text| text.to_string()).collect())
}

fn list(count: &str, texts: &dyn Texts) -> Result<Vec<String>, Refusal> {
    let labels = vec![("count".to_owned(), count.to_owned())];
    let query = Query { gvk: "v1/ConfigMap".parse().expect("a kind"), namespace: None, labels };
    Ok(texts.list(&query)?.iter().map(|text| text.len().to_string()).collect())
}

fn flood(count: &str, texts: &dyn Texts) -> Result<Vec<String>, Refusal> {
    for _ in 0..count.parse().expect("a number") {
        get("a", texts)?;
    }
    Ok(Vec::new())
}
