//! The compile child, with real processes: every way to end, and what is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Compile, Tier};
use windlass_core::limits::Limits;
use windlass_worker::compile::{CompileChild, Compiling};
use windlass_worker::process::Launch;
use windlass_worker::spare::Spare;

/// The example that plays the compiler: beside the tests, built if this test was built alone.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "-q", "-p", "windlass-worker", "--example", "fake_compiler"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.is_ok_and(|status| status.success()), "the example builds");
        let this = std::env::current_exe().expect("a path");
        let target = this.parent().and_then(Path::parent).expect("target/<profile>/deps");
        target.join("examples/fake_compiler")
    })
}

struct Scene {
    root: TempDir,
    child: CompileChild,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Compiling)) -> Self {
        let mut compiling = Compiling {
            launch: Launch { program: program().to_owned(), args: vec!["compile".into()] },
            data_bytes: 64 << 20,
            cpu: Duration::from_secs(1),
            require_sandbox: false,
        };
        change(&mut compiling);
        Self { root: TempDir::new().expect("a directory"), child: CompileChild::new(compiling, Spare::new()) }
    }

    fn artefact(&self) -> PathBuf {
        self.root.path().join("artefact")
    }

    fn compile(&self, script: &str) -> Result<Tier, Refusal> {
        self.child.compile(script.as_bytes(), &Limits::default(), &self.artefact())
    }

    /// What it is refused with; nothing may be left.
    fn refused(&self, script: &str) -> Refusal {
        let refusal = self.compile(script).expect_err(script);
        assert!(!self.artefact().exists(), "{script} leaves a file");
        refusal
    }
}

#[test]
fn the_child_writes_a_file_that_it_could_not_have_opened() {
    let scene = Scene::new();
    assert_eq!(scene.compile("say"), Ok(Tier::Optimised));
    assert_eq!(fs::read_to_string(scene.artefact()).expect("written"), "compiled for Optimised\n");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(scene.artefact()).expect("there"));
    assert_eq!(mode & 0o777, 0o600);
    let again = scene.compile("say").expect_err("never over a file that is there");
    assert_eq!(again.code, Code::CompileFailed);
    assert!(scene.artefact().exists(), "and that one is left alone");
}

#[test]
fn a_compiler_that_was_taken_over_gets_nothing() {
    let scene = Scene::new();
    scene.compile("steal").expect("it lives");
    assert_eq!(fs::read_to_string(scene.artefact()).expect("written"), "stolen: ");
}

#[test]
fn a_refusal_travels_and_only_with_the_compilers_own_codes() {
    let scene = Scene::new();
    let refusal = scene.refused("refuse");
    assert_eq!((refusal.code, refusal.message.as_str()), (Code::ForbiddenImport, "wasi:sockets"));
    assert_eq!(scene.refused("pretend").code, Code::CompileFailed);
}

#[test]
fn too_much_time_or_memory_is_tried_again_at_the_cheap_tier() {
    let scene = Scene::new();
    for first in ["spin", "hoard", "abort"] {
        assert_eq!(scene.compile(&format!("Optimised: {first}\nCheap: say")), Ok(Tier::Cheap), "{first}");
        assert_eq!(fs::read_to_string(scene.artefact()).expect("written"), "compiled for Cheap\n");
        fs::remove_file(scene.artefact()).expect("removed");
    }
    // A refusal is about the component: no other tier would change it.
    assert_eq!(scene.refused("Optimised: refuse\nCheap: say").code, Code::ForbiddenImport);
}

#[test]
fn cpu_time_memory_and_wall_time_are_bounded() {
    let scene = Scene::new();
    let begun = Instant::now();
    let refusal = scene.refused("spin");
    assert_eq!(refusal.code, Code::CompileTimeout, "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?} for two attempts of 1 s of CPU", begun.elapsed());
    // On two processors its CPU time is over before as much wall time is.
    let refusal = scene.refused("spin 2");
    assert_eq!(refusal.code, Code::CompileTimeout, "{refusal}");
    let begun = Instant::now();
    let refusal = scene.refused("sleep");
    assert_eq!(refusal.code, Code::CompileTimeout, "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?} for two attempts of 2 s", begun.elapsed());
    let refusal = scene.refused("hoard");
    assert_eq!(refusal.code, Code::CompileMemory, "{refusal}");
    assert!(refusal.message.contains("64 MiB") && refusal.message.contains("without optimisation too"));
}

