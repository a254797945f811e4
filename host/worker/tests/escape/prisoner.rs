//! Prisoner: the process that tries, and the victim that plays its host.

use std::ffi::CStr;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use windlass_worker::confine::{self, Confinement, Role};

use crate::attempts;
use crate::cell::{Cell, Got, SECRET};

/// What a line begins with when something was got; whoever gets to run a program says it too.
pub(crate) const ESCAPED: &CStr = c"ESCAPED";
/// The limit of a prisoner's memory in bytes.
pub(crate) const DATA_BYTES: u64 = 128 << 20;
/// The limit of the one that wants all memory there is.
pub(crate) const BOMB_BYTES: u64 = 64 << 20;

/// `prisoner <fences> <thread> <host> <address> <folder> <attempt>`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let [fences, thread, host, address, folder, attempt] = args else {
        return ExitCode::from(2);
    };
    let cell = Cell {
        host: host.parse().expect("a process"),
        address: address.parse().expect("an address"),
        folder: PathBuf::from(folder),
    };
    // SAFETY: an integer; ends a prisoner that an attempt leaves waiting.
    unsafe { libc::alarm(20) };
    let fences = match fences.strip_prefix("old ") {
        Some(fences) => {
            older_kernel();
            fences
        }
        None => fences,
    };
    if fences != "free" {
        let report = confine::apply(&confinement(fences, &cell)).expect("confined");
        println!("REPORT {} {report}", report.is_complete());
    }
    let attempt = attempt.clone();
    let tries = move || {
        let said = tries(&attempt, &cell);
        println!("{said}");
    };
    if thread == "later" {
        std::thread::Builder::new()
            .name("lane".to_owned())
            .spawn(tries)
            .expect("a thread")
            .join()
            .expect("joined");
    } else {
        tries();
    }
    ExitCode::SUCCESS
}

/// From here on the kernel, or the pod's own filter, knows neither Landlock nor `close_range`.
fn older_kernel() {
    let missing = [
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
        libc::SYS_close_range,
    ];
    let arch = std::env::consts::ARCH.try_into().expect("an architecture");
    let rules = missing.into_iter().map(|call| (call, Vec::new())).collect();
    let answer = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("installed");
}

fn confinement(fences: &str, cell: &Cell) -> Confinement {
    let (role, readable, data_bytes) = match fences {
        "worker" => (Role::Worker, vec![cell.folder.join("artefacts")], DATA_BYTES),
        "compile" => (Role::Compile, Vec::new(), DATA_BYTES),
        _ => (Role::Worker, Vec::new(), BOMB_BYTES),
    };
    Confinement { readable, data_bytes, cpu: (role == Role::Compile).then_some(Duration::from_secs(1)), role }
}

fn tries(attempt: &str, cell: &Cell) -> String {
    let got = match attempt {
        "works" => works(cell),
        "bomb" => bomb(),
        "ask" => ask(),
        "burn" => burn(),
        "abort" => std::process::abort(),
        name => {
            let row = attempts::all().find(|row| row.name == name).expect("in the table");
            return match (row.run)(cell) {
                Ok(got) => format!("{} {got}", ESCAPED.to_string_lossy()),
                Err(why) => format!("NOTHING {why}"),
            };
        }
    };
    match got {
        Ok(done) => format!("DONE {done}"),
        Err(why) => format!("FAILED {why}"),
    }
}

