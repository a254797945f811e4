//! Plays `windlass compile` in tests: does what the "component" says instead of compiling it.
//!
//! A component is a text: `<verb> [<number>]`, or `<tier>: <verb>` for what happens at one tier
//! only. It is confined as the real one is.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use windlass_core::code::{Code, Refusal};
use windlass_core::guests::Tier;
use windlass_worker::compile::serve_compile;
use windlass_worker::confine::{Confinement, Role};

fn main() {
    let number = |name: &str| -> u64 {
        let value = std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_owned));
        value.and_then(|value| value.parse().ok()).expect(name)
    };
    let confinement = Confinement {
        readable: Vec::new(),
        data_bytes: number("--data-bytes="),
        cpu: Some(Duration::from_secs(number("--cpu-seconds="))),
        role: Role::Compile,
    };
    let served = serve_compile(&confinement, |component, _, tier, output| {
        let script = std::str::from_utf8(component).expect("a text");
        // One line a tier; a line without a tier is for both.
        let own = format!("{tier:?}: ");
        let line = script.lines().find_map(|line| line.strip_prefix(own.as_str()));
        play(line.unwrap_or(script), tier, output)
    });
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(3);
    }
}

fn play(line: &str, tier: Tier, output: &mut File) -> Result<(), Refusal> {
    let (verb, number) = line.split_once(' ').unwrap_or((line, "0"));
    let number: u64 = number.parse().expect(line);
    match verb {
        "write" => write(output, number),
        "flood" => while output.write_all(&[7; 1 << 20]).is_ok() {},
        "say" => writeln!(output, "compiled for {tier:?}").expect("written"),
        "empty" => {}
        "refuse" => return Err(Refusal::new(Code::ForbiddenImport, "wasi:sockets")),
        "pretend" => return Err(Refusal::new(Code::WorkerDied, "a code that is not the compiler's")),
        "spin" => {
            for _ in 1..number {
                std::thread::spawn(spin);
            }
            spin();
        }
        "sleep" => std::thread::sleep(Duration::from_secs(3600)),
        "hoard" => hoard(),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(i32::try_from(number).expect("a code")),
        "panic" => panic!("as the test wants it"),
        "kill" => signal(libc::SIGKILL),
        "crash" => crash(),
        "garbage" => write(&mut stdin(), 100_000),
        "length" => stdin().write_all(&[255; 4]).expect("sent"),
        "steal" => steal(output),
        other => panic!("{other} is no verb"),
    }
    Ok(())
}

fn spin() {
    loop {
        std::hint::black_box(0);
    }
}

fn write(to: &mut File, bytes: u64) {
    to.write_all(&vec![7; usize::try_from(bytes).expect("small")]).expect("written");
}

/// Takes memory until there is none.
fn hoard() {
    let mut all = Vec::new();
    loop {
        all.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

/// The socket.
fn stdin() -> File {
    use std::os::fd::AsFd as _;
    File::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor"))
}

/// Tries what a compiler that was taken over might try, and writes down what worked.
fn steal(output: &mut File) {
    let tries = [
        ("read /etc/passwd", std::fs::read("/etc/passwd").is_ok()),
        ("write /tmp", std::fs::write("/tmp/windlass-stolen", b"x").is_ok()),
        ("start a program", std::process::Command::new("/bin/true").status().is_ok()),
        ("open a socket", std::net::TcpListener::bind("127.0.0.1:0").is_ok()),
        ("read the environment", std::env::vars().next().is_some()),
    ];
    let worked: Vec<&str> = tries.iter().filter(|(_, worked)| *worked).map(|(what, _)| *what).collect();
    write!(output, "stolen: {}", worked.join(", ")).expect("written");
}

/// A bad access, as a fault in the compiler would be.
#[allow(unsafe_code)]
fn crash() {
    // SAFETY: none: the first page is never mapped, and this process is to die of it.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
}

#[allow(unsafe_code)]
fn signal(number: i32) {
    // SAFETY: raises a signal in this very process, which is to die of it.
    unsafe { libc::raise(number) };
}