#[test]
fn a_file_that_grows_without_end_is_bounded() {
    let refusal = Scene::with(|compiling| compiling.cpu = Duration::from_secs(20)).refused("flood");
    assert_eq!(refusal.code, Code::TooComplex, "{refusal}");
}

#[test]
fn whatever_else_a_child_does_is_a_refusal() {
    let scene = Scene::new();
    for (script, code, word) in [
        ("exit 0", Code::CompileFailed, "exited with code 0"),
        ("exit 7", Code::CompileFailed, "exited with code 7"),
        ("crash", Code::CompileFailed, "signal 11"),
        ("kill", Code::CompileMemory, "signal 9"),
        ("panic", Code::CompileFailed, "panicked"),
        ("garbage", Code::CompileFailed, "nonsense"),
        ("length", Code::CompileFailed, "nonsense"),
        ("empty", Code::CompileFailed, "wrote 0 bytes"),
    ] {
        let refusal = scene.refused(script);
        assert_eq!(refusal.code, code, "{script}: {refusal}");
        assert!(refusal.message.contains(word), "{script}: {refusal}");
    }
    assert_eq!(scene.compile("say"), Ok(Tier::Optimised), "the next one is not touched");
}

#[test]
fn a_program_that_is_not_there_or_is_no_compiler_is_a_refusal() {
    for program in ["/nonexistent/windlass", "/bin/true"] {
        let scene = Scene::with(|compiling| compiling.launch.program = program.into());
        assert_eq!(scene.refused("say").code, Code::CompileFailed, "{program}");
    }
}

#[test]
fn neither_processes_nor_descriptors_are_left_behind() {
    let scene = Scene::new();
    let zombies = || {
        let tasks = fs::read_dir("/proc/self/task").expect("linux").flatten();
        let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let all = children.collect::<String>();
        let state = |id: &str| fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        all.split_whitespace().filter(|id| state(id).contains(") Z ")).count()
    };
    let descriptors = || fs::read_dir("/proc/self/fd").expect("linux").flatten().count();
    scene.refused("exit 1");
    let before = descriptors();
    for _ in 0..10 {
        for script in ["exit 1", "abort", "refuse", "garbage"] {
            scene.refused(script);
        }
    }
    // Other tests of this file run beside it: their processes come and go.
    let until = Instant::now() + Duration::from_secs(60);
    while (descriptors() > before + 24 || zombies() > 0) && Instant::now() < until {
        std::thread::yield_now();
    }
    assert!(descriptors() <= before + 24, "{before} descriptors have become {}", descriptors());
    assert_eq!(zombies(), 0);
}

#[test]
fn compilations_wait_for_each_other_and_for_whoever_holds_the_spare_memory() {
    let spare = Spare::new();
    let compiling = Compiling {
        launch: Launch { program: program().to_owned(), args: Vec::new() },
        data_bytes: 64 << 20,
        cpu: Duration::from_secs(5),
        require_sandbox: false,
    };
    let child = Arc::new(CompileChild::new(compiling, Arc::clone(&spare)));
    let root = TempDir::new().expect("a directory");
    let held = spare.take(None).expect("free");
    std::thread::scope(|threads| {
        let compiled: Vec<_> = (0..3)
            .map(|number| {
                let (child, into) = (Arc::clone(&child), root.path().join(number.to_string()));
                threads.spawn(move || child.compile(b"say", &Limits::default(), &into))
            })
            .collect();
        while !spare.wanted() {
            std::thread::yield_now();
        }
        assert!(compiled.iter().all(|thread| !thread.is_finished()));
        drop(held);
        for thread in compiled {
            assert_eq!(thread.join().expect("no panic"), Ok(Tier::Optimised));
        }
    });
}

#[test]
fn a_host_that_ends_does_not_wait_for_a_compiler() {
    let scene = Scene::with(|compiling| compiling.cpu = Duration::from_secs(60));
    let begun = Instant::now();
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| scene.refused("sleep"));
        // Its output is there before the child is.
        while !scene.artefact().exists() {
            std::thread::yield_now();
        }
        scene.child.shutdown();
        let refusal = waiting.join().expect("no panic");
        assert!(refusal.message.contains("the host is ending"), "{refusal}");
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(scene.refused("say").code, Code::CompileFailed);
}