/// All that an honest worker does.
fn works(cell: &Cell) -> Got {
    let say = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let mut text = String::new();
    let mut file = std::fs::File::open(cell.folder.join("artefacts/one")).map_err(|e| say("open", e))?;
    let length = file.metadata().map_err(|e| say("metadata", e))?.len();
    file.read_to_string(&mut text).map_err(|e| say("read", e))?;
    if text != "code" || length != 4 {
        return Err(format!("the artefact says {text}, {length} bytes"));
    }
    let lanes: Vec<_> = (0..8_usize)
        .map(|lane| {
            std::thread::Builder::new().name(format!("lane-{lane}")).spawn(move || vec![1_u8; 1 << 20].len())
        })
        .collect::<Result<_, _>>()
        .map_err(|e| say("thread", e))?;
    for lane in lanes {
        lane.join().map_err(|_| "a lane panicked")?;
    }
    mapped_code()?;
    let _ = (rustix::param::page_size(), std::thread::available_parallelism());
    let mut socket = {
        use std::os::fd::AsFd;
        UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(|e| say("clone", e))?)
    };
    socket.set_read_timeout(Some(Duration::from_millis(20))).map_err(|e| say("timeout", e))?;
    let silence = socket.read(&mut [0; 1]).expect_err("nobody writes").kind();
    if silence != std::io::ErrorKind::WouldBlock {
        return Err(format!("reading ends with {silence}"));
    }
    socket.write_all(b"hello").map_err(|e| say("write", e))?;
    std::thread::sleep(Duration::from_millis(1));
    rustix::process::setpriority_process(None, 10).map_err(|e| say("step back", e.into()))?;
    std::thread::spawn(last).join().expect("no panic").map_err(|e| say("wait for everybody", e))?;
    if std::panic::catch_unwind(|| panic!("on purpose")).is_ok() {
        return Err("no panic".to_owned());
    }
    let chance = std::collections::hash_map::RandomState::new();
    Ok(format!("a random state {:?}, {:?} passed", black_box(chance), std::time::Instant::now().elapsed()))
}

/// Has this thread run when nobody else wants to.
fn last() -> std::io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one parameter, which lives here.
    let done =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const priority) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Writes machine code and runs it, as a compiler at run time does.
fn mapped_code() -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    let code: &[u8] = &[0xb8, 42, 0, 0, 0, 0xc3];
    #[cfg(target_arch = "aarch64")]
    let code: &[u8] = &[0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6];
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh page, written within its bounds, then only run.
    let answer = unsafe {
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(format!("mmap: {}", std::io::Error::last_os_error()));
        }
        std::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
        if libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            return Err(format!("mprotect: {}", std::io::Error::last_os_error()));
        }
        std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> i32>(page)()
    };
    if answer == 42 { Ok(()) } else { Err(format!("the code answers {answer}")) }
}

/// Eight lanes take memory and touch it until there is no more: an abort.
fn bomb() -> Got {
    let lanes: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                let mut kept = Vec::new();
                loop {
                    kept.push(black_box(vec![1_u8; 1 << 20]));
                }
            })
        })
        .collect();
    for lane in lanes {
        let _: Result<(), _> = lane.join();
    }
    Err("the bomb ended".to_owned())
}

/// As much, but asking politely: each request that is too much is refused.
fn ask() -> Got {
    let mut kept: Vec<Vec<u8>> = Vec::with_capacity(4096);
    for _ in 0..4096 {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(1 << 20).is_err() {
            drop(kept.split_off(kept.len() / 2));
            return Ok(format!("{} MiB, then refused", kept.len() * 2));
        }
        piece.resize(1 << 20, 1);
        kept.push(piece);
    }
    Err("four gigabytes were given".to_owned())
}

/// Takes time without end.
fn burn() -> Got {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Keeps a secret in memory, says where, and says it again when asked whether it is well.
pub(crate) fn victim(hidden: bool) -> ExitCode {
    assert!(!hidden || confine::hide(), "the host is hidden");
    // One attempt without the fences sends this, and the drill goes on.
    // SAFETY: no handler, and no other thread that might set one.
    unsafe { libc::signal(libc::SIGABRT, libc::SIG_IGN) };
    let secret = SECRET.to_owned();
    println!("{}", secret.as_ptr() as usize);
    let mut asked = [0; 1];
    while std::io::stdin().read(&mut asked).is_ok_and(|length| length > 0) {
        println!("{}", black_box(&secret));
    }
    ExitCode::SUCCESS
}
