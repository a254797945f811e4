//! The real compiler in the real compile child: what fits, and what ends it.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use support::{Guest, name, resident_kib};
use tempfile::TempDir;
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Compile as _, Guests as _, Load, LoadId, Tier};
use windlass_core::limits::Limits;
use windlass_core::name::Digest;
use windlass_plugin::Engine;
use windlass_worker::compile::{CompileChild, Compiling};
use windlass_worker::process::Launch;
use windlass_worker::spare::Spare;

/// What the compile child gets in the shipped pod of 512 MiB.
const POD_MIB: u64 = 320;
/// What the host may need for a compilation in another process, in KiB.
const HOST_KIB: u64 = 16 << 10;

/// The example that plays the compiler: beside the tests, built if this test was built alone.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "-q", "-p", "windlass-plugin", "--example", "compile_child"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.is_ok_and(|status| status.success()), "the example builds");
        let this = std::env::current_exe().expect("a path");
        let target = this.parent().and_then(Path::parent).expect("target/<profile>/deps");
        target.join("examples/compile_child")
    })
}

fn compile(component: &[u8], mib: u64, cpu: u64, into: &Path) -> Result<Tier, Refusal> {
    let compiling = Compiling {
        launch: Launch { program: program().to_owned(), args: Vec::new() },
        data_bytes: mib << 20,
        cpu: Duration::from_secs(cpu),
        require_sandbox: false,
    };
    CompileChild::new(compiling, Spare::new()).compile(component, &Limits::default(), into)
}

/// A function in which each of 1,000 variables has a value of its own at the head of each of `loops` loops:
/// a few kilobytes, and millions of values for the compiler.
fn bomb(loops: usize) -> Vec<u8> {
    let locals = "i32 ".repeat(1_000);
    let heads = "loop local.get 0 br_if 0 ".repeat(loops);
    let uses: String =
        (0..1_000).map(|i| format!("local.get {i} i32.const 1 i32.add local.set {i} ")).collect();
    let ends = "end ".repeat(loops);
    let fields = format!("(func $bomb (local {locals}) {heads} {uses} {ends})");
    Guest { fields: &fields, ..Guest::default() }.build()
}

/// One test, because it looks at the memory of the whole process.
#[test]
fn a_compile_bomb_ends_with_its_code_and_the_host_does_not_notice() {
    let root = TempDir::new().expect("a directory");
    let into = root.path().join("artefact");
    let bomb = bomb(4_000);
    assert!(bomb.len() < 64 << 10, "{} bytes", bomb.len());
    program();
    let before = resident_kib();
    let refusal = compile(&bomb, POD_MIB, 120, &into).expect_err("more memory than there is");
    assert_eq!(refusal.code, Code::CompileMemory, "{refusal}");
    assert!(refusal.message.contains("320 MiB"), "{refusal}");
    println!("{refusal}");
    let refusal = compile(&bomb, 4096, 1, &into).expect_err("more time than there is");
    assert_eq!(refusal.code, Code::CompileTimeout, "{refusal}");
    println!("{refusal}");
    assert!(!into.exists());
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < HOST_KIB, "{grown} KiB more than before");

    // With less memory than the first tier needs, the second serves.
    let component =
        std::fs::read(windlass_testbed::component("windlass-fixtures-typed", None).expect("built"));
    let component = component.expect("there");
    let before = resident_kib();
    for (mib, tier) in [(POD_MIB, Tier::Optimised), (144, Tier::Cheap)] {
        let _ = std::fs::remove_file(&into);
        assert_eq!(compile(&component, mib, 300, &into), Ok(tier), "within {mib} MiB");
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < HOST_KIB, "{grown} KiB more than before");
    }
    // One engine runs what either tier made.
    let engine = Engine::new(&Limits::default()).expect("an engine");
    let load = Load {
        id: LoadId(1),
        plugin: name("typed"),
        digest: Digest::of(&component),
        artefact: into,
        limits: Limits::default(),
    };
    assert_eq!(engine.load(&load).expect("it loads").name, name("typed"));
}
